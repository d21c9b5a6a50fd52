"""From patch tokens to distances, map score and verdict, by a product's students.

Source: L2BT, Algorithm 2 and Section IV-B.2.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration import Thresholds, threshold_at
from image_preparation import same_aspect
from image_score import top_fraction_mean, verdict
from map_operator import MapRule, anomaly_map
from patch_scoring import Scored
from refusals import InspectionRefused
from students_record import StudentsRecord

TOP_FRACTION = 0.001
"""Share of the map's pixels in the image score, M / HW (Section IV-B.2)."""


class Students(Protocol):
    """A product's students, ready to run."""

    def distances(
        self, tokens_j: NDArray[np.float32], tokens_k: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Patch distances ``(rows, columns)`` of ``(N, D)`` float32 patch tokens of two blocks."""


class StudentScorer:
    """Scores images by one version.

    Args:
        record: The version.
        students: Its students.
    """

    def __init__(self, record: StudentsRecord, students: Students) -> None:
        self.record = record
        self._students = students

    def score(
        self,
        tokens_j: NDArray[np.float32],
        tokens_k: NDArray[np.float32],
        image_size: tuple[int, int],
    ) -> Scored:
        """Score one image.

        The score is taken from the map of the references' size, whatever the image's: smoothed by
        so many pixels, a smaller image of the same part would have a flatter map.

        Args:
            tokens_j: ``(N, D)`` float32 patch tokens of block j as the backbone puts them out.
            tokens_k: The same of block k.
            image_size: Height and width of the image in pixels.

        Raises:
            InspectionRefused: If the image has another geometry than the product's.
            ValueError: If there are numbers among them that are no distances: backbone or students
                are broken.
        """
        record = self.record
        size = (record.image_size[0], record.image_size[1])
        if not same_aspect(image_size, size):
            raise InspectionRefused(
                f"the image is {image_size[1]} x {image_size[0]} px, but product "
                f"'{record.product}' was trained on {size[1]} x {size[0]} px; a product has one "
                "camera geometry"
            )
        distances = self._students.distances(tokens_j, tokens_k)
        if not ((distances >= 0) & np.isfinite(distances)).all():  # False for NaN, too
            raise ValueError("the students put out numbers that are no distances")
        anomaly_score = map_score(anomaly_map(distances, size, record.map_rule))
        said = verdict(anomaly_score, record.normal_below, record.threshold)
        return Scored(distances, anomaly_score, said)


def map_score(map_: NDArray[np.float32]) -> float:
    """Mean of the 0.1 % largest pixels of a map, at least of one."""
    return top_fraction_mean(map_, TOP_FRACTION)


def find_map_thresholds(
    distances: NDArray[np.float32],
    image_size: tuple[int, int],
    rule: MapRule,
    false_positive_rate: float,
    undecided_rate: float,
) -> Thresholds:
    """Thresholds at which the stated shares of good parts are rejected or undecided.

    From a single good part nothing is called normal.

    Args:
        distances: ``(images, rows, columns)`` float32 of good parts.
        image_size: Height and width of the references in pixels.
        rule: How distances become a map.
        false_positive_rate: Share of good parts that may be anomalous, in (0, 1).
        undecided_rate: Share of good parts that may be undecided besides, in [0, 1).
    """
    scores, peaks = np.empty(len(distances)), np.empty(len(distances))
    for index, one in enumerate(distances):  # one map at a time: they are as large as the images
        map_ = anomaly_map(one, image_size, rule)
        scores[index], peaks[index] = map_score(map_), map_.max()
    normal_below = threshold_at(scores, false_positive_rate + undecided_rate)
    return Thresholds(
        threshold=threshold_at(scores, false_positive_rate),
        # One good part does not show how good parts differ.
        normal_below=normal_below if len(scores) > 1 else 0.0,
        defect_threshold=threshold_at(peaks, false_positive_rate),
        scores=[float(score) for score in scores],
    )
