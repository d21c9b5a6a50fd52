from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import image_score, mean_of_k_nearest, patch_distances

import nearest_neighbours
from dinspect_client.wire import Verdict
from image_score import top_fraction_mean, verdict
from nearest_neighbours import (
    CosineSearch,
    offered_precisions,
    search_precision,
    search_size_bytes,
    unit_vectors,
)

TOLERANCE = {
    "fp32": {"atol": 1e-6, "rtol": 0.0},
    "fp16": {"atol": 2e-4, "rtol": 2**-11},
    "bf16": {"atol": 1.5e-3, "rtol": 2**-8},
}
"""Of a cosine distance: the result is rounded once (relative, half a unit in the last place of the
format), and the unit vectors were rounded before (absolute, however small the distance)."""

OFFERED = offered_precisions()


def only_if_offered(precision):
    if precision not in OFFERED:
        pytest.skip(f"this processor has no units for {precision}")


def vectors(count, dim=384, seed=0):
    # A common direction, so that distances are small as between real patch tokens.
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, dim)) * 0.4 + rng.normal(size=dim)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rows", [1, 1023, 1024, 2500])
def test_distances_equal_the_reference(precision, rows):
    only_if_offered(precision)
    queries, bank = vectors(64, seed=1), vectors(rows, seed=1)[::-1] * 3.0
    bank = bank + np.float32(0.05)
    found = CosineSearch(unit_vectors(bank), 64, precision).distances(unit_vectors(queries))
    assert found.shape == (64,)
    np.testing.assert_allclose(found, patch_distances(queries, bank), **TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_hand_computed_cases(precision):
    only_if_offered(precision)
    bank = np.eye(3, dtype=np.float32)[:2]
    half = np.sqrt(np.float32(0.5))
    queries = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [half, half, 0]], dtype=np.float32
    )
    found = CosineSearch(bank, 5, precision).distances(queries)
    np.testing.assert_allclose(found, [0, 0, 1, 1, 1 - half], **TOLERANCE[precision])
    only = CosineSearch(bank[:1], 5, precision).distances(queries)
    np.testing.assert_allclose(only, [0, 1, 1, 2, 1 - half], **TOLERANCE[precision])


def test_distance_is_never_negative():
    bank = unit_vectors(vectors(2000))
    for precision in OFFERED:
        assert CosineSearch(bank, 2000, precision).distances(bank).min() >= 0.0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(("rows", "k"), [(3, 3), (700, 1), (1024, 63), (1024, 64), (2500, 3)])
def test_mean_of_the_nearest_equals_the_reference(precision, rows, k):
    only_if_offered(precision)
    queries, bank = vectors(16, seed=1), vectors(rows, seed=1) + np.float32(0.05)
    search = CosineSearch(unit_vectors(bank), 16, precision, num_neighbours=k)
    found = search.distances(unit_vectors(queries))
    np.testing.assert_allclose(found, mean_of_k_nearest(queries, bank, k), **TOLERANCE[precision])


def test_neighbours_of_one_kind_are_counted_each():
    bank = np.repeat(np.eye(3, dtype=np.float32), [2, 2, 1], axis=0)
    query = np.array([[0.8, 0.6, 0.0]], np.float32)
    for k, expected in enumerate([0.2, 0.2, 0.8 / 3, 0.3, 0.44], start=1):
        assert CosineSearch(bank, 1, num_neighbours=k).distances(query) == pytest.approx(expected)


def test_every_neighbour_is_at_a_distance_of_0_or_more():
    bank = unit_vectors(np.repeat(vectors(20), 5, axis=0))
    for precision in OFFERED:
        search = CosineSearch(bank, 100, precision, num_neighbours=3)
        assert search.distances(bank).min() >= 0.0


