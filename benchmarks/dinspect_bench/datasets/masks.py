"""Masks of the ground truth: where a defect is, pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dinspect_bench.datasets.category import Category
from dinspect_bench.datasets.geometry import describe_size, image_size
from dinspect_bench.errors import DatasetError

_GREY_MODES = ("1", "L", "P", "I", "I;16")
_COLOUR_MODES = ("RGB", "RGBA", "LA")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask at its own resolution.

    MVTec AD's masks are 0 and 255, VisA's small integers, one per kind of defect: anything above 0
    is defective. Of a palette the index counts, of colours any but black, transparency does not.

    Args:
        path: Its file.

    Returns:
        ``(H, W)`` bool, True where the defect is.

    Raises:
        DatasetError: If it cannot be read, or is no mask: of another pixel format, or all normal.
    """
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read mask {path}: {error}") from error
    if mode in _COLOUR_MODES:
        has_alpha = mode.endswith("A")
        values = (values[..., :-1] if has_alpha else values).max(axis=-1)
    elif mode not in _GREY_MODES:
        raise DatasetError(f"mask {path} has pixel format {mode}, expected grey or a palette")
    defective: NDArray[np.bool_] = np.asarray(values > 0)
    if not defective.any():
        raise DatasetError(
            f"mask {path} calls every pixel normal, but belongs to a defective image; if nobody "
            "has outlined its defect, there must be no mask of it"
        )
    return defective


def require_fitting_masks(category: Category) -> None:
    """Read every mask of a category, so that none is found to be wrong after hours.

    Raises:
        DatasetError: If one cannot be read, is no mask, or is not of its image's size.
    """
    for image in category.test:
        if image.mask is None:
            continue
        height, width = read_mask(image.mask).shape
        expected = image_size(image.path)
        if (height, width) != expected:
            raise DatasetError(
                f"mask {image.mask} is {describe_size((height, width))}, its image {image.path} "
                f"{describe_size(expected)}; a mask says of every pixel of its image whether it is "
                "defective. Take the mask of this very image, not resized"
            )
