"""From patch distances to a score and a verdict (Section C.2, Table 10)."""

from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import anomaly_map as slow_map

from image_score import DEFAULT_IMAGE_SCORE, IMAGE_SCORES, image_score, top_fraction_mean, verdict
from wire import Verdict

EVERYWHERE = np.ones((20, 20), bool)
SIZE = (280, 280)


def falling(rows=20, columns=20):
    """Every patch another distance: 0.400, 0.399, ... in row-major order."""
    return (np.arange(rows * columns, 0, -1) / 1000).reshape(rows, columns).astype(np.float32)


@pytest.mark.parametrize(
    ("num_patches", "expected"),
    [
        (1, 1.0),
        (99, 99.0),  # below 100 patches the largest alone
        (100, 100.0),
        (199, 199.0),  # rounded down
        (200, (200 + 199) / 2),
        (1024, (1024 + 1015) / 2),  # ten of 32 x 32
    ],
)
def test_mean_of_the_top_percent_by_hand(num_patches, expected):
    distances = np.random.default_rng(0).permutation(np.arange(1.0, num_patches + 1))
    assert top_fraction_mean(distances.astype(np.float32)) == pytest.approx(expected)


def test_fraction_may_be_another():
    assert top_fraction_mean(np.array([[1, 2], [3, 4]], np.float32), 0.5) == 3.5
    assert top_fraction_mean(np.array([1, 2, 3, 4], np.float32), 1.0) == 2.5


@pytest.mark.parametrize("seed", range(5))
def test_mean_of_the_top_percent_is_the_authors(seed):
    """`post_eval.py::mean_top1p`, word for word."""
    rng = np.random.default_rng(seed)
    distances = rng.uniform(size=rng.integers(50, 3000)).astype(np.float32)
    count = int(len(distances) * 0.01)
    if count == 0:
        expected = np.max(distances)
    else:
        expected = np.mean(sorted(distances.flatten(), reverse=True)[:count])
    assert top_fraction_mean(distances) == pytest.approx(expected, abs=1e-6)


def test_scores_of_table_10_by_hand():
    distances = falling()
    scores = {
        name: image_score(name, distances, EVERYWHERE, EVERYWHERE, SIZE) for name in IMAGE_SCORES
    }
    assert scores["mean_top1p"] == pytest.approx((0.400 + 0.399 + 0.398 + 0.397) / 4)
    assert scores["mean_top1p_foreground"] == scores["mean_top1p"]
    assert scores["max"] == np.float32(0.4)
    assert scores["max_map"] == pytest.approx(slow_map(distances, *SIZE).max(), abs=1e-6)
    assert scores["max_map"] < scores["max"]  # smoothing flattens a peak


def test_default_is_the_papers():
    assert DEFAULT_IMAGE_SCORE == "mean_top1p"
    assert set(IMAGE_SCORES) == {"mean_top1p", "mean_top1p_foreground", "max", "max_map"}


def test_masked_patches_count_for_the_authors_and_not_for_the_paper():
    """400 patches of which 100 are left: 1 % is four or one."""
    foreground = np.zeros((20, 20), bool)
    foreground[:5] = True
    distances = np.where(foreground, falling(), np.float32(0))
    authors = image_score("mean_top1p", distances, foreground, EVERYWHERE, SIZE)
    paper = image_score("mean_top1p_foreground", distances, foreground, EVERYWHERE, SIZE)
    assert authors == pytest.approx((0.400 + 0.399 + 0.398 + 0.397) / 4)
    assert paper == np.float32(0.4)
    # With three patches left, the authors' mean has a masked zero in it.
    foreground[:] = False
    foreground[0, :3] = True
    distances = np.where(foreground, falling(), np.float32(0))
    authors = image_score("mean_top1p", distances, foreground, EVERYWHERE, SIZE)
    assert authors == pytest.approx((0.400 + 0.399 + 0.398 + 0) / 4)


