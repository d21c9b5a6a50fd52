"""Where the defects are: connected regions of an anomaly map above a threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE, resized_size
from map_operator import anomaly_map

MAX_REGIONS = 100
"""Regions told at most, the highest peaks first."""


@dataclass(frozen=True)
class DefectRegion:
    """One connected region, in pixels of the inspected image.

    Attributes:
        box_px: ``(x, y, width, height)``.
        area_px: Its pixels.
        peak: Largest value in it of the map at that size.
        peak_at_px: ``(x, y)`` of that value.
    """

    box_px: tuple[int, int, int, int]
    area_px: int
    peak: float
    peak_at_px: tuple[int, int]


def defect_regions(
    map_: NDArray[np.float32], defect_threshold: float, min_area_px: int = 0
) -> list[DefectRegion]:
    """Regions of a map above a threshold, the highest peak first, at most `MAX_REGIONS`.

    Args:
        map_: ``(H, W)`` float32 anomaly map.
        defect_threshold: Values above it belong to a defect; 8-connected.
        min_area_px: Smaller regions are left out.
    """
    count, labels, statistics = _components(map_, defect_threshold)
    found = []
    for label in range(1, count):
        x, y, width, height, area = (int(value) for value in statistics[label])
        if area < min_area_px:
            continue
        inside = labels[y : y + height, x : x + width] == label
        values = np.where(inside, map_[y : y + height, x : x + width], -np.inf)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        peak = float(values[row, column])
        at = (x + int(column), y + int(row))
        found.append(DefectRegion((x, y, width, height), area, peak, at))
    return sorted(found, key=lambda region: -region.peak)[:MAX_REGIONS]


def brought_to(
    regions: Sequence[DefectRegion], size: tuple[int, int], map_: NDArray[np.float32]
) -> list[DefectRegion]:
    """Regions found in the map of one size, in pixels of the same map at another size.

    Args:
        regions: As from `defect_regions`.
        size: Height and width of the map that they were found in.
        map_: ``(H, W)`` float32 map of the other size.

    Returns:
        The same regions, the highest peak first.
    """
    to_y, to_x = map_.shape[0] / size[0], map_.shape[1] / size[1]
    found = []
    for region in regions:
        x, y, width, height = region.box_px
        left, right = _scaled(x, x + width, to_x, map_.shape[1])
        top, bottom = _scaled(y, y + height, to_y, map_.shape[0])
        inside = map_[top:bottom, left:right]
        row, column = np.unravel_index(int(inside.argmax()), inside.shape)
        box = (left, top, right - left, bottom - top)
        area = min(max(round(region.area_px * to_x * to_y), 1), box[2] * box[3])
        at = (left + int(column), top + int(row))
        found.append(DefectRegion(box, area, float(inside[row, column]), at))
    return sorted(found, key=lambda region: -region.peak)


def _scaled(start_px: int, end_px: int, factor: float, size_px: int) -> tuple[int, int]:
    """Whole pixels of another size that an interval touches."""
    start = min(int(start_px * factor), size_px - 1)
    return start, min(max(math.ceil(end_px * factor), start + 1), size_px)


def without_small_defects(
    distances: NDArray[np.float32],
    image_size: tuple[int, int],
    defect_threshold: float,
    min_area_px: int,
) -> NDArray[np.float32]:
    """Patch distances with those under a too small defect region set to 0.

    That is a patch whose centre lies in one, and also one that is above the threshold itself and
    reaches into one but into none that is large enough: at the border of the image, and between
    two patches, smoothing moves what is highest away from the centres.

    Args:
        distances: ``(rows, columns)`` float32.
        image_size: Height and width of the map in pixels.
        defect_threshold: As for `defect_regions`.
        min_area_px: As for `defect_regions`.
    """
    map_ = anomaly_map(distances, image_size)
    _, labels, statistics = _components(map_, defect_threshold)
    small = statistics[:, cv2.CC_STAT_AREA] < min_area_px
    large = ~small
    small[0] = large[0] = False  # what is above no threshold
    resized = resized_size(image_size, PATCH_SIZE * min(distances.shape))
    rows, columns = (
        PATCH_SIZE * size / to * np.arange(patches + 1)
        for size, to, patches in zip(image_size, resized, distances.shape, strict=True)
    )
    centres = labels[np.ix_(_between(rows), _between(columns))]
    reaches = _any_within(small[labels], rows, columns) & (distances > defect_threshold)
    under = small[centres] | (reaches & ~_any_within(large[labels], rows, columns))
    return np.where(under, np.float32(0), distances)


def _components(
    map_: NDArray[np.float32], threshold: float
) -> tuple[int, NDArray[np.int32], NDArray[np.int32]]:
    above = (map_ > threshold).astype(np.uint8)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    return count, labels.astype(np.int32, copy=False), statistics.astype(np.int32, copy=False)


def _between(edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The pixel at the centre of each patch along an axis."""
    return ((edges[:-1] + edges[1:]) / 2).astype(np.int64)


def _any_within(
    pixels: NDArray[np.bool_], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether any pixel of a patch is True; the last patches take the cropped margin with them."""
    starts = [edges[:-1].astype(np.int64) for edges in (rows, columns)]
    by_rows = np.logical_or.reduceat(pixels, starts[0], axis=0)
    found: NDArray[np.bool_] = np.logical_or.reduceat(by_rows, starts[1], axis=1)
    return found