GROUPS = np.repeat([2, 3, 7, 9], [5, 1100, 1, 40])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("group", [2, 3, 7, 9, 5])
def test_a_group_can_be_left_out(group, k):
    bank, queries = unit_vectors(vectors(len(GROUPS), seed=2)), unit_vectors(vectors(8, seed=3))
    search = CosineSearch(bank, 8, num_neighbours=k, groups=GROUPS)
    np.testing.assert_allclose(
        search.distances_without(queries, group),
        mean_of_k_nearest(queries, bank[group != GROUPS], k),
        atol=1e-6,
    )
    np.testing.assert_allclose(
        search.distances(queries), mean_of_k_nearest(queries, bank, k), atol=1e-6
    )


def test_too_few_rows_without_the_group_are_refused():
    bank = unit_vectors(vectors(6, dim=4))
    search = CosineSearch(bank, 6, num_neighbours=3, groups=np.array([0, 0, 0, 0, 1, 1]))
    assert search.distances_without(bank, 1).shape == (6,)
    with pytest.raises(ValueError, match="2 rows remain without group 0, fewer than the 3"):
        search.distances_without(bank, 0)


@pytest.mark.parametrize("groups", [[0, 1], [0, 2, 1], [[0, 0, 0]]])
def test_groups_that_are_not_one_ascending_label_per_row_are_refused(groups):
    with pytest.raises(ValueError, match="one group label for each of 3 rows"):
        CosineSearch(np.eye(3, dtype=np.float32), 1, groups=np.array(groups))


def test_a_bank_may_be_a_memory_map(tmp_path):
    bank, queries = unit_vectors(vectors(2100)), unit_vectors(vectors(4, seed=5))
    np.save(tmp_path / "bank.npy", bank)
    mapped = np.load(tmp_path / "bank.npy", mmap_mode="r")
    for precision in OFFERED:
        found = CosineSearch(mapped, 4, precision).distances(queries)
        np.testing.assert_array_equal(found, CosineSearch(bank, 4, precision).distances(queries))


def test_size_tells_the_memory_before_and_after_compilation():
    bank = unit_vectors(vectors(5000))
    for precision in OFFERED:
        size_bytes = CosineSearch(bank, 4, precision).size_bytes
        assert size_bytes == search_size_bytes(5000, 384, precision)
    assert CosineSearch(bank, 4, groups=np.arange(5000) // 100).size_bytes > search_size_bytes(
        5000, 384, "fp32"
    )


MEASURED_BYTES = {
    (8192, "fp32"): 38.9e6,
    (8192, "fp16"): 23.8e6,
    (204800, "fp32"): 657.1e6,
    (204800, "fp16"): 342.5e6,
    (204800, "bf16"): 342.3e6,
}
"""Growth of the resident set on an Intel Xeon with AMX, OpenVINO 2026.4, D = 384, N = 1024."""


@pytest.mark.parametrize(("rows", "precision"), MEASURED_BYTES)
def test_size_is_what_was_measured(rows, precision):
    estimate = search_size_bytes(rows, 384, precision)
    assert estimate == pytest.approx(MEASURED_BYTES[rows, precision], rel=0.25)


@pytest.mark.parametrize(
    ("bank", "k"),
    [
        (np.zeros((0, 4), np.float32), 1),
        (np.zeros(4, np.float32), 1),
        (np.eye(4, dtype=np.float32), 5),
    ],
)
def test_bank_with_too_few_rows_is_refused(bank, k):
    with pytest.raises(ValueError, match=f"M at least {k}"):
        CosineSearch(bank, 1, num_neighbours=k)


