"""Products on disk: versioned bundles of a memory bank and everything that decides a verdict.

Layout below the store's root::

    <product>/<version>/bank.safetensors    unit patch tokens of the references
    <product>/<version>/bundle.json         what `Bundle` says
    <product>/current                       the version in force, a decimal number

A bundle is never changed. It is written under a hidden name, flushed to disk and renamed into
place; then the pointer is replaced. So whatever is visible is whole, at any moment of a crash, and
a reader needs no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from refusals import InspectionRefused
from wire import parse_product

BANK_FILE = "bank.safetensors"
BUNDLE_FILE = "bundle.json"
CURRENT_FILE = "current"
BANK_TENSOR = "memory_bank"
FORMAT_VERSION = 1
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Bundle:
    """Everything that made one version of a product, but for the bank itself.

    Attributes:
        product: Product name.
        version: One more than the highest there was.
        method: ``anomaly_dino``.
        ensemble: Model that inspects it, e.g. ``anomaly_dino_448``.
        grid: Patch grid ``[rows, columns]``.
        image_size: Height and width of the reference images in pixels.
        layer: One-based block whose tokens are compared.
        num_references: Reference images.
        num_patches: Rows of the bank.
        dim: Width of a patch token.
        threshold: Anomaly score above which a part is anomalous.
        normal_below: Anomaly score up to which a part is normal; in between it is undecided.
        calibration: How the threshold was found.
        backbone: ``name``, ``onnx_sha256``, ``weights_sha256``, ``runtime``, ``precision``.
        references: ``name`` and ``sha256`` of each reference's encoded bytes.
        operator: Who enrolled, as the client said.
        created_at: ISO 8601, UTC.
        bank_sha256: Digest of the bank's file.
        format_version: Version of this layout.
    """

    product: str
    version: int
    method: str
    ensemble: str
    grid: list[int]
    image_size: list[int]
    layer: int
    num_references: int
    num_patches: int
    dim: int
    threshold: float
    normal_below: float
    calibration: dict[str, Any]
    backbone: dict[str, str]
    references: list[dict[str, str]]
    operator: str
    created_at: str
    bank_sha256: str
    format_version: int = FORMAT_VERSION


class BankStore:
    """The products below one folder.

    Args:
        root: The folder; created when missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def products(self) -> dict[str, list[int]]:
        """Product names to their versions, both ascending."""
        found = {}
        for folder in sorted(self.root.iterdir()):
            if not folder.name.startswith(".") and (folder / CURRENT_FILE).is_file():
                found[folder.name] = self._versions(folder)
        return found

    def resolve(self, reference: str) -> tuple[str, int]:
        """Product and version that ``screw`` or ``screw@3`` names right now.

        Raises:
            InspectionRefused: If there is no such product or version.
        """
        try:
            product, version = parse_product(reference)
        except ValueError as error:
            raise InspectionRefused(str(error)) from None
        try:
            current = int((self.root / product / CURRENT_FILE).read_text(encoding="ascii"))
        except FileNotFoundError:
            known = ", ".join(self.products()) or "none"
            raise InspectionRefused(f"unknown product '{product}'; enrolled are: {known}") from None
        except ValueError:
            raise InspectionRefused(
                f"product '{product}' has a damaged version pointer; enrol it again"
            ) from None
        return product, current if version is None else version

    def read_bundle(self, product: str, version: int) -> Bundle:
        """Read the record of one version.

        Raises:
            InspectionRefused: If the version does not exist or its record is damaged.
        """
        path = self.root / product / str(version) / BUNDLE_FILE
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            versions = self._versions(self.root / product)
            raise InspectionRefused(
                f"product '{product}' has no version {version}; it has {versions}"
            ) from None
        except ValueError:
            record = None
        if not _describes(record, product, version):
            raise InspectionRefused(
                f"version {version} of product '{product}' is damaged or of another format; "
                "enrol it again, or ask for another version"
            )
        return Bundle(**record)

    def read_bank(self, bundle: Bundle) -> NDArray[np.float32]:
        """Read and verify a version's memory bank.

        Returns:
            ``(num_patches, dim)`` float32 unit vectors.

        Raises:
            InspectionRefused: If the file is missing, has another hash or another shape.
        """
        name = f"version {bundle.version} of product '{bundle.product}'"
        path = self.root / bundle.product / str(bundle.version) / BANK_FILE
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise InspectionRefused(f"{name} has lost its memory bank; enrol it again") from None
        if hashlib.sha256(content).hexdigest() != bundle.bank_sha256:
            raise InspectionRefused(f"the memory bank of {name} is damaged; enrol it again")
        try:
            bank = load(content)[BANK_TENSOR]
        except (SafetensorError, KeyError):
            raise InspectionRefused(f"the memory bank of {name} cannot be read") from None
        if bank.shape != (bundle.num_patches, bundle.dim):
            raise InspectionRefused(
                f"the memory bank of {name} is {bank.shape}, expected "
                f"({bundle.num_patches}, {bundle.dim})"
            )
        return checked_bank(bank)

    def stamp(self, product: str, version: int) -> tuple[int, int]:
        """What changes when a version's record is replaced by hand: its inode and time.

        Raises:
            InspectionRefused: If the version does not exist.
        """
        try:
            status = (self.root / product / str(version) / BUNDLE_FILE).stat()
        except FileNotFoundError:
            self.read_bundle(product, version)  # says which versions there are
            raise
        return status.st_ino, status.st_mtime_ns

    def publish(self, product: str, bank: NDArray[np.float32], **record: Any) -> Bundle:
        """Write a new version and make it the current one.

        Args:
            product: Product name, valid by the wire contract.
            bank: ``(M, D)`` float32 unit vectors.
            **record: The fields of `Bundle` that are not known from these arguments.

        Returns:
            The bundle as written.

        Raises:
            InspectionRefused: If the bank is empty, not of unit vectors, or a threshold not finite.
        """
        checked_bank(bank)
        content = save({BANK_TENSOR: np.ascontiguousarray(bank, dtype=np.float32)})
        folder = self.root / product
        folder.mkdir(exist_ok=True)
        with self._staging() as staging:
            _write_durably(staging / BANK_FILE, content)
            while True:
                bundle = Bundle(
                    product=product,
                    version=max(self._versions(folder), default=0) + 1,
                    num_patches=bank.shape[0],
                    dim=bank.shape[1],
                    bank_sha256=hashlib.sha256(content).hexdigest(),
                    **record,
                )
                if not _describes(asdict(bundle), product, bundle.version):
                    raise InspectionRefused(
                        f"the bundle of '{product}' has no usable threshold: {bundle.threshold}"
                    )
                text = json.dumps(asdict(bundle), indent=2, sort_keys=True, allow_nan=False)
                _write_durably(staging / BUNDLE_FILE, text.encode("utf-8"))
                _flush_folder(staging)
                try:
                    staging.rename(folder / str(bundle.version))
                    break
                except OSError:
                    # Someone else published this number first: take the next. Anything else
                    # (disk full, no permission) leaves the number free and is an error.
                    if bundle.version not in self._versions(folder):
                        raise
        _flush_folder(folder)
        self._point_to(product, bundle.version)
        return bundle

    def remove_leftovers(self) -> None:
        """Delete what an enrolment that was killed left behind; call before serving."""
        for path in self.root.glob(".*.partial"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.root.glob(f"*/.{CURRENT_FILE}.*"):
            path.unlink(missing_ok=True)

    def _point_to(self, product: str, version: int) -> None:
        folder = self.root / product
        staged = folder / f".{CURRENT_FILE}.{uuid.uuid4().hex}"
        _write_durably(staged, f"{version}\n".encode("ascii"))
        staged.replace(folder / CURRENT_FILE)
        _flush_folder(folder)
        _flush_folder(self.root)

    def _versions(self, folder: Path) -> list[int]:
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        staging = self.root / f".{uuid.uuid4().hex}.partial"
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def checked_bank(bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """A memory bank that can be searched: a NaN in it would be skipped as if it were far away.

    Raises:
        InspectionRefused: If it is empty or a row is no unit vector.
    """
    if not len(bank):
        raise InspectionRefused("the memory bank is empty, expected at least one row")
    lengths = np.linalg.norm(bank, axis=1)
    if not np.allclose(lengths, 1.0, atol=_UNIT_TOLERANCE):  # False for NaN, too
        raise InspectionRefused("the memory bank holds rows that are no unit vectors")
    return bank


def _describes(record: object, product: str, version: int) -> bool:
    """Whether a record is a whole bundle of this format, for this very place."""
    if not isinstance(record, dict) or set(record) != {field.name for field in fields(Bundle)}:
        return False
    thresholds = (record["threshold"], record["normal_below"])
    return (
        record["format_version"] == FORMAT_VERSION
        and (record["product"], record["version"]) == (product, version)
        and isinstance(record["backbone"], dict)
        and all(isinstance(value, float) and math.isfinite(value) for value in thresholds)
    )


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
