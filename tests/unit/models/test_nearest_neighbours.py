from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import image_score, patch_distances

from dinspect_client.wire import Verdict
from image_score import top_fraction_mean, verdict
from nearest_neighbours import CosineSearch, search_precision, unit_vectors

TOLERANCE = {
    "fp32": {"atol": 1e-6, "rtol": 0.0},
    "fp16": {"atol": 2e-4, "rtol": 2**-11},
    "bf16": {"atol": 1.5e-3, "rtol": 2**-8},
}
"""Of a cosine distance: the result is rounded once (relative, half a unit in the last place of the
format), and the unit vectors were rounded before (absolute, however small the distance)."""


def vectors(count, dim=384, seed=0):
    # A common direction, so that distances are small as between real patch tokens.
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, dim)) * 0.4 + rng.normal(size=dim)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("rows", [1, 1023, 1024, 2500])
def test_distances_equal_the_reference(precision, rows):
    queries, bank = vectors(64, seed=1), vectors(rows, seed=1)[::-1] * 3.0
    bank = bank + np.float32(0.05)
    found = CosineSearch(unit_vectors(bank), 64, precision).distances(unit_vectors(queries))
    assert found.shape == (64,)
    np.testing.assert_allclose(found, patch_distances(queries, bank), **TOLERANCE[precision])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_hand_computed_cases(precision):
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
    for precision in TOLERANCE:
        assert CosineSearch(bank, 2000, precision).distances(bank).min() >= 0.0


def test_distances_per_chunk_are_those_of_the_chunk():
    bank = unit_vectors(vectors(30, seed=2))
    queries = unit_vectors(vectors(8, seed=3))
    found = CosineSearch(bank, 8, "fp32", chunk_rows=10).distances_per_chunk(queries)
    for chunk in range(3):
        expected = patch_distances(queries, bank[10 * chunk : 10 * chunk + 10])
        np.testing.assert_allclose(found[:, chunk], expected, atol=1e-6)


@pytest.mark.parametrize("bank", [np.zeros((0, 4), np.float32), np.zeros(4, np.float32)])
def test_empty_bank_is_refused(bank):
    with pytest.raises(ValueError, match="M at least 1"):
        CosineSearch(bank, 1)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_tokens_without_direction_are_refused(value):
    tokens = np.ones((3, 4), np.float32)
    tokens[1] = value
    with pytest.raises(ValueError, match="zero or not finite"):
        unit_vectors(tokens)


def test_automatic_precision_is_one_of_the_known():
    assert search_precision("auto") in TOLERANCE
    assert search_precision("bf16") == "bf16"


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
    rng = np.random.default_rng(0)
    bank = unit_vectors(rng.normal(size=(2500, 384)).astype(np.float32))
    shift = np.linspace(0.0005, 0.005, 64, dtype=np.float32)[:, None]
    queries = unit_vectors(bank[:64] + shift * rng.normal(size=(64, 384)).astype(np.float32))
    found = CosineSearch(bank, 64, precision).distances(queries)
    np.testing.assert_allclose(found, patch_distances(queries, bank), atol=limit, rtol=0.0)
