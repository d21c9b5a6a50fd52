"""From patch distances to one number per image, and from that number to a verdict.

Source: AnomalyDINO, Section C.2 of the supplement: q = mean of the 1 % largest patch distances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire import Verdict

TOP_FRACTION = 0.01


def top_fraction_mean(distances: NDArray[np.float32], fraction: float = TOP_FRACTION) -> float:
    """Mean of the largest share of all patch distances, at least of one.

    Args:
        distances: Patch distances of one image, any shape.
        fraction: Share in (0, 1]; the number of patches is rounded down, as in the authors'
            `post_eval.py::mean_top1p`.
    """
    flat = distances.reshape(-1)
    count = max(int(fraction * flat.size), 1)
    return float(np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64))


def verdict(anomaly_score: float, normal_below: float, threshold: float) -> Verdict:
    """What a score means. Only a score that is provably low enough is normal.

    Args:
        anomaly_score: The image's score.
        normal_below: Largest score of a normal part.
        threshold: Largest score of a part that is not anomalous; a score equal to it is not,
            because it may be a good reference's own.

    Returns:
        `Verdict.NORMAL`, `Verdict.UNDECIDED` between the two, else `Verdict.ANOMALOUS`: also
        whenever a comparison fails, as it does with NaN.
    """
    if anomaly_score <= min(normal_below, threshold):
        return Verdict.NORMAL
    if anomaly_score <= threshold:
        return Verdict.UNDECIDED
    return Verdict.ANOMALOUS
