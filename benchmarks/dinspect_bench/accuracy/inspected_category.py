"""Every test image of a category through the server: its score, and its map on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dinspect_bench.datasets.category import Category, LabelledImage
from dinspect_bench.datasets.geometry import Size, image_size
from dinspect_bench.datasets.masks import read_mask
from dinspect_bench.errors import AccuracyError
from dinspect_client.errors import InspectionError

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.results import Inspection
    from dinspect_client.versions import VersionRecord


class StoredMaps(Sequence[NDArray[np.float32]]):
    """Anomaly maps in files of their own, each read when it is asked for.

    Args:
        paths: Files of NumPy's format, ``(H, W)`` float32.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> NDArray[np.float32]:  # type: ignore[override]
        stored: NDArray[np.float32] = np.load(self._paths[index], allow_pickle=False)
        return stored


class GroundTruth(Sequence[NDArray[np.bool_]]):
    """Masks of test images, each read when it is asked for; False everywhere for a good image.

    Args:
        images: Those of which every pixel is known, see `LabelledImage.is_outlined`.
    """

    def __init__(self, images: Sequence[LabelledImage]) -> None:
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:  # type: ignore[override]
        image = self._images[index]
        if image.mask is None:
            return np.zeros(image_size(image.path), dtype=np.bool_)
        return read_mask(image.mask)


@dataclass(frozen=True)
class InspectedCategory:
    """What the server says of a category's test images, all of them, in their order.

    Attributes:
        images: The images.
        names: What they are called within the category.
        scores: Anomaly score of each.
        map_files: File of each one's anomaly map.
        map_peaks: Largest value of each one's anomaly map.
    """

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]
    map_files: tuple[Path, ...]
    map_peaks: tuple[float, ...]

    @property
    def is_defective(self) -> list[bool]:
        """The truth about each image."""
        return [image.is_defective for image in self.images]

    def outlined(self) -> tuple[StoredMaps, GroundTruth]:
        """Maps and ground truth of the images of which every pixel is known."""
        known = [index for index, image in enumerate(self.images) if image.is_outlined]
        return (
            StoredMaps([self.map_files[index] for index in known]),
            GroundTruth([self.images[index] for index in known]),
        )


def inspect_category(
    client: InspectionClient, version: VersionRecord, category: Category, folder: Path
) -> InspectedCategory:
    """Inspect all test images of a category, one after the other.

    Args:
        client: Connected to the server.
        version: What they are inspected by; no other version may answer.
        category: The category.
        folder: Where the maps go: 4 bytes a pixel of every test image.

    Raises:
        AccuracyError: If an image cannot be inspected, another version answers, or a map is not of
            the size of its ground truth or cannot be stored; the message names image or file.
            Nothing is ever left out.
    """
    names, scores, files, peaks = [], [], [], []
    progress = tqdm(
        category.test, desc=f"inspecting {category.name}", unit="image", leave=False, disable=None
    )
    for number, image in enumerate(progress):
        names.append(category.name_of(image.path))
        what = f"{category.name}: {names[-1]}"
        answer = _inspect(client, version, image.path, what)
        anomaly_map = checked_map(answer, version, truth_size(image), what)
        files.append(folder / f"{number:05d}.npy")
        _store(files[-1], anomaly_map)
        peaks.append(float(anomaly_map.max()))
        scores.append(float(answer.anomaly_score))
    return InspectedCategory(category.test, tuple(names), tuple(scores), tuple(files), tuple(peaks))


def truth_size(image: LabelledImage) -> Size:
    """Height and width of an image's ground truth: of its mask, or of itself if it has none."""
    return image_size(image.path if image.mask is None else image.mask)


def checked_map(
    answer: Inspection, version: VersionRecord, size: Size, what: str
) -> NDArray[np.float32]:
    """The anomaly map of an answer.

    Args:
        answer: What the server says.
        version: What must have answered.
        size: Height and width that the map must have.
        what: Category and image, for the message.

    Raises:
        AccuracyError: If another version answered, or the map is not of that size.
    """
    if answer.bundle_version != version.version:
        raise AccuracyError(
            f"{what} was answered by version {answer.bundle_version}, made for this measurement "
            f"was version {version.version}; somebody else changed {version.product}"
        )
    if answer.anomaly_map is None or answer.anomaly_map.shape != size:
        found = None if answer.anomaly_map is None else answer.anomaly_map.shape
        raise AccuracyError(
            f"{what}: the anomaly map is {found}, its ground truth {size} (height, width); a map "
            "must be of the size of the original image, and so must its mask"
        )
    return answer.anomaly_map


def _store(path: Path, anomaly_map: NDArray[np.float32]) -> None:
    try:
        np.save(path, anomaly_map, allow_pickle=False)
    except OSError as error:  # a full disk is told without the file's name
        raise AccuracyError(
            f"cannot write anomaly map {path}: {error.strerror or error}; make room there, or give "
            "an --output elsewhere"
        ) from error


def _inspect(client: InspectionClient, version: VersionRecord, path: Path, what: str) -> Inspection:
    try:
        return client.inspect(version.product, path, method=version.method, with_map=True)
    except InspectionError as error:
        raise AccuracyError(
            f"{what} could not be inspected, so nothing of this run counts: {error}",
            exit_status=error.exit_status,
        ) from error
