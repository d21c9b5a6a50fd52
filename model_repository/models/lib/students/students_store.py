"""L2BT's products on disk: versions of a pair of students and everything that decides a verdict.

A version's files besides its record::

    students.onnx           patch tokens of two blocks in, patch distances out
    good_parts.safetensors  patch distances of good parts that their students had not seen
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from durable_files import read_tensors, sha256_of_file
from refusals import InspectionRefused
from students_record import StudentsRecord, record_from_json
from version_store import VersionStore
from wire import TRAINING_FILES

_, STUDENTS_FILE, GOOD_PARTS_FILE = TRAINING_FILES
STUDENTS_FOLDER = "students"
"""Beside the models, as the banks are."""
_PATCH_DISTANCES = "patch_distances"


class StudentsStore(VersionStore[StudentsRecord]):
    """The products below one folder, each with its students."""

    remedy = "train the product again"
    known_as = "trained for L2BT"

    def parse(self, text: bytes) -> StudentsRecord:
        """A version's record, whole and without contradictions."""
        return record_from_json(text)

    def digests(self, bundle: StudentsRecord) -> dict[str, str]:
        """SHA-256 of students and calibration, as the record says."""
        return {STUDENTS_FILE: bundle.students_sha256, GOOD_PARTS_FILE: bundle.good_parts_sha256}

    def check_files(self, bundle: StudentsRecord) -> None:
        """Check the students, which answer requests."""
        self.students_file(bundle)

    def students_file(self, record: StudentsRecord) -> Path:
        """A version's graph, after checking its digest.

        Raises:
            InspectionRefused: If it is missing or damaged.
        """
        path = self.file(record.product, record.version, STUDENTS_FILE)
        what = f"the students of version {record.version} of product '{record.product}'"
        try:
            found = sha256_of_file(path)
        except OSError as error:
            raise InspectionRefused(f"{what} cannot be read: {error.strerror}") from None
        if found != record.students_sha256:
            raise InspectionRefused(f"{what} are damaged; {self.remedy}")
        return path

    def read_good_parts(self, record: StudentsRecord) -> NDArray[np.float32]:
        """Read and verify the good parts' patch distances ``(images, rows, columns)``.

        Raises:
            InspectionRefused: If the file is missing, has another hash or contradicts the record.
        """
        what = f"the calibration of version {record.version} of product '{record.product}'"
        folder = self.folder(record.product, record.version)
        return read_distances(
            folder / GOOD_PARTS_FILE, record.good_parts_sha256, record.patch_grid, what
        )


def read_distances(
    path: Path, sha256: str, grid: tuple[int, int], what: str
) -> NDArray[np.float32]:
    """Patch distances of good parts from a file.

    Args:
        path: The file.
        sha256: Digest it must have.
        grid: Patch grid.
        what: What it is, for the message.

    Returns:
        ``(images, rows, columns)`` float32, at least 0.

    Raises:
        InspectionRefused: If it is missing or damaged, or holds something else.
    """
    distances = read_tensors(path, sha256, what).get(_PATCH_DISTANCES)
    if distances is None or distances.dtype != np.float32 or distances.shape[1:] != grid:
        found = "missing" if distances is None else f"{distances.dtype} {distances.shape}"
        raise InspectionRefused(
            f"{what}: patch_distances are {found}, expected float32 (images, {grid[0]}, {grid[1]})"
        )
    # The comparison is False for NaN, too.
    if not len(distances) or not ((distances >= 0) & np.isfinite(distances)).all():
        raise InspectionRefused(f"{what} holds no image, or numbers that are no distances")
    return distances
