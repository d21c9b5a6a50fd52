"""Files that are whole and on the disk once a function returns, and are known by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from refusals import InspectionRefused

_BLOCK_BYTES = 1 << 20


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, text: str) -> None:
    """Replace a small file in one step, and wait until that is on the disk.

    A crash may leave a file of a hidden name, ``.<name>.<random>``, beside it.
    """
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_durably(staged, text.encode("ascii"))
    staged.replace(path)
    flush(path.parent)


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write a safetensors file and wait until it is on the disk; returns its SHA-256."""
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, str(path))
    flush(path)
    return sha256_of_file(path)


def read_tensors(path: Path, sha256: str, what: str) -> dict[str, NDArray[Any]]:
    """Read a safetensors file after checking its digest.

    Args:
        path: The file.
        sha256: Digest it must have.
        what: What it is, for the message: ``the memory bank of version 3 of product 'screw'``.

    Raises:
        InspectionRefused: If it is missing, has another digest or cannot be read.
    """
    try:
        found = sha256_of_file(path)
    except FileNotFoundError:
        raise InspectionRefused(f"{what} is missing; enrol the product again") from None
    except OSError as error:
        raise InspectionRefused(f"{what} cannot be read: {error.strerror}") from None
    if found != sha256:
        raise InspectionRefused(f"{what} is damaged; enrol the product again")
    try:
        with safe_open(str(path), framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, AttributeError, TypeError, OSError):
        # Of a type that NumPy does not have, or deleted meanwhile.
        raise InspectionRefused(f"{what} cannot be read") from None


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
