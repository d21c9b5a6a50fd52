"""A threshold from the good references alone.

Each reference is scored against the bank of all the others (leave one image out), which is how a
good part that was not enrolled will score; the threshold is the quantile of those scores that lets
the stated share of good parts be rejected. With a single reference there are no others. Its own
rotations stand in, and since a turned part is often stranger than a defect, their scores only say
what is surely anomalous: nothing below them may be called normal.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from image_score import top_fraction_mean
from nearest_neighbours import CosineSearch

DEFAULT_FALSE_POSITIVE_RATE = 0.05
MAX_LEFT_OUT = 64
"""References scored at most; more would not move the quantile, but cost their square."""
ROTATIONS_DEG = (45, 90, 135, 180, 225, 270, 315)


def leave_one_out_scores(references: NDArray[np.float32], precision: str) -> NDArray[np.float64]:
    """Score references against the bank without their own image.

    Args:
        references: ``(images, N, D)`` float32 unit vectors, at least two images.
        precision: Of the search, see `nearest_neighbours.CosineSearch`.

    Returns:
        One image score per left-out reference, float64; when there are more than `MAX_LEFT_OUT`,
        of evenly spaced ones.
    """
    images, patches, dim = references.shape
    search = CosineSearch(references.reshape(-1, dim), patches, precision, chunk_rows=patches)
    chosen = np.unique(np.linspace(0, images - 1, min(images, MAX_LEFT_OUT)).astype(int))
    scores = []
    for index in chosen:
        per_image = search.distances_per_chunk(references[index])  # (N, images)
        per_image[:, index] = np.inf
        scores.append(top_fraction_mean(per_image.min(axis=1)))
    return np.array(scores)


def rotations(image: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """An image turned by the angles of `ROTATIONS_DEG`, bilinear, reflected border, same size.

    Source: AnomalyDINO `src/utils.py::augment_image`.
    """
    height, width = image.shape[:2]
    turned = []
    for angle_deg in ROTATIONS_DEG:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, 1.0)
        turned.append(
            cv2.warpAffine(
                image,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT_101,
            ).astype(np.uint8)
        )
    return turned


def threshold_at(scores: NDArray[np.float64], false_positive_rate: float) -> float:
    """Smallest score of a good part that keeps the share of good parts above it in bounds.

    Args:
        scores: Scores of good parts.
        false_positive_rate: Share in (0, 1) of good parts that may be rejected. With fewer scores
            than its inverse this is the largest score.
    """
    return float(np.quantile(scores, 1.0 - false_positive_rate, method="higher"))
