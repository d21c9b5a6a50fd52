"""The memory bank of a version, and the references' patches on their way into one."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refusals import InspectionRefused

_UNIT_TOLERANCE = 1e-3
MIN_FREE_BYTES = 1 << 30
"""Room on disk that tokens on their way leave to others, the store of products among them."""
_CHECKED_ROWS = 65_536
_DTYPES = {
    "memory_bank": "float32",
    "reference_index": "int32",
    "reference_foreground": "uint8",
    "centroids": "float32",
}


@dataclass(frozen=True)
class MemoryBank:
    """What a version's bank file holds.

    Attributes:
        tokens: ``(M, D)`` float32 unit vectors. The rows of one reference follow each other, those
            of the unrotated image first.
        reference_index: ``(M,)`` int32: from which reference image each row comes; ascending.
        reference_foreground: ``(references, rows, columns)`` bool: foreground of each unrotated
            reference, all True where nothing is masked.
        centroids: ``(L, D)`` float32 of the inverted lists; None for exact search.
    """

    tokens: NDArray[np.float32]
    reference_index: NDArray[np.int32]
    reference_foreground: NDArray[np.bool_]
    centroids: NDArray[np.float32] | None = None

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As they are stored."""
        stored: dict[str, NDArray[Any]] = {
            "memory_bank": self.tokens,
            "reference_index": self.reference_index,
            "reference_foreground": self.reference_foreground.astype(np.uint8),
        }
        return stored if self.centroids is None else stored | {"centroids": self.centroids}

    @classmethod
    def from_tensors(cls, stored: dict[str, NDArray[Any]]) -> MemoryBank:
        """Read what `tensors` stored.

        Raises:
            InspectionRefused: If one is missing or of another type, shapes contradict each other,
                or a row is no unit vector.
        """
        for name, dtype in _DTYPES.items():
            if name in stored and stored[name].dtype != dtype:
                raise InspectionRefused(
                    f"the memory bank's '{name}' is {stored[name].dtype}, expected {dtype}"
                )
        try:
            bank = cls(
                stored["memory_bank"],
                stored["reference_index"],
                stored["reference_foreground"].astype(bool),
                stored.get("centroids"),
            )
        except KeyError as error:
            raise InspectionRefused(f"the memory bank lacks {error}") from None
        check_unit_rows(bank.tokens)
        if bank.centroids is not None and not np.isfinite(bank.centroids).all():
            raise InspectionRefused("the memory bank's centroids are not finite")
        if bank.reference_index.shape != bank.tokens.shape[:1]:
            raise InspectionRefused(
                "the memory bank does not say where each of its rows comes from"
            )
        return bank


def check_unit_rows(bank: NDArray[np.float32]) -> None:
    """Check that a bank can be searched: a NaN would be skipped as if it were far away.

    Raises:
        InspectionRefused: If it is empty or a row is no unit vector.
    """
    if bank.ndim != 2 or not bank.size:
        raise InspectionRefused(
            f"the memory bank is empty ({bank.shape}), expected at least one row"
        )
    for first in range(0, len(bank), _CHECKED_ROWS):
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(bank[first : first + _CHECKED_ROWS], axis=1)
        if not np.allclose(lengths, 1.0, atol=_UNIT_TOLERANCE):  # False for NaN, too
            raise InspectionRefused("the memory bank holds rows that are no unit vectors")


class RowFile:
    """Float32 rows kept on disk, so that an enrolment's memory does not grow with its images.

    The file has no name: nothing is left of it when the process ends, however it ends.

    Args:
        folder: Where there is room.

    Attributes:
        folder: The same.
        num_rows: Rows so far.
        dim: Length of a row, D; 0 before the first.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives with this object
        self.folder = folder
        self.num_rows = 0
        self.dim = 0

    def append(self, rows: NDArray[np.float32]) -> None:
        """Add ``(n, D)`` rows behind the others.

        Raises:
            InspectionRefused: If the disk has no room for them.
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        self.dim = rows.shape[1]
        self.require_room(len(rows))
        self._file.write(rows.data)
        self.num_rows += len(rows)

    def require_room(self, num_rows: int) -> None:
        """Refuse more rows than the disk has room for.

        Raises:
            InspectionRefused: Saying how much there is and how much is needed.
        """
        free = shutil.disk_usage(self.folder).free
        needed = num_rows * self.dim * np.dtype(np.float32).itemsize
        if free < needed + MIN_FREE_BYTES:
            raise InspectionRefused(
                f"the server's disk has {free} bytes free; {num_rows} more patches need {needed} "
                f"and {MIN_FREE_BYTES} stay free for others: make room"
            )

    def rows(self) -> NDArray[np.float32]:
        """All rows, ``(num_rows, D)``, mapped and not read.

        Raises:
            ValueError: If there is none.
        """
        self._file.flush()
        return np.memmap(self._file, np.float32, "r", shape=(self.num_rows, self.dim))

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Some rows, ``(count, D)``, in memory of their own.

        A map would keep every row ever touched in the process's memory.
        """
        self._file.flush()
        row_bytes = self.dim * np.dtype(np.float32).itemsize
        content = os.pread(self._file.fileno(), count * row_bytes, first * row_bytes)
        if len(content) != count * row_bytes:
            raise ValueError(f"rows {first} to {first + count} of {self.num_rows} are not there")
        return np.frombuffer(content, np.float32).reshape(count, self.dim)

    def close(self) -> None:
        """Free the space."""
        self._file.close()
