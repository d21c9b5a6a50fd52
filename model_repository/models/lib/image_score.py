"""From patch distances to one number per image, and from that number to a verdict.

Source: AnomalyDINO, Section C.2 of the supplement: q = mean of the 1 % largest patch distances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TOP_FRACTION = 0.01

NORMAL, ANOMALOUS = 0, 1


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


def verdict(anomaly_score: float, threshold: float) -> int:
    """`ANOMALOUS` strictly above the threshold, else `NORMAL`.

    Strictly, because the threshold may be a good reference's own score.
    """
    return ANOMALOUS if anomaly_score > threshold else NORMAL
