"""Folders in the layout of MVTec AD: the data set itself, and all that are laid out like it.

::

    bottle/train/good/000.png                           to learn from
    bottle/test/good/000.png                            good ones to inspect
    bottle/test/broken_large/000.png                    defective ones
    bottle/ground_truth/broken_large/000_mask.png       where their defects are
    bottle/test_unmasked/broken_large/090.png           (ours) defective ones nobody has outlined

A mask may also be called as its image (``000.png``), as in VisA's own one-class preparation. A
category without ``ground_truth`` has no masks at all; with it, every image in ``test`` but the good
ones must have its mask.

Source: Bergmann et al., "MVTec AD", CVPR 2019. Which categories are textures and which parts come
in any orientation: AnomalyDINO, Table 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dinspect_bench.datasets.category import (
    GOOD,
    Category,
    LabelledImage,
    chosen_names,
    first_names,
    folders_in,
    images_in,
    other_files_in,
    require_both_classes,
)
from dinspect_bench.errors import DatasetError

MVTEC_AD_NAME = "mvtec_ad"
MVTEC_AD_CATEGORIES = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
    "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
MVTEC_AD_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_AD_ROTATED = ("hazelnut", "screw")

TRAIN, TEST, GROUND_TRUTH, UNMASKED = "train", "test", "ground_truth", "test_unmasked"
_MASK_ENDING = "_mask"


def is_category(folder: Path) -> bool:
    """Whether a folder looks like one category."""
    return (folder / TRAIN / GOOD).is_dir()


def is_incomplete(folder: Path) -> bool:
    """Whether a folder has parts of a category, but nothing to learn from."""
    has_parts = any((folder / part).is_dir() for part in (TEST, GROUND_TRUTH))
    return has_parts and not is_category(folder)


def load_mvtec(root: Path, wanted: Sequence[str] | None = None) -> tuple[Category, ...]:
    """Find the images of a data set, and check that no file is missing.

    Args:
        root: Folder of the categories, or that of a single one.
        wanted: Categories to load; None for all.

    Raises:
        DatasetError: If there is no such category, a mask or an image is missing, or a category has
            no good or no defective images, or no folder to learn from.
    """
    inner = () if is_category(root) else folders_in(root)
    folders = [root] if is_category(root) else [one for one in inner if is_category(one)]
    _require_whole(inner if folders else [root, *inner], wanted)
    by_name = {folder.resolve().name: folder for folder in folders}
    if not by_name:
        raise DatasetError(
            f"no folder in {root} is laid out like MVTec AD; expected "
            f"{root}/CATEGORY/{TRAIN}/{GOOD}, or {root}/{TRAIN}/{GOOD} for a single category"
        )
    names = chosen_names(list(by_name), wanted, root)
    return tuple(_load_category(name, by_name[name]) for name in names)


def _require_whole(folders: Sequence[Path], wanted: Sequence[str] | None) -> None:
    """Refuse what an unfinished copy left of a category, where all are asked for or this one is."""
    broken = [
        folder
        for folder in folders
        if is_incomplete(folder) and (wanted is None or folder.resolve().name in wanted)
    ]
    if broken:
        raise DatasetError(
            f"{len(broken)} of the categories are incomplete: {first_names(map(str, broken))} with "
            f"{TEST} or {GROUND_TRUTH}, but without {TRAIN}/{GOOD}; unpack the data set again, or "
            "name the others with --categories"
        )


def _load_category(name: str, folder: Path) -> Category:
    category = Category(
        name,
        folder,
        good=images_in(folder / TRAIN / GOOD),
        test=(*_masked_images(folder), *_unmasked_images(folder)),
        texture=name in MVTEC_AD_TEXTURES,
        rotated=name in MVTEC_AD_ROTATED,
        passed_over=_passed_over(folder),
    )
    require_both_classes(category)
    return category


def _passed_over(folder: Path) -> tuple[Path, ...]:
    kinds = [kind for part in (TEST, GROUND_TRUTH, UNMASKED) for kind in folders_in(folder / part)]
    folders = [folder / TRAIN / GOOD, *kinds]
    return tuple(path for one in folders for path in other_files_in(one))


def _masked_images(folder: Path) -> list[LabelledImage]:
    """The images of ``test``, good ones first, with their masks if the category has any."""
    defects = [one.name for one in folders_in(folder / TEST) if one.name != GOOD]
    images = [LabelledImage(path, GOOD) for path in images_in(folder / TEST / GOOD)]
    has_masks = (folder / GROUND_TRUTH).is_dir()
    for defect in defects:
        paths = images_in(folder / TEST / defect)
        masks = _masks_by_stem(folder / GROUND_TRUTH / defect) if has_masks else {}
        if has_masks:
            _require_pairs(folder, defect, paths, masks)
        images += [LabelledImage(path, defect, masks.get(path.stem)) for path in paths]
    if has_masks:
        _require_images_of_masks(folder, defects)
    return images


def _unmasked_images(folder: Path) -> list[LabelledImage]:
    return [
        LabelledImage(path, defects.name)
        for defects in folders_in(folder / UNMASKED)
        for path in images_in(defects)
    ]


def _masks_by_stem(folder: Path) -> dict[str, Path]:
    """Masks by the name of the image they belong to, without ending."""
    return {path.stem.removesuffix(_MASK_ENDING): path for path in images_in(folder)}


def _require_pairs(
    folder: Path, defect: str, paths: Sequence[Path], masks: dict[str, Path]
) -> None:
    bare = [f"{TEST}/{defect}/{path.name}" for path in paths if path.stem not in masks]
    if bare:
        raise DatasetError(
            f"{len(bare)} of {len(paths)} images in {folder}/{TEST}/{defect} have no mask: "
            f"{first_names(bare)}; expected {GROUND_TRUTH}/{defect}/NAME{_MASK_ENDING}.png of "
            f"each. If nobody has outlined their defects, move them to {UNMASKED}/{defect}"
        )
    stems = {path.stem for path in paths}
    lone = [
        f"{GROUND_TRUTH}/{defect}/{mask.name}" for stem, mask in masks.items() if stem not in stems
    ]
    if lone:
        raise DatasetError(
            f"{len(lone)} masks in {folder} have no image in {TEST}/{defect}: {first_names(lone)}; "
            "the data set is incomplete, unpack it again"
        )


def _require_images_of_masks(folder: Path, defects: Sequence[str]) -> None:
    """A kind of defect that only has masks: its images are missing as a whole."""
    masked = [one.name for one in folders_in(folder / GROUND_TRUTH) if one.name != GOOD]
    lone = [
        name for name in masked if name not in defects and images_in(folder / GROUND_TRUTH / name)
    ]
    if lone:
        raise DatasetError(
            f"{folder} has masks of {', '.join(lone)}, but there is no folder of such images in "
            f"{TEST}; the data set is incomplete, unpack it again"
        )
