"""How well scores and verdicts tell good parts from bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinspect_bench.errors import MetricError
from dinspect_client.wire import Verdict

FUNCTIONAL = "functional"
DEFECTIVE = "defective"


@dataclass(frozen=True)
class ThresholdCounts:
    """What the server's verdicts come to on labelled parts.

    An undecided part is neither a miss nor a false alarm: the plant sends it to a person.

    Attributes:
        num_functional: Good parts inspected.
        num_defective: Bad parts inspected.
        num_false_alarms: Good parts called anomalous.
        num_misses: Bad parts called normal.
        num_undecided_functional: Good parts called undecided.
        num_undecided_defective: Bad parts called undecided.
    """

    num_functional: int
    num_defective: int
    num_false_alarms: int
    num_misses: int
    num_undecided_functional: int
    num_undecided_defective: int

    @property
    def num_undecided(self) -> int:
        """Parts called undecided, good and bad."""
        return self.num_undecided_functional + self.num_undecided_defective


def image_auroc(is_defective: Sequence[bool], scores: Sequence[float]) -> float:
    """Area under the ROC curve: how often a bad part scores above a good one, ties counting half.

    Args:
        is_defective: Truth per image.
        scores: Anomaly score per image, higher is worse.

    Returns:
        A number in [0, 1]; 0.5 is guessing. It does not depend on any threshold.

    Raises:
        MetricError: If a class is missing, a score is not finite or the lengths differ.
    """
    labels, values = _checked(is_defective, scores)
    from sklearn.metrics import roc_auc_score  # heavy, and not needed to measure a latency

    return float(roc_auc_score(labels, values))


def image_auroc_interval(
    is_defective: Sequence[bool],
    scores: Sequence[float],
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of the AUROC over the images, the classes resampled apart.

    It covers the choice of held-out images, not that of the enrolled ones.

    Args:
        is_defective: Truth per image.
        scores: Anomaly score per image, higher is worse.
        level: Share of resamples inside the interval, in (0, 1).
        num_resamples: How often to resample.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end, both in [0, 1].

    Raises:
        MetricError: As `image_auroc`.
    """
    labels, values = _checked(is_defective, scores)
    good, bad = values[~labels], values[labels]
    # Every pair's contribution to the AUROC; a resample only weights its rows and columns.
    wins = (bad[:, None] > good) + 0.5 * (bad[:, None] == good)  # (bad, good)
    generator = np.random.default_rng(seed)
    bad_weights = generator.multinomial(len(bad), np.full(len(bad), 1 / len(bad)), num_resamples)
    good_weights = generator.multinomial(
        len(good), np.full(len(good), 1 / len(good)), num_resamples
    )
    aurocs = np.einsum("rb,bg,rg->r", bad_weights, wins, good_weights, optimize=True) / wins.size
    low, high = np.quantile(aurocs, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def average_precision(is_defective: Sequence[bool], scores: Sequence[float]) -> float:
    """Mean precision over the bad parts, each at its own score as the threshold.

    It is the area under the steps of the precision-recall curve, nothing interpolated.

    Args:
        is_defective: Truth per image.
        scores: Anomaly score per image, higher is worse.

    Returns:
        A number in (0, 1]; guessing gives about the share of bad parts.

    Raises:
        MetricError: As `image_auroc`.
    """
    labels, values = _checked(is_defective, scores)
    from sklearn.metrics import average_precision_score

    # The library adds up rounded steps, which may come to a little more than 1.
    return min(1.0, float(average_precision_score(labels, values)))


def image_f1_max(is_defective: Sequence[bool], scores: Sequence[float]) -> float:
    """Largest F1 of any threshold: the harmonic mean of precision and recall.

    The threshold is chosen with the truth in hand, so it bounds what a calibrated one can reach.

    Args:
        is_defective: Truth per image.
        scores: Anomaly score per image, higher is worse.

    Returns:
        A number in (0, 1]; calling every part bad gives ``2b / (1 + b)`` with a share ``b`` of bad
        parts, so it is never below that.

    Raises:
        MetricError: As `image_auroc`.
    """
    labels, values = _checked(is_defective, scores)
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, values)
    found = recall > 0  # above every bad part's score precision and recall are both 0
    f1 = 2 * precision[found] * recall[found] / (precision[found] + recall[found])
    return float(f1.max())


def roc_points(is_defective: Sequence[bool], scores: Sequence[float]) -> list[tuple[float, float]]:
    """Corners of the ROC curve from (0, 0) to (1, 1).

    Returns:
        Pairs of false alarm rate and detection rate, both in [0, 1] and ascending.

    Raises:
        MetricError: As `image_auroc`.
    """
    labels, values = _checked(is_defective, scores)
    from sklearn.metrics import roc_curve

    false_alarm_rates, detection_rates, _ = roc_curve(labels, values)
    return [(float(x), float(y)) for x, y in zip(false_alarm_rates, detection_rates, strict=True)]


def counts_at_threshold(
    is_defective: Sequence[bool], verdicts: Sequence[Verdict]
) -> ThresholdCounts:
    """Count the server's verdicts against the truth.

    The verdict itself is counted and not score against threshold, because it is what a plant acts
    on.

    Raises:
        MetricError: If the lengths differ.
    """
    if len(is_defective) != len(verdicts):
        raise MetricError(f"{len(is_defective)} labels and {len(verdicts)} verdicts must pair up")
    pairs = list(zip((bool(label) for label in is_defective), verdicts, strict=True))
    return ThresholdCounts(
        num_functional=sum(not label for label, _ in pairs),
        num_defective=sum(label for label, _ in pairs),
        num_false_alarms=pairs.count((False, Verdict.ANOMALOUS)),
        num_misses=pairs.count((True, Verdict.NORMAL)),
        num_undecided_functional=pairs.count((False, Verdict.UNDECIDED)),
        num_undecided_defective=pairs.count((True, Verdict.UNDECIDED)),
    )


def _checked(
    is_defective: Sequence[bool], scores: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels = np.asarray(is_defective, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != values.shape:
        raise MetricError(f"{labels.shape} labels and {values.shape} scores must pair up")
    if labels.all() or not labels.any():
        what = "functional" if labels.all() else "defective"
        raise MetricError(f"both classes are needed; there is no {what} image among them")
    if not np.isfinite(values).all():
        index = int(np.flatnonzero(~np.isfinite(values))[0])
        raise MetricError(f"score {values[index]} of image {index} is not a finite number")
    return labels, values