def test_mean_of_no_neighbour_is_refused():
    with pytest.raises(ValueError, match="1 or more"):
        CosineSearch(np.eye(4, dtype=np.float32), 1, num_neighbours=0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_tokens_without_direction_are_refused(value):
    tokens = np.ones((3, 4), np.float32)
    tokens[1] = value
    with pytest.raises(ValueError, match="zero or not finite"):
        unit_vectors(tokens)


def test_automatic_precision_is_the_fastest_that_is_offered(monkeypatch):
    assert search_precision("auto") == OFFERED[0]
    for offered in (("bf16", "fp32", "fp16"), ("fp32", "fp16"), ("fp32",)):
        monkeypatch.setattr(
            nearest_neighbours, "offered_precisions", lambda offered=offered: offered
        )
        assert search_precision("auto") == offered[0]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_precision_without_units_is_never_used_under_its_name(monkeypatch, precision):
    """OpenVINO would compute FP16 in BF16; the version must not record what was not done."""
    monkeypatch.setattr(nearest_neighbours, "offered_precisions", lambda: ("fp32",))
    assert search_precision(precision) == "fp32"
    with pytest.raises(ValueError, match=f"precision is '{precision}', this processor has fp32"):
        CosineSearch(np.eye(4, dtype=np.float32), 1, precision)
    monkeypatch.setattr(nearest_neighbours, "offered_precisions", lambda: (precision, "fp32"))
    assert search_precision(precision) == precision


@pytest.mark.parametrize("count", [1, 50, 99, 100, 199, 200, 1024, 1344])
def test_score_is_the_mean_of_the_top_percent(count):
    distances = np.random.default_rng(count).random(count).astype(np.float32)
    assert top_fraction_mean(distances) == pytest.approx(image_score(distances), rel=1e-6)


def test_score_by_hand():
    distances = np.zeros(300, np.float32)
    distances[[7, 100, 299]] = 0.9, 0.6, 0.3
    assert top_fraction_mean(distances) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("anomaly_score", "normal_below", "threshold", "expected"),
    [
        (0.5, 0.5, 0.5, Verdict.NORMAL),
        (np.nextafter(0.5, 1), 0.5, 0.5, Verdict.ANOMALOUS),
        (0.3, 0.2, 0.5, Verdict.UNDECIDED),
        (0.5, 0.2, 0.5, Verdict.UNDECIDED),
        (0.2, 0.2, 0.5, Verdict.NORMAL),
        (0.6, 0.7, 0.5, Verdict.ANOMALOUS),
        (np.nan, 0.5, 0.5, Verdict.ANOMALOUS),
        (0.1, np.nan, np.nan, Verdict.ANOMALOUS),
    ],
)
def test_only_a_score_that_is_low_enough_is_normal(
    anomaly_score, normal_below, threshold, expected
):
    assert verdict(anomaly_score, normal_below, threshold) is expected


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 1.5e-4), ("bf16", 1.2e-3)])
def test_what_is_rounded_is_the_distance_and_not_the_cosine(precision, limit):
    """Near matches: rounding a cosine near 1 would cost 2.4e-4 in FP16 and 2e-3 in BF16."""
    only_if_offered(precision)
    rng = np.random.default_rng(0)
    bank = unit_vectors(rng.normal(size=(2500, 384)).astype(np.float32))
    shift = np.linspace(0.0005, 0.005, 64, dtype=np.float32)[:, None]
    queries = unit_vectors(bank[:64] + shift * rng.normal(size=(64, 384)).astype(np.float32))
    found = CosineSearch(bank, 64, precision).distances(queries)
    np.testing.assert_allclose(found, patch_distances(queries, bank), atol=limit, rtol=0.0)


def test_bank_is_rounded_to_the_nearest_bf16():
    """OpenVINO's own conversion cuts: 0.1 would become 0.0996 instead of 0.1001."""
    only_if_offered("bf16")
    bank = np.zeros((64, 64), np.float32)
    bank[:, 0] = np.linspace(0.01, 0.9, 64)
    query = np.eye(1, 64, dtype=np.float32)
    found = [CosineSearch(row[None], 1, "bf16").distances(query)[0] for row in bank]
    np.testing.assert_allclose(1.0 - np.array(found), bank[:, 0], atol=2**-9 + 2**-9)
