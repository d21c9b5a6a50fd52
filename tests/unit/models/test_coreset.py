from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import greedy_coreset as slow_coreset
from reference.anomaly_dino_reference import patch_distances

import coreset
from coreset import coreset_size, greedy_coreset
from nearest_neighbours import unit_vectors


def exact_vectors(count, dim, seed=0):
    """Unit vectors whose products have no rounding error, with many ties and twins."""
    rng = np.random.default_rng(seed)
    return (rng.choice([-1.0, 1.0], size=(count, dim)) / np.sqrt(dim)).astype(np.float32)


@pytest.fixture(params=[1, 7, 60, 1024])
def _candidates(request, monkeypatch):
    monkeypatch.setattr(coreset, "_CANDIDATES", request.param)
    monkeypatch.setattr(coreset, "_BLOCK_ROWS", 97)


@pytest.mark.usefixtures("_candidates")
@pytest.mark.parametrize("dim", [4, 16, 64])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_choose_what_one_row_at_a_time_would(dim, seed):
    bank = exact_vectors(300, dim, seed)
    for size in (1, 2, 30, 150, 300):
        assert greedy_coreset(bank, size).tolist() == slow_coreset(bank, size)


@pytest.mark.usefixtures("_candidates")
@pytest.mark.parametrize("seed", range(3))
def test_blocks_choose_so_among_patch_tokens_too(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 384))
    tokens = centres[rng.integers(12, size=500)] + 0.3 * rng.normal(size=(500, 384)) + 1.0
    bank = unit_vectors(tokens.astype(np.float32))
    assert greedy_coreset(bank, 80).tolist() == slow_coreset(bank, 80)


@pytest.mark.parametrize(
    ("size", "rows"), [(1, [3]), (2, [2, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (5, range(5))]
)
def test_angles_by_hand(size, rows):
    """The mean points to 33 degrees: 90 is farthest from it and 0 from that, the first of the twins
    at 0. Then 41 is 41 degrees from the nearer of both, 40 only 40; the other twin comes last."""
    degrees = np.radians([40.0, 41.0, 0.0, 90.0, 0.0])
    bank = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    assert greedy_coreset(bank, size).tolist() == list(rows)


def test_coreset_covers_better_than_chance():
    rng = np.random.default_rng(3)
    tokens = rng.normal(size=(8, 32))[rng.integers(8, size=2000)]
    bank = unit_vectors((tokens + 0.2 * rng.normal(size=tokens.shape)).astype(np.float32))
    radius = patch_distances(bank, bank[greedy_coreset(bank, 200)]).max()
    by_chance = [patch_distances(bank, bank[rng.permutation(2000)[:200]]).max() for _ in range(5)]
    assert radius < min(by_chance)


def test_rows_are_distinct_ascending_and_int64():
    bank = np.repeat(exact_vectors(3, 16), 50, axis=0)
    rows = greedy_coreset(bank, 20)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert {0, 50, 100} <= set(rows.tolist())


def test_bank_may_be_a_memory_map(tmp_path):
    bank = exact_vectors(200, 16)
    np.save(tmp_path / "bank.npy", bank)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    assert greedy_coreset(mapped, 50).tolist() == greedy_coreset(bank, 50).tolist()


@pytest.mark.parametrize("size", [0, -1, 201])
def test_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match=f"cannot choose {size} of 200"):
        greedy_coreset(exact_vectors(200, 16), size)


def test_size_is_rounded_down_but_never_to_nothing():
    assert [coreset_size(1029, 0.1), coreset_size(5, 0.1), coreset_size(7, 1.0)] == [102, 1, 7]


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, np.nan])
def test_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="share"):
        coreset_size(100, fraction)
