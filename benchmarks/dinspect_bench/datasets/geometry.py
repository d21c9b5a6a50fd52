"""Sizes of a category's images. A product has one camera geometry, so all must be of one shape.

The server inspects a product's images of one aspect ratio alone (within one percent): another one
means another camera, and a backbone of another input size. A data set that mixes them is either
refused here, before anything is enrolled, or the others are left out and said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dinspect_bench.datasets.category import Category, first_names, require_both_classes
from dinspect_bench.errors import DatasetError

ASPECT_TOLERANCE = 0.01
"""The server's own: aspect ratios within it are of one camera."""
_ORIENTATION = 0x0112  # EXIF
_SIDEWAYS = (5, 6, 7, 8)

Size = tuple[int, int]
"""Height and width in pixels."""


def image_size(path: Path) -> Size:
    """Height and width of an image in pixels, turned as its camera noted.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except (OSError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read image {path}: {error}") from error
    return (width, height) if sideways else (height, width)


def require_one_geometry(category: Category) -> None:
    """Refuse a category whose images cannot all be inspected as one product.

    Raises:
        DatasetError: If some have another aspect ratio than most, naming them.
    """
    sizes = _sizes_of(category)
    common = _commonest(sizes.values())
    others = [path for path, size in sizes.items() if not same_aspect(size, common)]
    if others:
        listed = [f"{category.name_of(path)} ({describe_size(sizes[path])})" for path in others]
        raise DatasetError(
            f"{len(others)} of {len(sizes)} images of {category.name} have another aspect ratio "
            f"than {describe_size(common)}: {first_names(listed)}; a product has one camera "
            "geometry. Measure those of the commonest one alone with --one-geometry: the record "
            "then says what was left out"
        )


def of_one_geometry(category: Category) -> Category:
    """A category without the images of another aspect ratio than the commonest size.

    Returns:
        The category, with what is left out in `Category.left_out`.

    Raises:
        DatasetError: If nothing to learn from, or no good or no defective image, is left.
    """
    sizes = _sizes_of(category)
    common = _commonest(sizes.values())
    kept = {path for path, size in sizes.items() if same_aspect(size, common)}
    chosen = replace(
        category,
        good=tuple(path for path in category.good if path in kept),
        test=tuple(image for image in category.test if image.path in kept),
        left_out=tuple(path for path in sizes if path not in kept),
    )
    require_both_classes(chosen)
    return chosen


def same_aspect(size: Size, other: Size) -> bool:
    """Whether two sizes are of one camera geometry."""
    ratio = (size[1] / size[0]) / (other[1] / other[0])
    return abs(ratio - 1) <= ASPECT_TOLERANCE


def describe_size(size: Size) -> str:
    """A size as people write it, width first."""
    return f"{size[1]} x {size[0]} px"


def _sizes_of(category: Category) -> Mapping[Path, Size]:
    paths = [*category.good, *(image.path for image in category.test)]
    return {path: image_size(path) for path in paths}


def _commonest(sizes: Iterable[Size]) -> Size:
    # Of two sizes that are as common, the larger, so that it does not depend on any order.
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], size))
