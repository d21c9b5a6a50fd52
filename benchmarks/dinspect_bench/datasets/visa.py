"""VisA as it is published: all images of an object in one place, divided by the official split.

::

    split_csv/1cls.csv                                  object,split,label,image,mask
    candle/Data/Images/Normal/0836.JPG
    candle/Data/Images/Anomaly/000.JPG
    candle/Data/Masks/Anomaly/000.png                   small integers, one per kind of defect

The split is part of the protocol: another division of the same images gives other figures. VisA
rearranged by its authors' ``prepare_data.py`` is in MVTec AD's layout and read by `mvtec`.

Source: Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
Segmentation", ECCV 2022; repository amazon-science/spot-diff.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinspect_bench.datasets.category import (
    GOOD,
    Category,
    LabelledImage,
    chosen_names,
    first_names,
    require_both_classes,
)
from dinspect_bench.errors import DatasetError

VISA_NAME = "visa"
VISA_CATEGORIES = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1",
    "pcb2", "pcb3", "pcb4", "pipe_fryum",
)  # fmt: skip
SPLIT_FILE = "split_csv/1cls.csv"
COLUMNS = ("object", "split", "label", "image", "mask")
ANOMALY = "anomaly"
_SPLITS = ("train", "test")
_LABELS = ("normal", ANOMALY)


@dataclass(frozen=True)
class _Row:
    """One line of the split file, checked; ``mask`` is empty for a normal image."""

    category: str
    split: str
    label: str
    image: str
    mask: str


def load_visa(root: Path, wanted: Sequence[str] | None = None) -> tuple[Category, ...]:
    """Find the images the official split names, and check that no file is missing.

    Args:
        root: Folder of the categories and of ``split_csv``.
        wanted: Categories to load; None for all.

    Raises:
        DatasetError: If the split file cannot be read, there is no such category, or a file that
            the split names is missing.
    """
    rows = _read_split(root / SPLIT_FILE)
    names = chosen_names(sorted({row.category for row in rows}), wanted, root)
    chosen = [row for row in rows if row.category in names]
    _require_files(root, chosen)
    return tuple(
        _category(name, root, [row for row in chosen if row.category == name]) for name in names
    )


def _category(name: str, root: Path, rows: Sequence[_Row]) -> Category:
    # Sorted, since the few-shot protocol takes slices of the sorted names; good ones come first.
    ordered = sorted(rows, key=lambda row: (row.label == ANOMALY, row.image))
    category = Category(
        name,
        root / name,
        good=tuple(root / row.image for row in ordered if row.split == "train"),
        test=tuple(_labelled(root, row) for row in ordered if row.split == "test"),
    )
    require_both_classes(category)
    return category


def _labelled(root: Path, row: _Row) -> LabelledImage:
    if row.label == ANOMALY:
        return LabelledImage(root / row.image, ANOMALY, root / row.mask)
    return LabelledImage(root / row.image, GOOD)


def _read_split(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"cannot read the official split {path}: {error}; it comes with VisA, and is in the "
            "repository amazon-science/spot-diff"
        ) from error
    head = tuple(lines[0]) if lines else ()
    if head != COLUMNS:
        raise DatasetError(
            f"{path} has the columns {', '.join(head)}, expected {', '.join(COLUMNS)}"
        )
    return [_row(line, path, number) for number, line in enumerate(lines[1:], start=2) if line]


def _row(line: Sequence[str], path: Path, number: int) -> _Row:
    """One line.

    Raises:
        DatasetError: If it is none of the split's, names a file outside its object's folder, gives
            an anomaly no mask, or trains on one.
    """
    try:
        row = _Row(*line)
    except TypeError:
        raise DatasetError(
            f"{path}, line {number} has {len(line)} fields, expected {len(COLUMNS)}"
        ) from None
    known = row.split in _SPLITS and row.label in _LABELS
    inside = all(
        file.startswith(f"{row.category}/") and ".." not in Path(file).parts
        for file in (row.image, row.mask)
        if file
    )
    is_anomaly = row.label == ANOMALY
    if not (known and inside and row.image and bool(row.mask) == is_anomaly):
        raise DatasetError(
            f"{path}, line {number} is {','.join(line)!r}; expected object, train or test, normal "
            "or anomaly, the image in the object's folder, and a mask for an anomaly alone"
        )
    if is_anomaly and row.split == "train":
        raise DatasetError(
            f"{path}, line {number} trains on an anomaly; the methods learn from good images "
            f"alone, as {SPLIT_FILE} has it"
        )
    return row


def _require_files(root: Path, rows: Sequence[_Row]) -> None:
    named = [file for row in rows for file in (row.image, row.mask) if file]
    missing = [file for file in named if not (root / file).is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(named)} files that {SPLIT_FILE} names are missing in {root}: "
            f"{first_names(missing)}; unpack the data set again, or ask for other categories"
        )