def test_patches_outside_the_region_do_not_count():
    """An inspected quarter of 400 patches has one in its 1 %."""
    inspected = np.zeros((20, 20), bool)
    inspected[10:, 10:] = True
    distances = np.where(inspected, falling(), np.float32(0))
    for name in ("mean_top1p", "mean_top1p_foreground", "max"):
        score = image_score(name, distances, EVERYWHERE, inspected, SIZE)
        assert score == falling()[10, 10]


def test_foreground_outside_the_region_does_not_count():
    inspected, foreground = EVERYWHERE.copy(), EVERYWHERE.copy()
    inspected[:10] = False
    foreground[15:] = False
    distances = np.where(inspected & foreground, falling(), np.float32(0))
    score = image_score("mean_top1p_foreground", distances, foreground, inspected, SIZE)
    assert score == falling()[10, 0]  # of 100 patches


@pytest.mark.parametrize("name", IMAGE_SCORES)
def test_nothing_left_scores_zero(name):
    nothing = np.zeros((20, 20), bool)
    distances = np.zeros((20, 20), np.float32)
    assert image_score(name, distances, nothing, EVERYWHERE, SIZE) == 0.0


@pytest.mark.parametrize("name", IMAGE_SCORES)
def test_equal_distances_score_what_they_are(name):
    distances = np.full((20, 20), 0.25, np.float32)
    assert image_score(name, distances, EVERYWHERE, EVERYWHERE, SIZE) == pytest.approx(0.25)


@pytest.mark.parametrize("name", IMAGE_SCORES)
def test_one_distance_that_is_no_number_makes_the_part_anomalous(name):
    distances = falling()
    distances[7, 3] = np.nan
    score = image_score(name, distances, EVERYWHERE, EVERYWHERE, SIZE)
    assert np.isnan(score)
    assert verdict(score, 2.0, 2.0) is Verdict.ANOMALOUS


def test_map_is_that_of_the_size_asked_for():
    distances = np.zeros((20, 20), np.float32)
    distances[10, 10] = 1.0
    small, large = (
        image_score("max_map", distances, EVERYWHERE, EVERYWHERE, (side, side))
        for side in (140, 1120)
    )
    assert small == pytest.approx(slow_map(distances, 140, 140).max(), abs=1e-6)
    assert small < 0.6 * large < 0.6  # the same 4 px reach over more of a smaller image


def test_unknown_score_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="'median', expected one of mean_top1p, mean_top1p_for"):
        image_score("median", falling(), EVERYWHERE, EVERYWHERE, SIZE)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, Verdict.NORMAL),
        (0.2, Verdict.NORMAL),  # what a good part scored is good
        (np.nextafter(0.2, 1), Verdict.UNDECIDED),
        (0.3, Verdict.UNDECIDED),
        (np.nextafter(0.3, 1), Verdict.ANOMALOUS),
        (2.0, Verdict.ANOMALOUS),
        (np.inf, Verdict.ANOMALOUS),
        (np.nan, Verdict.ANOMALOUS),
    ],
)
def test_verdict_between_two_thresholds(score, expected):
    assert verdict(score, 0.2, 0.3) is expected


@pytest.mark.parametrize(
    ("normal_below", "threshold", "expected"),
    [
        (0.3, 0.3, Verdict.NORMAL),  # no band
        (0.9, 0.2, Verdict.ANOMALOUS),  # the stricter one holds
        (0.0, 0.3, Verdict.UNDECIDED),
        (np.nan, 0.3, Verdict.UNDECIDED),
        (0.3, np.nan, Verdict.ANOMALOUS),
        (np.nan, np.nan, Verdict.ANOMALOUS),
    ],
)
def test_odd_thresholds_never_make_a_part_normal(normal_below, threshold, expected):
    assert verdict(0.25, normal_below, threshold) is expected


def test_zero_thresholds_pass_nothing_but_a_zero():
    assert verdict(0.0, 0.0, 0.0) is Verdict.NORMAL
    assert verdict(1e-9, 0.0, 0.0) is Verdict.ANOMALOUS
