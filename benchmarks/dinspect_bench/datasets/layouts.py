"""A data set's folder, in whichever layout it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dinspect_bench.datasets.category import Category, Dataset, first_names, folders_in
from dinspect_bench.datasets.mvtec import (
    MVTEC_AD_CATEGORIES,
    MVTEC_AD_NAME,
    is_category,
    is_incomplete,
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
PUBLISHED: dict[str, tuple[str, ...]] = {
    MVTEC_AD_NAME: MVTEC_AD_CATEGORIES,
    VISA_NAME: VISA_CATEGORIES,
}
"""Published data sets by name, with their categories."""


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
        name: What to call it; None for `known_name`.

    Raises:
        DatasetError: If there is no such folder, its layout is neither, or files are missing.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}; name the data set's folder")
    found = layout or detect_layout(root)
    loaded = LOADERS[found](root, categories)
    dataset = Dataset(name or known_name(root, found, loaded), found, loaded)
    if dataset.name in PUBLISHED:
        _require_every_mask(dataset)
    return dataset


def detect_layout(root: Path) -> str:
    """The layout of a folder.

    Raises:
        DatasetError: If it is neither.
    """
    if (root / SPLIT_FILE).is_file():
        return VISA
    folders = [root, *folders_in(root)]
    if any(is_category(folder) or is_incomplete(folder) for folder in folders):
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


def known_name(root: Path, layout: str, categories: Sequence[Category]) -> str:
    """What a data set is called: a published one by its name, any other by its folder.

    A published one has the folders of all of its categories, whichever of them are loaded: a
    plant's own folder may well have a category ``screw``. A category's folder is of the set that
    lies around it.

    Args:
        root: Its folder, or that of one category in MVTec AD's layout.
        layout: ``mvtec`` or ``visa``.
        categories: Those that are loaded.
    """
    loaded = {category.name for category in categories}
    is_single = layout == MVTEC and is_category(root)
    whole = root.resolve().parent if is_single else root
    for name, published in PUBLISHED.items():
        if loaded <= set(published) and all(_has_category(whole, layout, one) for one in published):
            return name
    return root.resolve().name


def _has_category(root: Path, layout: str, name: str) -> bool:
    return is_category(root / name) if layout == MVTEC else (root / name).is_dir()


def _require_every_mask(dataset: Dataset) -> None:
    """Refuse a published data set, all of whose defects are outlined, where masks are missing."""
    for category in dataset.categories:
        bare = [category.name_of(image.path) for image in category.test if not image.is_outlined]
        if bare:
            raise DatasetError(
                f"{len(bare)} defective images of {category.name} in {category.folder} have no "
                f"mask: {first_names(bare)}; {dataset.name} as it is published has one of each. "
                "Unpack it again, or call the data set otherwise with --name"
            )
