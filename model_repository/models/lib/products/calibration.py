"""Thresholds from good parts alone.

Each reference is scored against the bank of all the others (leave one image out), which is how a
good part that was not enrolled will score; the threshold is the quantile of those scores that lets
the stated share of good parts be rejected. With a single reference there are no others. Its own
rotations stand in, and since a turned part is often stranger than a defect, their scores only say
what is surely anomalous: nothing below them may be called normal. Good images that are not
references do better than both, where there are some.

The patch distances themselves are kept with the version, so that thresholds for another rate,
another image score or another region need neither the images nor the bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import Region
from defect_regions import without_small_defects
from image_score import image_score
from inspected_region import area_px
from map_operator import anomaly_map
from refusals import InspectionRefused

DEFAULT_FALSE_POSITIVE_RATE = 0.05
DEFAULT_UNDECIDED_RATE = 0.0
MAX_LEFT_OUT = 64
"""References scored at most; more would not move the quantile, but cost their square."""

_ROUNDING = 1e-9

LEAVE_ONE_OUT = "leave_one_out"
ROTATIONS = "rotations_of_the_only_reference"
GOOD_IMAGES = "good_images"
BY_HAND = "by_hand"


@dataclass(frozen=True)
class GoodParts:
    """Patch distances of parts known to be good.

    Attributes:
        distances: ``(images, rows, columns)`` float32, 0 where masked; every patch, whatever the
            region.
        foreground: ``(images, rows, columns)`` bool, False where masked.
    """

    distances: NDArray[np.float32]
    foreground: NDArray[np.bool_]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As they are stored."""
        return {
            "patch_distances": self.distances,
            "foreground": self.foreground.astype(np.uint8),
        }

    def followed_by(self, others: GoodParts) -> GoodParts:
        """These parts and others behind them."""
        return GoodParts(
            np.concatenate([self.distances, others.distances]),
            np.concatenate([self.foreground, others.foreground]),
        )

    @classmethod
    def from_tensors(cls, stored: dict[str, NDArray[Any]], grid: tuple[int, int]) -> GoodParts:
        """Read what `tensors` stored.

        Raises:
            InspectionRefused: If one is missing or of another grid, or holds no distances.
        """
        try:
            parts = cls(stored["patch_distances"], stored["foreground"].astype(bool))
        except KeyError as error:
            raise InspectionRefused(f"the good parts lack {error}") from None
        same = parts.distances.shape == parts.foreground.shape
        if not same or parts.distances.shape[1:] != grid or not len(parts.distances):
            raise InspectionRefused(
                f"the good parts' distances are {parts.distances.shape}, expected (images, *{grid})"
            )
        if not ((parts.distances >= 0) & (parts.distances <= 2)).all():  # False for NaN, too
            raise InspectionRefused("the good parts hold numbers that are no cosine distances")
        return parts

    @classmethod
    def measured(
        cls, flat: Sequence[NDArray[np.float32]], foreground: Sequence[NDArray[np.bool_]]
    ) -> GoodParts:
        """Of ``(N,)`` distances and ``(rows, columns)`` foregrounds, one each per image."""
        masks = np.array(foreground)
        distances = np.stack(flat).reshape(masks.shape)
        return cls(np.where(masks, distances, np.float32(0)), masks)


@dataclass(frozen=True)
class Thresholds:
    """What a version decides by.

    Attributes:
        threshold: Score above which a part is anomalous.
        normal_below: Score up to which it is normal.
        defect_threshold: Value of the map above which a pixel is part of a defect region.
        scores: Of the good parts.
    """

    threshold: float
    normal_below: float
    defect_threshold: float
    scores: list[float]


