"""The worst misses and false alarms of a run, as entries of its record and as small pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dinspect_bench.accuracy.inspected_category import InspectedCategory
from dinspect_bench.datasets.masks import read_mask
from dinspect_client.files import whole_file
from dinspect_client.overlay import overlay_image, read_rgb

NUM_EACH = 3
"""Misses, and as many false alarms."""
LONGER_SIDE_PX = 320
_JPEG_QUALITY = 80
_SMALLEST_PEAK = 1e-6  # the scale must end above 0
_OUTLINE_RGB = (255, 255, 255)

Rgb = NDArray[np.uint8]


@dataclass(frozen=True)
class PictureFolder:
    """Where pictures go, and how a record names them.

    Attributes:
        folder: Of the pictures.
        relative_to: Folder of the record file.
    """

    folder: Path
    relative_to: Path


def worst_images(
    inspected: InspectedCategory, pictures: PictureFolder, prefix: str
) -> list[dict[str, Any]]:
    """The defective images with the lowest scores, then the good ones with the highest.

    They are chosen by score alone, so they are there too where every one is told rightly.

    Args:
        inspected: A category's test images.
        pictures: Where their pictures go.
        prefix: Beginning of the pictures' names, another for every run.

    Returns:
        ``file``, ``label``, ``score`` and ``picture`` of each, the worst of each kind first.
    """
    peak = color_peak(inspected)
    entries = []
    for index in worst_indices(inspected.is_defective, inspected.scores):
        target = pictures.folder / f"{prefix}-{inspected.map_files[index].stem}.jpg"
        write_jpeg(target, paint(inspected, index, peak))
        entries.append(
            {
                "file": inspected.names[index],
                "label": inspected.images[index].defect,
                "score": inspected.scores[index],
                "picture": target.relative_to(pictures.relative_to).as_posix(),
            }
        )
    return entries


def color_peak(inspected: InspectedCategory) -> float:
    """Value of the map that gets the last colour: where half of the defective images reach.

    One for all pictures of a run, and not the threshold's: with a single reference that is a guess.
    """
    peaks = [
        peak
        for peak, defective in zip(inspected.map_peaks, inspected.is_defective, strict=True)
        if defective
    ]
    return max(float(np.median(peaks)), _SMALLEST_PEAK)


def worst_indices(is_defective: list[bool], scores: tuple[float, ...]) -> list[int]:
    """Which images: the lowest scores of the defective ones, then the highest of the good ones."""
    ascending = sorted(range(len(scores)), key=lambda index: scores[index])
    misses = [index for index in ascending if is_defective[index]]
    false_alarms = [index for index in reversed(ascending) if not is_defective[index]]
    return misses[:NUM_EACH] + false_alarms[:NUM_EACH]


def paint(inspected: InspectedCategory, index: int, peak: float) -> Rgb:
    """A small picture of an image with its map over it, and a white line around its defects.

    Args:
        inspected: A category's test images.
        index: Which of them.
        peak: Value of the map that gets the last colour.

    Returns:
        ``(h, w, 3)`` uint8 RGB, the longer side at most `LONGER_SIDE_PX`.
    """
    image = inspected.images[index]
    original = read_rgb(image.path)
    height, width = original.shape[:2]
    scale = min(1.0, LONGER_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    anomaly_map = np.load(inspected.map_files[index], allow_pickle=False)
    small = np.asarray(cv2.resize(original, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    small_map = np.asarray(cv2.resize(anomaly_map, size, interpolation=cv2.INTER_AREA))
    picture = overlay_image(small, small_map, peak=peak)
    if image.mask is not None:
        mask = read_mask(image.mask).astype(np.uint8)
        # The largest value of each cell and not the nearest: a scratch must not vanish.
        share = cv2.resize(mask * 255, size, interpolation=cv2.INTER_AREA)
        outlines, _ = cv2.findContours(
            (share > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, outlines, -1, _OUTLINE_RGB, 1)
    return picture


def write_jpeg(path: Path, picture: Rgb) -> None:
    """Write a picture; nobody ever sees half a file.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    with whole_file(path, overwrite=True) as file:
        file.write(data.tobytes())
