"""From patch distances to one number per image, and from that number to a verdict.

Source: AnomalyDINO, Section C.2 and Table 10: the mean of the 1 % largest patch distances (the
default), the largest patch distance, and the largest value of the smoothed map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from map_operator import anomaly_map
from wire import Verdict

TOP_FRACTION = 0.01
DEFAULT_IMAGE_SCORE = "mean_top1p"
IMAGE_SCORES = (DEFAULT_IMAGE_SCORE, "mean_top1p_foreground", "max", "max_map")


def image_score(
    name: str,
    distances: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    inspected: NDArray[np.bool_],
    image_size: tuple[int, int],
) -> float:
    """One number for an image.

    Args:
        name: One of `IMAGE_SCORES`. ``mean_top1p`` counts 1 % of all inspected patches, masked
            ones included, as the authors' `post_eval.py::mean_top1p` does;
            ``mean_top1p_foreground`` counts 1 % of those that are left after masking, as Section
            C.2 says.
        distances: ``(rows, columns)`` float32 patch distances, 0 where masked or not inspected.
        foreground: ``(rows, columns)``, False where masked.
        inspected: ``(rows, columns)``, False outside the region that counts.
        image_size: Height and width in pixels of the map that ``max_map`` is taken from.

    Raises:
        ValueError: If there is no score of that name.
    """
    if name in ("mean_top1p", "mean_top1p_foreground"):
        counted = inspected if name == "mean_top1p" else inspected & foreground
        return top_fraction_mean(distances[counted]) if counted.any() else 0.0
    if name == "max":
        return float(distances.max())
    if name == "max_map":
        return float(anomaly_map(distances, image_size).max())
    raise ValueError(f"image_score is {name!r}, expected one of {', '.join(IMAGE_SCORES)}")


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
    if anomaly_score <= normal_below and anomaly_score <= threshold:  # min() may pass a NaN over
        return Verdict.NORMAL
    if anomaly_score <= threshold:
        return Verdict.UNDECIDED
    return Verdict.ANOMALOUS
