from __future__ import annotations

import sys

import numpy as np
import pytest
from reference.anomaly_dino_reference import mean_of_k_nearest

from inverted_lists import (
    InvertedLists,
    choose_probes,
    default_num_lists,
    lists_size_bytes,
    train_centroids,
)
from nearest_neighbours import CosineSearch, unit_vectors
from refusals import InspectionRefused

TOLERANCE = {"fp32": 1e-6, "fp16": 2**-12 + 1e-6, "bf16": 2**-9 + 1e-6}
"""Rounded rows times unit vectors cannot be wrong by more than half a unit in the last place."""


def tokens(count, dim=48, seed=0, spread=0.3):
    """Patch tokens of 20 kinds."""
    kinds = np.random.default_rng(9).normal(size=(20, dim))
    rng = np.random.default_rng(seed)
    noise = spread * rng.normal(size=(count, dim))
    return unit_vectors((kinds[rng.integers(20, size=count)] + noise).astype(np.float32))


BANK = tokens(3000)
QUERIES = tokens(50, seed=1, spread=0.5)


@pytest.fixture(scope="module")
def centroids():
    return train_centroids(BANK, 32, seed=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("k", [1, 3])
def test_all_lists_give_the_reference(precision, k, centroids):
    index = InvertedLists(BANK, centroids, 32, k, precision)
    found = index.distances(QUERIES)
    assert found.shape == (50,)
    assert found.dtype == np.float32
    expected = mean_of_k_nearest(QUERIES, BANK, k)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE[precision])


def test_one_list_by_hand():
    bank = np.array([[1, 0], [0.96, 0.28], [0.6, 0.8], [0, 1]], np.float32)
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    query = np.array([[0.8, 0.6]], np.float32)  # in the first list, nearest to row 2 of the second
    for probes, k, expected in [(1, 1, 0.064), (1, 2, 0.132), (2, 1, 0.04), (2, 2, 0.052)]:
        index = InvertedLists(bank, centroids, probes, k)
        assert index.distances(query) == pytest.approx(expected, abs=1e-6)


def test_lists_too_short_for_k_neighbours_are_not_the_only_ones_visited():
    bank = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    found = InvertedLists(bank, centroids, 1, 2).distances(queries)
    assert found == pytest.approx([0.2, 0.1], abs=1e-6)


def test_what_is_missed_only_makes_distances_larger(centroids):
    exact = mean_of_k_nearest(QUERIES, BANK, 1)
    errors = [InvertedLists(BANK, centroids, n).distances(QUERIES) - exact for n in (1, 2, 4, 32)]
    assert errors[0].max() > 1e-3
    assert all(error.min() >= -1e-6 for error in errors)
    assert errors[0].sum() >= errors[1].sum() >= errors[2].sum() >= errors[3].sum()


def test_distances_are_in_bounds(centroids):
    for precision in TOLERANCE:
        index = InvertedLists(BANK, centroids, 1, precision=precision)
        assert index.distances(BANK).min() >= 0.0
        assert index.distances(-BANK).max() <= 2.0


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-5])
def test_probes_are_the_first_power_of_two_that_suffices(tolerance, centroids):
    exact = CosineSearch(BANK, 50).distances(QUERIES)
    index = InvertedLists(BANK, centroids, 1)
    chosen = choose_probes(index, QUERIES, exact, tolerance)
    assert index.num_probes == chosen
    assert np.abs(index.distances(QUERIES) - exact).max() <= tolerance
    if chosen > 1:
        fewer = InvertedLists(BANK, centroids, chosen // 2).distances(QUERIES)
        assert np.abs(fewer - exact).max() > tolerance


def test_probes_end_at_all_lists():
    some = train_centroids(BANK, 20, seed=0)
    index = InvertedLists(BANK, some, 1)
    assert choose_probes(index, QUERIES, np.full(50, -1.0, np.float32), 0.0) == 20


def test_centroids_are_unit_vectors_that_depend_on_the_seed_alone(centroids):
    assert centroids.shape == (32, 48)
    assert centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(train_centroids(BANK, 32, seed=0), centroids)
    assert not np.array_equal(train_centroids(BANK, 32, seed=1), centroids)


def test_centroids_are_near_their_rows(centroids):
    by_chance = BANK[:32]
    assert (1 - (BANK @ centroids.T).max(axis=1)).mean() < (
        0.8 * (1 - (BANK @ by_chance.T).max(axis=1)).mean()
    )


def test_bank_may_be_a_memory_map(tmp_path, centroids):
    np.save(tmp_path / "bank.npy", BANK)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    np.testing.assert_array_equal(train_centroids(mapped, 32, seed=0), centroids)
    np.testing.assert_array_equal(
        InvertedLists(mapped, centroids, 2).distances(QUERIES),
        InvertedLists(BANK, centroids, 2).distances(QUERIES),
    )


def test_rows_beyond_the_first_block_are_searched(centroids):
    bank = np.concatenate([np.tile(BANK, (6, 1)), QUERIES])
    np.testing.assert_allclose(InvertedLists(bank, centroids, 1).distances(QUERIES), 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "lists"),
    [(1, 1), (77, 1), (78, 2), (8192, 210), (20480, 512), (204_800, 2048), (10**6, 4096)],
)
def test_default_number_of_lists(rows, lists):
    assert default_num_lists(rows) == lists


@pytest.mark.parametrize("num_lists", [0, 3001])
def test_impossible_number_of_lists_is_refused(num_lists):
    with pytest.raises(ValueError, match=f"cannot make {num_lists} lists of 3000"):
        train_centroids(BANK, num_lists, seed=0)


@pytest.mark.parametrize("probes", [0, 33])
def test_impossible_number_of_probes_is_refused(probes, centroids):
    with pytest.raises(ValueError, match=f"cannot visit {probes} of 32"):
        InvertedLists(BANK, centroids, probes)


def test_what_does_not_fit_is_refused(centroids):
    for wrong in (centroids[:, :-1], centroids[0], centroids[:0]):
        with pytest.raises(ValueError, match=r"expected \(L, 48\)"):
            InvertedLists(BANK, wrong, 1)
    with pytest.raises(ValueError, match="M at least 3"):
        InvertedLists(BANK[:2], centroids, 1, num_neighbours=3)


MEASURED_BYTES = {
    (8192, "fp32", 210): 23.4e6,
    (20480, "fp16", 512): 37.0e6,
    (204800, "fp32", 2048): 447.3e6,
    (204800, "fp16", 2048): 243.1e6,
}
"""Growth of the resident set with FAISS 1.15, D = 384."""


@pytest.mark.parametrize(("rows", "precision", "num_lists"), MEASURED_BYTES)
def test_size_is_what_was_measured(rows, precision, num_lists):
    estimate = lists_size_bytes(rows, 384, precision, num_lists)
    assert estimate == pytest.approx(MEASURED_BYTES[rows, precision, num_lists], rel=0.25)


def test_missing_faiss_names_what_to_install(monkeypatch, centroids):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InspectionRefused, match=r"pip install 'dinspect\[serve\]'"):
        train_centroids(BANK, 4, seed=0)
    with pytest.raises(InspectionRefused, match="choose the exact search"):
        InvertedLists(BANK, centroids, 1)
