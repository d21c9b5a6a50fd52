"""Products from one server to another: a version's files, part by part, checked on arrival."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from arriving_files import ArrivingFiles, known_file
from bank_store import BankStore
from bundle import Bundle
from change_log import now
from refusals import InspectionRefused
from served_size import ServedSize
from version_files import (
    BUNDLE_FILE,
    bundle_from_json,
    read_bank,
    read_good_parts,
)
from version_record import Change
from wire import MAX_CONTENT_BYTES, VERSION_FILES


def read_part(store: BankStore, bundle: Bundle, file: object, offset: int) -> tuple[bytes, int]:
    """Part of a version's file, and the file's size in bytes.

    Raises:
        InspectionRefused: If there is no such file, or it ends before the offset.
    """
    path = store.file(bundle.product, bundle.version, known_file(file, VERSION_FILES))
    what = f"{file} of version {bundle.version} of product '{bundle.product}'"
    try:
        with open(path, "rb", opener=_open_itself) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InspectionRefused(f"{what} is no file")
            if offset > status.st_size:
                raise InspectionRefused(f"{file} has {status.st_size} bytes, none from {offset} on")
            stream.seek(offset)
            return stream.read(MAX_CONTENT_BYTES), status.st_size
    except OSError as error:
        raise InspectionRefused(f"{what} cannot be read: {error.strerror}") from None


def _open_itself(path: str, flags: int) -> int:
    """Open a file, but not what a link leads to, and without waiting for a pipe's other end."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def publish_import(
    arrived: ArrivingFiles,
    store: BankStore,
    operator: str,
    served: Iterable[ServedSize],
    check: Callable[[Bundle], object] | None = None,
) -> Bundle:
    """Check everything that arrived and make it a version.

    Args:
        arrived: The files.
        store: Where it goes.
        operator: Who imports.
        served: The input sizes of this server.
        check: Raises if the version could not answer on this server.

    Raises:
        InspectionRefused: If a file is missing, damaged or contradicts another, or the product is
            of a backbone not served here.
    """
    arrived.require_whole()
    folder = arrived.folder.path
    bundle = _bundle(folder)
    size = _served_size(bundle, list(served))
    if check is not None:
        check(bundle)
    read_bank(folder, bundle, "the imported memory bank")
    read_good_parts(folder, bundle, "the imported calibration")
    origin = f"{bundle.product}@{bundle.version}"
    change = Change("imported", None, operator, now(), origin)
    draft = replace(bundle, product=arrived.product, ensemble=size.ensemble, change=change)
    with store.staging() as staging:
        for name, digest in store.digests(bundle).items():
            staging.take(name, folder / name, digest)
        return staging.publish(draft)


def _bundle(folder: Path) -> Bundle:
    try:
        return bundle_from_json((folder / BUNDLE_FILE).read_bytes())
    except (ValueError, TypeError) as error:
        raise InspectionRefused(f"the product's record cannot be used: {error}") from None


def _served_size(bundle: Bundle, served: list[ServedSize]) -> ServedSize:
    """The input size that runs the product's backbone."""
    digest = bundle.backbone["onnx_sha256"]
    size = next((one for one in served if one.onnx_sha256 == digest), None)
    if size is None:
        known = ", ".join(sorted(one.onnx_sha256[:12] for one in served))
        raise InspectionRefused(
            f"the product was enrolled with backbone {digest[:12]}, this server has {known}; "
            "export and assemble that backbone, or enrol the product here"
        )
    said = (bundle.patch_grid, bundle.layer, bundle.dim)
    ours = (size.grid, size.layer, size.dim or bundle.dim)
    if said != ours:
        raise InspectionRefused(
            "the product's record contradicts its backbone: it says grid, layer and token width "
            f"{said}, the backbone has {ours}"
        )
    return size
