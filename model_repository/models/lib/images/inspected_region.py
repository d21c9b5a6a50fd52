"""Which patches count: a rectangle and an ignore mask, in pixels, brought to the patch grid.

A patch is left out only if none of its pixels is inspected, so at the border of a region a patch
too many counts, and never one too few.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE, resized_size, same_aspect
from refusals import InspectionRefused

IGNORED_ABOVE = 127
"""Grey value above which a pixel of an ignore mask is ignored."""


def inspected_patches(
    grid: tuple[int, int],
    image_size: tuple[int, int],
    roi_px: Sequence[int] | None = None,
    ignore_mask: NDArray[np.uint8] | None = None,
) -> NDArray[np.bool_]:
    """The patches that hold at least one inspected pixel.

    Args:
        grid: Rows and columns of the patch grid.
        image_size: Height and width of the product's references in pixels.
        roi_px: ``x, y, width, height`` of the region of interest in their pixels; None for all.
        ignore_mask: ``(H, W, 3)`` uint8 image of the same aspect ratio, bright where ignored.

    Returns:
        ``(rows, columns)`` bool.

    Raises:
        InspectionRefused: If the rectangle leaves the image, the mask has another aspect ratio,
            or no patch is left.
    """
    height, width = image_size if ignore_mask is None else ignore_mask.shape[:2]
    if not same_aspect((height, width), image_size):
        raise InspectionRefused(
            f"the ignore mask is {width} x {height} px, the product's images are "
            f"{image_size[1]} x {image_size[0]} px; draw it on an image of the product"
        )
    inspected = np.zeros((height, width), bool)
    if roi_px is None:
        inspected[:] = True
    else:
        _check_roi(roi_px, image_size)
        scale_y, scale_x = height / image_size[0], width / image_size[1]
        x, y, roi_width, roi_height = roi_px
        rows = slice(int(y * scale_y), int(np.ceil((y + roi_height) * scale_y)))
        inspected[rows, int(x * scale_x) : int(np.ceil((x + roi_width) * scale_x))] = True
    if ignore_mask is not None:
        inspected &= ignore_mask.max(axis=2) <= IGNORED_ABOVE
    patches = _any_per_patch(inspected, grid)
    if not patches.any():
        raise InspectionRefused("no patch is left to inspect; enlarge the region of interest")
    return patches


def foreground_share(foreground: NDArray[np.bool_], inspected: NDArray[np.bool_]) -> list[float]:
    """Smallest and largest share of the inspected patches that are foreground, among images.

    Args:
        foreground: ``(images, rows, columns)`` bool, False where masked.
        inspected: ``(rows, columns)`` bool, at least one of them True.
    """
    shares = foreground[:, inspected].mean(axis=1)
    return [float(shares.min()), float(shares.max())]


def area_px(patches: NDArray[np.bool_], image_size: tuple[int, int]) -> float:
    """Area that patches cover, in pixels of an image of a size.

    Args:
        patches: ``(rows, columns)`` bool.
        image_size: Height and width of the image in pixels.
    """
    resized = resized_size(image_size, PATCH_SIZE * min(patches.shape))
    edges = [PATCH_SIZE * size / to for size, to in zip(image_size, resized, strict=True)]
    return float(patches.sum() * edges[0] * edges[1])


def _check_roi(roi_px: Sequence[int], image_size: tuple[int, int]) -> None:
    x, y, width, height = roi_px
    fits = min(x, y) >= 0 and min(width, height) > 0
    if not fits or x + width > image_size[1] or y + height > image_size[0]:
        raise InspectionRefused(
            f"the region of interest x, y, width, height = {', '.join(map(str, roi_px))} px is not "
            f"inside the product's images of {image_size[1]} x {image_size[0]} px"
        )


def _any_per_patch(pixels: NDArray[np.bool_], grid: tuple[int, int]) -> NDArray[np.bool_]:
    resized = resized_size((pixels.shape[0], pixels.shape[1]), PATCH_SIZE * min(grid))
    rows = _footprints(pixels.shape[0], resized[0], grid[0])
    columns = _footprints(pixels.shape[1], resized[1], grid[1])
    return np.array([[bool(pixels[row, column].any()) for column in columns] for row in rows])


def _footprints(size_px: int, resized_px: int, patches: int) -> list[slice]:
    """Pixels of the original image that each patch along an axis covers, if only partly."""
    edge = PATCH_SIZE * size_px / resized_px
    return [
        slice(int(index * edge), min(int(np.ceil((index + 1) * edge)), size_px))
        for index in range(patches)
    ]
