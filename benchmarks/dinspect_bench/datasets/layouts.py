"""A data set's folder, in whichever layout it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dinspect_bench.datasets.category import Category, Dataset, folders_in
from dinspect_bench.datasets.mvtec import (
    MVTEC_AD_CATEGORIES,
    MVTEC_AD_NAME,
    is_category,
    load_mvtec,
)
from dinspect_bench.datasets.visa import SPLIT_FILE, VISA_CATEGORIES, VISA_NAME, load_visa
from dinspect_bench.errors import DatasetError

MVTEC, VISA = "mvtec", "visa"
LOADERS: dict[str, Callable[[Path, Sequence[str] | None], tuple[Category, ...]]] = {
    MVTEC: load_mvtec,
    VISA: load_visa,
}
"""Layouts by name."""


def load_dataset(
    root: Path,
    layout: str | None = None,
    categories: Sequence[str] | None = None,
    name: str | None = None,
) -> Dataset:
    """Find the images of a data set, and check that no file is missing.

    Args:
        root: Its folder, or the folder of one category in MVTec AD's layout.
        layout: ``mvtec`` or ``visa``; None to see by the files.
        categories: Categories to load; None for all.
        name: What to call it; None to see by the categories' names.

    Raises:
        DatasetError: If there is no such folder, its layout is neither, or files are missing.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; name the data set's folder")
    found = layout or detect_layout(root)
    loaded = LOADERS[found](root, categories)
    return Dataset(name or _known_name(root, found, loaded), found, loaded)


def detect_layout(root: Path) -> str:
    """The layout of a folder.

    Raises:
        DatasetError: If it is neither.
    """
    if (root / SPLIT_FILE).is_file():
        return VISA
    if is_category(root) or any(is_category(folder) for folder in folders_in(root)):
        return MVTEC
    if any((folder / "Data" / "Images").is_dir() for folder in folders_in(root)):
        raise DatasetError(
            f"{root} looks like VisA, but lacks the official split {SPLIT_FILE}; it comes with "
            "the data set, and is in the repository amazon-science/spot-diff"
        )
    raise DatasetError(
        f"{root} is laid out neither like MVTec AD (CATEGORY/train/good, CATEGORY/test/DEFECT) nor "
        f"like VisA ({SPLIT_FILE}); name the folder that holds the categories"
    )


def _known_name(root: Path, layout: str, categories: Sequence[Category]) -> str:
    """The published data set's name if all categories are of it, else the folder's."""
    names = {category.name for category in categories}
    is_single = layout == MVTEC and is_category(root)
    if layout == MVTEC and not is_single and names <= set(MVTEC_AD_CATEGORIES):
        return MVTEC_AD_NAME
    if not is_single and names <= set(VISA_CATEGORIES):
        return VISA_NAME
    return root.resolve().name
