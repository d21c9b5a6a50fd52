"""What a data set is to the benchmarks: good images to learn from, labelled ones to inspect."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinspect_bench.errors import DatasetError
from dinspect_client.images import IMAGE_SUFFIXES

GOOD = "good"
"""The label of an image without a defect, as MVTec AD calls its folder."""
NUM_NAMED = 3
"""Files that a message names before it only counts."""
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class LabelledImage:
    """One image to inspect, with the truth about it.

    Attributes:
        path: Its file.
        defect: Kind of defect, ``good`` for none.
        mask: File of the ground truth, above 0 where the defect is; None for a good image, and for
            a defective one that nobody has outlined.
    """

    path: Path
    defect: str
    mask: Path | None = None

    @property
    def is_defective(self) -> bool:
        """Whether it shows a defect."""
        return self.defect != GOOD

    @property
    def is_outlined(self) -> bool:
        """Whether it is known of every pixel if it is defective."""
        return self.mask is not None or not self.is_defective


@dataclass(frozen=True)
class Category:
    """One kind of part: what the methods learn from and what they are measured on.

    Attributes:
        name: Name of the category, as the data set calls it.
        folder: Where its files are.
        good: Good images to learn from, by their file names.
        test: Images to inspect.
        texture: Whether the parts are a surface without background, which is never masked.
        rotated: Whether the parts are known to come in any orientation.
        left_out: Files that are in the data set and are not measured, since a product has one
            camera geometry; see `geometry.of_one_geometry`.
        passed_over: Files in its folders whose ending is no image's.
    """

    name: str
    folder: Path
    good: tuple[Path, ...]
    test: tuple[LabelledImage, ...]
    texture: bool = False
    rotated: bool = False
    left_out: tuple[Path, ...] = ()
    passed_over: tuple[Path, ...] = ()

    def name_of(self, path: Path) -> str:
        """A file's path within the category, the same on every machine."""
        return path.relative_to(self.folder).as_posix()

    def sha256(self) -> str:
        """Digest of roles, names and contents of all its files: what exactly is measured.

        Raises:
            DatasetError: If a file cannot be read.
        """
        digest = hashlib.sha256()
        for role, path in self._roles():
            digest.update(f"{role}\n{self.name_of(path)}\n{file_sha256(path)}\n".encode())
        return digest.hexdigest()

    def _roles(self) -> Iterator[tuple[str, Path]]:
        """Every file with what it is for; of VisA's the name does not say in which split it is."""
        for path in self.good:
            yield "train", path
        for image in self.test:
            yield f"test {image.defect}", image.path
            if image.mask is not None:
                yield "mask", image.mask


@dataclass(frozen=True)
class Dataset:
    """Categories that are reported together.

    Attributes:
        name: ``mvtec_ad`` or ``visa``, see `layouts.known_name`, else the folder's name.
        layout: ``mvtec`` or ``visa``: how its files lie.
        categories: In alphabetical order.
    """

    name: str
    layout: str
    categories: tuple[Category, ...]


def images_in(folder: Path) -> tuple[Path, ...]:
    """Image files of a folder by name, hidden ones left out; none if there is no such folder."""
    return tuple(path for path in _seen_in(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def other_files_in(folder: Path) -> tuple[Path, ...]:
    """Files of a folder that `images_in` passes over, hidden ones left out."""
    return tuple(
        path
        for path in _seen_in(folder)
        if path.suffix.lower() not in IMAGE_SUFFIXES and path.is_file()
    )


def folders_in(folder: Path) -> tuple[Path, ...]:
    """Folders in a folder by name, hidden ones left out; none if there is no such folder."""
    return tuple(path for path in _seen_in(folder) if path.is_dir())


def _seen_in(folder: Path) -> list[Path]:
    """What is in a folder by name, but for hidden files; nothing if there is no such folder."""
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]


def first_names(names: Iterable[str]) -> str:
    """The first few names, for a message, and how many there are besides."""
    listed = list(names)
    more = len(listed) - NUM_NAMED
    return ", ".join(listed[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def chosen_names(known: Sequence[str], wanted: Sequence[str] | None, where: Path) -> list[str]:
    """The categories asked for, in the data set's order.

    Args:
        known: Categories there are.
        wanted: Those asked for; None for all.
        where: The data set, for the message.

    Raises:
        DatasetError: If one of them is not there.
    """
    missing = [name for name in wanted or () if name not in known]
    if missing:
        raise DatasetError(
            f"there is no category {', '.join(missing)} in {where}; it has {', '.join(known)}"
        )
    return [name for name in known if wanted is None or name in wanted]


def require_both_classes(category: Category) -> None:
    """Refuse a category on which nothing can be learnt or measured.

    Raises:
        DatasetError: If it has no image to learn from, or no good or no defective one to inspect.
    """
    num_defective = sum(image.is_defective for image in category.test)
    counts = {
        "good training": len(category.good),
        "good test": len(category.test) - num_defective,
        "defective test": num_defective,
    }
    for what, count in counts.items():
        if not count:
            raise DatasetError(
                f"category {category.name} in {category.folder} has no {what} image; every figure "
                "needs some of them"
            )


def file_sha256(path: Path) -> str:
    """Digest of a file's content.

    Raises:
        DatasetError: If it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()
