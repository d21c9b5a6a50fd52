"""Overlap with each defect region against false positives: the PRO curve and the area under it.

At a threshold, the overlap of a region is the share of its pixels called defective, PRO is the mean
over all regions, whatever their size, and the false positive rate (FPR) is the share of the normal
pixels called defective. The curve has one point for every score that occurs, starts at (0, 0), and
is linear between two points. AUPRO@L is the area under it for FPR from 0 to L, divided by L.

The area needs no curve. It is linear in what is averaged, so AUPRO is the mean over the regions of
each region's own area, and that the mean over its pixels. The curve of a single pixel is known: if
``above`` normal pixels score above it and ``reached`` at or above it, it is 0 up to FPR
``above / N``, 1 from ``reached / N`` on, and a straight line between. Two searches in the sorted
normal scores therefore give a pixel's area exactly, ties and the cut at L included.

Sources: the metric is that of Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021);
limits of 30 % and 5 %, and all test images counted, as in Section IV of the paper of L2BT. The code
of its authors (`utils/metrics_utils.py::compute_pro`) follows the curve at 99 thresholds, about
five of which lie below 5 %; there are no such steps here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dinspect_bench.accuracy.pixel_scores import PixelScores
from dinspect_bench.errors import MetricError


def region_areas(scores: PixelScores, fpr_limits: Sequence[float]) -> NDArray[np.float64]:
    """Area under each region's overlap curve up to some false positive rates.

    The mean over regions is AUPRO; weighted by their sizes, and with a limit of 1, it is the AUROC
    of all pixels.

    Args:
        scores: Scores of a class's test pixels.
        fpr_limits: Where to stop, each in (0, 1].

    Returns:
        ``(R, num_limits)``, each divided by its limit: 1 if no normal pixel scores as high as any
        of the region's.

    Raises:
        MetricError: If a limit is out of range.
    """
    for limit in fpr_limits:
        if not 0 < limit <= 1:
            raise MetricError(f"limit {limit} of the false positive rate must lie in (0, 1]")
    areas = np.empty((len(scores.regions), len(fpr_limits)))
    for region, row in zip(scores.regions, areas, strict=True):
        above = scores.num_normal_above(region)
        reached = scores.num_false_positives(region)
        row[:] = [
            _pixel_areas(above, reached, limit * scores.normal.size).mean() for limit in fpr_limits
        ]
    return areas


def _pixel_areas(
    above: NDArray[np.int64], reached: NDArray[np.int64], limit: float
) -> NDArray[np.float64]:
    """Area under each pixel's curve, all three arguments in normal pixels; the whole is 1."""
    slope_end = np.minimum(reached, limit)
    slope_width = slope_end - np.minimum(above, limit)
    # Where no normal pixel ties with it the curve is a step, and its width of 0 is divided by 1.
    under_slope = slope_width**2 / (2 * np.maximum(reached - above, 1))
    return (under_slope + limit - slope_end) / limit


def pro_curve(scores: PixelScores, max_points: int = 300) -> list[tuple[float, float]]:
    """Points of the PRO curve to draw; figures are not computed from them.

    Args:
        scores: Scores of a class's test pixels.
        max_points: How many there may be, at least 4. They lie closer together towards an FPR of
            0, where the curve bends, and every one is a point of the exact curve.

    Returns:
        Pairs of false positive rate and mean overlap, both in [0, 1] and ascending, from (0, 0)
        to (1, 1).
    """
    normal = scores.normal
    wanted_rates = np.linspace(0, 1, max_points - 2)[1:] ** 2
    ranks = np.ceil(wanted_rates * normal.size).astype(np.int64)
    thresholds = np.unique(normal[normal.size - ranks])
    rates = scores.num_false_positives(thresholds) / normal.size
    overlaps = np.mean([_overlap(region, thresholds, "left") for region in scores.regions], axis=0)
    without_false_positive = np.mean(
        [_overlap(region, normal[-1:], "right") for region in scores.regions]
    )
    points = [
        (0.0, 0.0),
        (0.0, float(without_false_positive)),
        *zip(rates[::-1].tolist(), overlaps[::-1].tolist(), strict=True),
        (1.0, 1.0),
    ]
    return list(dict.fromkeys(points))


def _overlap(
    region: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    side: Literal["left", "right"],
) -> NDArray[np.float64]:
    """Share of a region's pixels at or above ("left") or above ("right") each threshold."""
    return 1 - np.searchsorted(region, thresholds, side=side) / region.size