def counted_score(
    name: str,
    distances: NDArray[np.float32],
    foreground: NDArray[np.bool_],
    region: Region,
    map_size: tuple[int, int],
    defect_threshold: float,
) -> float:
    """The score of an image in which only part of the patches counts.

    Whatever the size of the image, its map is that of the references' size: it is smoothed by so
    many pixels, so a smaller image of the same part would have a flatter map, in which a defect is
    lower than the thresholds and smaller than the smallest that counts.

    Args:
        name: One of `image_score.IMAGE_SCORES`.
        distances: ``(rows, columns)`` float32, 0 where masked or outside the region.
        foreground: ``(rows, columns)`` bool, False where masked.
        region: What counts, and the smallest defect that does.
        map_size: Height and width of the references in pixels.
        defect_threshold: For the smallest defect.
    """
    if region.min_defect_area_px:
        distances = without_small_defects(
            distances, map_size, defect_threshold, region.min_defect_area_px
        )
    return image_score(name, distances, foreground, region.mask, map_size)


def find_thresholds(
    parts: GoodParts,
    method: str,
    image_score_name: str,
    region: Region,
    image_size: tuple[int, int],
    false_positive_rate: float,
    undecided_rate: float,
) -> Thresholds:
    """Thresholds at which the stated shares of good parts are rejected or undecided.

    Args:
        parts: The good parts.
        method: How they were measured: what a sole reference's rotations say is never enough to
            call a part normal.
        image_score_name: One of `image_score.IMAGE_SCORES`.
        region: What counts.
        image_size: Height and width of the references in pixels.
        false_positive_rate: Share of good parts that may be anomalous, in (0, 1).
        undecided_rate: Share of good parts that may be undecided besides, in [0, 1).

    Raises:
        InspectionRefused: If no defect could be as large as the smallest that counts.
    """
    largest_px = area_px(region.mask, image_size)
    if region.min_defect_area_px > largest_px:
        raise InspectionRefused(
            f"the smallest defect that counts has {region.min_defect_area_px} px, but what is "
            f"inspected has {largest_px:.0f} px, so that no defect would ever count"
        )
    inspected = np.where(region.mask, parts.distances, np.float32(0))
    peaks = np.array([anomaly_map(distances, image_size).max() for distances in inspected])
    defect_threshold = threshold_at(peaks, false_positive_rate)
    scores = np.array(
        [
            counted_score(
                image_score_name,
                distances,
                foreground,
                region,
                image_size,
                defect_threshold,
            )
            for distances, foreground in zip(inspected, parts.foreground, strict=True)
        ]
    )
    threshold = threshold_at(scores, false_positive_rate)
    normal_below = threshold_at(scores, false_positive_rate + undecided_rate)
    if method == ROTATIONS:
        normal_below = 0.0
    return Thresholds(threshold, normal_below, defect_threshold, [float(s) for s in scores])


def left_out(num_references: int) -> NDArray[np.int64]:
    """Which references are scored against the others: all, or `MAX_LEFT_OUT` evenly spaced."""
    count = min(num_references, MAX_LEFT_OUT)
    return np.unique(np.linspace(0, num_references - 1, count).astype(np.int64))


def leave_one_out(
    distances_without: Callable[[NDArray[np.float32], int], NDArray[np.float32]],
    queries: Sequence[NDArray[np.float32]],
    groups: Sequence[int],
    foreground: Sequence[NDArray[np.bool_]],
) -> GoodParts:
    """Patch distances of images to a bank without their own rows.

    Args:
        distances_without: `nearest_neighbours.CosineSearch.distances_without`.
        queries: ``(N, D)`` float32 unit tokens per image.
        groups: Whose rows of the bank each image must not see.
        foreground: ``(rows, columns)`` bool per image.
    """
    flat = [distances_without(query, group) for query, group in zip(queries, groups, strict=True)]
    return GoodParts.measured(flat, foreground)


def threshold_at(scores: NDArray[np.float64], false_positive_rate: float) -> float:
    """Score of a good part that no more than the stated share of good parts are above.

    The quantile is rounded up to a score. Of few scores that is a higher one than the share among
    themselves asks for, because the next good part scores above the largest of n in one case of
    n + 1.

    Args:
        scores: Scores of good parts.
        false_positive_rate: Share in (0, 1) of good parts that may be rejected. With fewer scores
            than its inverse this is the largest score.
    """
    # Rounded up by hand: NumPy's quantile takes 55.00000000000001 of 101 scores for the 56th.
    place = (len(scores) - 1) * (1.0 - false_positive_rate)
    return float(np.sort(scores)[math.ceil(place - _ROUNDING)])
