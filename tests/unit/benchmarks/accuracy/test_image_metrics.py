"""Metrics against cases small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dinspect_bench.accuracy.image_metrics import (
    average_precision,
    counts_at_threshold,
    image_auroc,
    image_auroc_interval,
    image_f1_max,
    roc_points,
)
from dinspect_bench.errors import MetricError
from dinspect_client.wire import Verdict

GOOD, BAD = False, True


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1.0),
        ([0.3, 0.4, 0.1, 0.2], 0.0),
        ([0.1, 0.3, 0.2, 0.4], 0.75),  # of four pairs one is the wrong way round
        ([0.1, 0.2, 0.2, 0.4], 0.875),  # a tie counts half
        ([0.5, 0.5, 0.5, 0.5], 0.5),
    ],
)
def test_auroc_is_the_share_of_pairs_in_the_right_order(scores, expected):
    assert image_auroc([GOOD, GOOD, BAD, BAD], scores) == pytest.approx(expected)


@pytest.mark.parametrize(("labels", "missing"), [([GOOD] * 2, "defective"), ([BAD] * 2, "functi")])
def test_auroc_needs_both_classes(labels, missing):
    with pytest.raises(MetricError, match=f"no {missing}"):
        image_auroc(labels, [0.1, 0.2])


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_auroc_refuses_a_score_that_is_no_number(score):
    with pytest.raises(MetricError, match="of image 1"):
        image_auroc([GOOD, BAD], [0.1, score])


def test_auroc_refuses_labels_and_scores_that_do_not_pair_up():
    with pytest.raises(MetricError, match="pair up"):
        image_auroc([GOOD, BAD], [0.1])


def test_interval_encloses_the_auroc_and_is_repeatable():
    generator = np.random.default_rng(5)
    labels = [GOOD] * 40 + [BAD] * 40
    scores = np.concatenate([generator.normal(0, 1, 40), generator.normal(1, 1, 40)]).tolist()
    low, high = image_auroc_interval(labels, scores)
    assert 0 < low < image_auroc(labels, scores) < high < 1
    assert (low, high) == image_auroc_interval(labels, scores)
    narrow_low, narrow_high = image_auroc_interval(labels, scores, level=0.5)
    assert low < narrow_low < narrow_high < high


def test_interval_of_a_perfect_separation_is_one():
    assert image_auroc_interval([GOOD, GOOD, BAD], [0.1, 0.2, 0.3]) == (1.0, 1.0)


def test_interval_counts_ties_half():
    assert image_auroc_interval([GOOD, GOOD, BAD], [0.2, 0.2, 0.2]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("scores", "precision", "f1"),
    [
        ([0.1, 0.2, 0.3, 0.4], 1.0, 1.0),
        ([0.3, 0.4, 0.1, 0.2], (1 / 3 + 2 / 4) / 2, 2 / 3),  # best is to call all bad
        ([0.1, 0.3, 0.2, 0.4], (1 / 1 + 2 / 3) / 2, 4 / 5),
        ([0.1, 0.2, 0.2, 0.4], (1 / 1 + 2 / 3) / 2, 4 / 5),  # tied: both called, or neither
        ([0.1, 0.1, 0.05, 0.4], (1 / 1 + 2 / 4) / 2, 2 / 3),
        ([0.5, 0.5, 0.5, 0.5], 0.5, 2 / 3),
        ([0.2, 0.9, 0.5, 0.6], (1 / 2 + 2 / 3) / 2, 4 / 5),  # a good part is the highest of all
    ],
)
def test_average_precision_and_f1_max_counted_by_hand(scores, precision, f1):
    labels = [GOOD, GOOD, BAD, BAD]
    assert average_precision(labels, scores) == pytest.approx(precision)
    assert image_f1_max(labels, scores) == pytest.approx(f1)


def test_f1_max_may_leave_most_bad_parts_unfound():
    """One of three above all ten good ones: calling it alone is better than calling all."""
    labels, scores = [BAD, *[GOOD] * 10, BAD, BAD], [9, *range(-8, 2), -9, -9]
    assert image_f1_max(labels, scores) == pytest.approx(2 / (1 + 3))


@pytest.mark.parametrize("num_levels", [None, 5])
def test_average_precision_and_f1_max_are_those_of_every_threshold(num_levels):
    generator = np.random.default_rng(4)
    labels = generator.random(60) < 0.4
    scores = generator.normal(labels, 1)
    if num_levels:
        scores = np.round(scores * num_levels) / num_levels
    f1, precision, recall_before = [], 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        hits = int((called & labels).sum())
        f1.append(2 * hits / int(called.sum() + labels.sum()))
        precision += (hits / labels.sum() - recall_before) * hits / called.sum()
        recall_before = hits / labels.sum()
    assert image_f1_max(labels, scores) == pytest.approx(max(f1), abs=1e-9)
    assert average_precision(labels, scores) == pytest.approx(precision, abs=1e-9)


def test_average_precision_of_a_perfect_ranking_is_not_above_one():
    for num_bad in (20, 21, 43):
        labels = [GOOD] * 8 + [BAD] * num_bad
        assert average_precision(labels, range(len(labels))) == 1.0


@pytest.mark.parametrize("metric", [average_precision, image_f1_max])
def test_other_figures_refuse_what_the_auroc_refuses(metric):
    with pytest.raises(MetricError, match="no defective"):
        metric([GOOD, GOOD], [0.1, 0.2])
    with pytest.raises(MetricError, match="no functional"):
        metric([BAD, BAD], [0.1, 0.2])
    with pytest.raises(MetricError, match="of image 1"):
        metric([GOOD, BAD], [0.1, float("nan")])
    with pytest.raises(MetricError, match="pair up"):
        metric([GOOD, BAD], [0.1])


def test_roc_runs_from_corner_to_corner():
    points = roc_points([GOOD, GOOD, BAD, BAD], [0.1, 0.3, 0.2, 0.4])
    assert points == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


def test_verdicts_are_counted_against_the_truth():
    counts = counts_at_threshold(
        [GOOD, GOOD, GOOD, GOOD, BAD, BAD, BAD],
        [
            Verdict.NORMAL,
            Verdict.ANOMALOUS,
            Verdict.ANOMALOUS,
            Verdict.UNDECIDED,
            Verdict.ANOMALOUS,
            Verdict.NORMAL,
            Verdict.UNDECIDED,
        ],
    )
    assert (counts.num_functional, counts.num_defective) == (4, 3)
    assert (counts.num_false_alarms, counts.num_misses) == (2, 1)
    assert (counts.num_undecided_functional, counts.num_undecided_defective) == (1, 1)
    assert counts.num_undecided == 2


def test_verdicts_must_pair_up_with_labels():
    with pytest.raises(MetricError, match="2 labels and 1 verdicts"):
        counts_at_threshold([GOOD, BAD], [Verdict.NORMAL])
