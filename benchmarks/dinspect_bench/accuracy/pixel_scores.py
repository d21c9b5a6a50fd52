"""Scores of every test pixel, parted by the ground truth and sorted: what pixel figures need.

The maps of a data set's class take gigabytes, so each is read once, and all that is kept of it is
one float32 a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dinspect_bench.errors import MetricError

_CONNECTIVITY = 8


@dataclass(frozen=True)
class PixelScores:
    """Anomaly scores of all pixels of a class's test images.

    A threshold calls a pixel defective that scores at or above it.

    Attributes:
        normal: Those outside every defect, of good and defective images alike, ``(N,)`` float32,
            ascending, N at least 1.
        regions: Those inside each defect region, ``(size_px,)`` float32, ascending; at least one
            region. A region is a set of 8-connected pixels of one mask.
    """

    normal: NDArray[np.float32]
    regions: tuple[NDArray[np.float32], ...]

    @property
    def region_sizes_px(self) -> NDArray[np.int64]:
        """Pixels of each region, ``(R,)``."""
        return np.array([region.size for region in self.regions], dtype=np.int64)

    def num_normal_above(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """How many normal pixels score strictly above each threshold; quickest if ascending."""
        return self.normal.size - np.searchsorted(self.normal, thresholds, side="right")

    def num_false_positives(self, thresholds: NDArray[np.float32]) -> NDArray[np.int64]:
        """How many normal pixels each threshold calls defective; quickest if ascending."""
        return self.normal.size - np.searchsorted(self.normal, thresholds, side="left")


def collect_pixel_scores(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> PixelScores:
    """Read the maps and masks of a class, each of them once and in order.

    Args:
        maps: Anomaly map of each test image at the resolution of its ground truth, padding
            removed, ``(H, W)`` float32, finite, higher is worse. Sizes may differ between images.
            A sequence that loads a map when it is asked for keeps the memory small.
        masks: Ground truth of each test image, ``(H, W)`` bool, True on a defect; all False for a
            good one.

    Raises:
        MetricError: If there is no image, the lengths differ, a map and its mask do not fit each
            other, a value is not finite, or no pixel at all is defective or none is normal.
    """
    if len(maps) != len(masks):
        raise MetricError(
            f"{len(maps)} maps and {len(masks)} masks must pair up; "
            "a good image's mask is False everywhere"
        )
    if len(maps) == 0:
        raise MetricError("there are no maps; give those of at least one test image")
    # Bytes grow in place. Arrays in a list, to be joined at the end, would be held twice.
    normal = bytearray()
    regions: list[NDArray[np.float32]] = []
    for index in range(len(maps)):
        score_map, mask = maps[index], masks[index]
        _check(score_map, mask, index)
        normal += score_map[~mask].data
        if mask.any():
            regions += _region_scores(score_map, mask)
    if not regions or not normal:
        missing = "normal" if regions else "defective"
        raise MetricError(
            f"pixel figures need both classes; no pixel of the {len(masks)} masks is {missing}"
        )
    scores = np.frombuffer(normal, dtype=np.float32)
    scores.sort()
    return PixelScores(scores, tuple(regions))


def _check(score_map: NDArray[np.float32], mask: NDArray[np.bool_], index: int) -> None:
    if score_map.dtype != np.float32 or mask.dtype != np.bool_:
        raise MetricError(
            f"map and mask {index} are {score_map.dtype} and {mask.dtype}, expected float32 and "
            "bool; a mask of grey values is made one by '> 0'"
        )
    if score_map.ndim != 2 or score_map.shape != mask.shape:
        raise MetricError(
            f"map {index} has shape {score_map.shape} and its mask {mask.shape}, expected one "
            "(height, width) for both; maps are measured at the resolution of the ground truth"
        )
    if not np.isfinite(score_map).all():
        row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(score_map)))
        raise MetricError(
            f"score {score_map[row, column]} of map {index} at row {row}, column {column} is not "
            "a finite number"
        )


def _region_scores(
    score_map: NDArray[np.float32], mask: NDArray[np.bool_]
) -> list[NDArray[np.float32]]:
    """Sorted scores of each region of one image."""
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    _, labels = cv2.connectedComponents(pixels, connectivity=_CONNECTIVITY, ltype=cv2.CV_32S)
    numbers = labels[mask]  # (num_defective,), from 1; 0 is the background
    by_region = score_map[mask][np.argsort(numbers, kind="stable")]
    ends = np.cumsum(np.bincount(numbers)[1:])
    return [np.sort(region) for region in np.split(by_region, ends[:-1])]
