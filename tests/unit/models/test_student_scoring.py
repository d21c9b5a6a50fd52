"""Score, verdict and thresholds of students' distances, held to the slow reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference import l2bt_reference as reference
from trainings import GRID, IMAGE_SIZE, expected_distances, publish_trained, tokens

from map_operator import MapRule
from refusals import InspectionRefused
from student_scoring import StudentScorer, find_map_thresholds, map_score
from students_store import StudentsStore
from wire import Verdict

PAIR = tokens(5)


class Fixed:
    """Students that always say the same."""

    def __init__(self, distances):
        self._distances = distances

    def distances(self, tokens_j, tokens_k):
        assert np.array_equal((tokens_j, tokens_k), PAIR)
        return self._distances


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return publish_trained(StudentsStore(tmp_path_factory.mktemp("store") / "students"))


def scored(record, image_size=IMAGE_SIZE, distances=None, **changes):
    found = expected_distances(PAIR) if distances is None else np.asarray(distances, np.float32)
    return StudentScorer(replace(record, **changes), Fixed(found)).score(*PAIR, image_size)


def slow_score(distances, record, size=IMAGE_SIZE):
    map_ = reference.anomaly_map(distances, size, record.smoothing, record.sigma_px)
    return reference.map_score(map_)


@pytest.mark.parametrize("smoothing", ["gaussian", "boxes"])
@pytest.mark.parametrize("sigma_px", [0.5, 6.0])
def test_score_is_the_references(record, smoothing, sigma_px):
    said = replace(record, smoothing=smoothing, sigma_px=sigma_px)
    found = scored(said)
    assert np.array_equal(found.distances, expected_distances(PAIR))
    expected = slow_score(expected_distances(PAIR), said)
    assert found.anomaly_score == pytest.approx(expected, rel=1e-5)


def test_score_is_that_of_an_image_as_large_as_the_references(record):
    """Smoothed by so many pixels, a map of another size would have another score."""
    peaked = [[9.0, 0.0], [0.0, 0.0]]
    scores = {scored(record, size, peaked).anomaly_score for size in ((40, 60), (400, 600))}
    assert len(scores) == 1
    assert scores.pop() == pytest.approx(slow_score(np.array(peaked), record), rel=1e-5)


@pytest.mark.parametrize(
    ("below", "above", "verdict"),
    [
        (0.99, 0.99, Verdict.ANOMALOUS),
        (0.98, 0.99, Verdict.ANOMALOUS),
        (1.01, 1.02, Verdict.NORMAL),
        (0.99, 1.01, Verdict.UNDECIDED),
        (1.0, 1.0, Verdict.NORMAL),
        (0.5, 1.0, Verdict.UNDECIDED),
        (1.0, 2.0, Verdict.NORMAL),
    ],
)
def test_verdict_is_by_both_thresholds(record, below, above, verdict):
    """At a threshold itself the part is on the better side."""
    score = scored(record).anomaly_score
    found = scored(record, normal_below=score * below, threshold=score * above)
    assert found.verdict == verdict


@pytest.mark.parametrize("size", [(60, 40), (40, 40), (40, 62), (39, 61)])
def test_image_of_another_geometry_is_refused(record, size):
    with pytest.raises(InspectionRefused, match=f"{size[1]} x {size[0]} px, but product 'screw'"):
        scored(record, size)


@pytest.mark.parametrize("size", [(40, 60), (2000, 3000), (401, 600)])
def test_image_of_the_same_geometry_is_scored(record, size):
    assert scored(record, size).anomaly_score > 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_distance_that_is_not_finite_is_a_fault(record, wrong):
    distances = expected_distances(PAIR)
    distances[1, 0] = wrong
    with pytest.raises(ValueError, match="no distances"):
        scored(record, distances=distances)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (range(1000), 999.0),  # one of a thousand
        (range(1999), 1998.0),  # still one
        (range(2000), 1998.5),  # two
        (range(10), 9.0),  # at least one
        ([7.0], 7.0),
    ],
)
def test_map_score_is_the_mean_of_the_largest_thousandth(values, expected):
    map_ = np.random.default_rng(0).permutation(np.array(values, np.float32))[None]
    assert map_score(map_) == expected
    assert map_score(map_.T) == expected


def test_thresholds_are_quantiles_of_scores_and_peaks():
    """Ten good parts of even maps; scores and peaks are 1 to 10 tenths."""
    order = np.random.default_rng(1).permutation(10)
    distances = ((order + 1) / 10)[:, None, None] * np.ones((1, *GRID))
    found = find_map_thresholds(
        distances.astype(np.float32), IMAGE_SIZE, MapRule(True, "gaussian", 2.0), 0.2, 0.3
    )
    np.testing.assert_allclose(found.scores, (order + 1) / 10, rtol=1e-5)
    assert found.threshold == sorted(found.scores)[8]  # the 80 % quantile of ten, rounded up
    assert found.normal_below == sorted(found.scores)[5]  # the 50 % quantile
    assert found.defect_threshold == pytest.approx(0.9, rel=1e-5)


def test_thresholds_are_those_of_each_map():
    rule, size = MapRule(True, "boxes"), (66, 100)  # six pixels are its largest thousandth
    distances = np.random.default_rng(2).random((5, 4, 4)).astype(np.float32)
    found = find_map_thresholds(distances, size, rule, 0.3, 0.0)
    maps = [reference.anomaly_map(one, size, "boxes") for one in distances]
    scores, peaks = [reference.map_score(map_) for map_ in maps], [map_.max() for map_ in maps]
    np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
    assert found.threshold == pytest.approx(sorted(scores)[3], rel=1e-5)
    assert found.normal_below == found.threshold
    assert found.defect_threshold == pytest.approx(sorted(peaks)[3], rel=1e-5)
    assert found.defect_threshold > 1.001 * found.threshold


def test_good_part_that_set_the_threshold_is_normal(record):
    """The stored scores are compared with the very numbers an inspection computes."""
    distances = np.random.default_rng(3).random((7, *GRID)).astype(np.float32)
    found = find_map_thresholds(distances, IMAGE_SIZE, record.map_rule, 0.05, 0.0)
    verdicts = [
        scored(
            record, distances=one, threshold=found.threshold, normal_below=found.normal_below
        ).verdict
        for one in distances
    ]
    assert verdicts == [Verdict.NORMAL] * 7
