"""Products from one server to another: a version's files, part by part, checked on arrival."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from bank_store import BankStore
from bundle import Bundle, Change
from change_log import now
from refusals import InspectionRefused
from served_size import ServedSize
from sessions import Sessions
from version_files import (
    BANK_FILE,
    BUNDLE_FILE,
    GOOD_PARTS_FILE,
    bundle_from_json,
    read_bank,
    read_good_parts,
)
from wire import MAX_CONTENT_BYTES, VERSION_FILES
from work_folder import WorkFolder

MAX_RECORD_BYTES = 64 * 2**20


def read_part(store: BankStore, bundle: Bundle, file: object, offset: int) -> tuple[bytes, int]:
    """Part of a version's file, and the file's size in bytes.

    Raises:
        InspectionRefused: If there is no such file, or it ends before the offset.
    """
    path = store.file(bundle.product, bundle.version, _known(file))
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


@dataclass
class Import:
    """A version on its way in.

    Attributes:
        product: What it will be called.
        folder: Where its files gather.
        max_bytes: What all of them may take.
        touched_s: Monotonic time of the last part.
    """

    product: str
    folder: WorkFolder
    max_bytes: int
    touched_s: float = field(default_factory=time.monotonic)

    def add(self, file: object, offset: int, content: bytes) -> None:
        """Add a part behind what is there.

        Raises:
            InspectionRefused: If it does not follow, or all of it becomes too large.
        """
        path = self.folder.path / _known(file)
        size = path.stat().st_size if path.exists() else 0
        if offset != size:
            raise InspectionRefused(f"{file} has {size} bytes so far, the part begins at {offset}")
        if file == BUNDLE_FILE and size + len(content) > MAX_RECORD_BYTES:
            raise InspectionRefused(f"{file} takes more than {MAX_RECORD_BYTES} bytes")
        total = sum(other.stat().st_size for other in self.folder.path.iterdir()) + len(content)
        if total > self.max_bytes:
            raise InspectionRefused(
                f"the product takes more than the {self.max_bytes} bytes that the server allows"
            )
        with path.open("ab") as stream:
            stream.write(content)
        self.touched_s = time.monotonic()

    def publish(
        self,
        store: BankStore,
        operator: str,
        served: Iterable[ServedSize],
        check: Callable[[Bundle], object] | None = None,
    ) -> Bundle:
        """Check everything that arrived and make it a version.

        Args:
            store: Where it goes.
            operator: Who imports.
            served: The input sizes of this server.
            check: Raises if the version could not answer on this server.

        Raises:
            InspectionRefused: If a file is missing, damaged or contradicts another, or the product
                is of a backbone not served here.
        """
        bundle = self._bundle()
        size = _served_size(bundle, list(served))
        if check is not None:
            check(bundle)
        read_bank(self.folder.path, bundle, "the imported memory bank")
        read_good_parts(self.folder.path, bundle, "the imported calibration")
        origin = f"{bundle.product}@{bundle.version}"
        change = Change("imported", None, operator, now(), origin)
        draft = replace(bundle, product=self.product, ensemble=size.ensemble, change=change)
        digests = {BANK_FILE: bundle.bank_sha256, GOOD_PARTS_FILE: bundle.good_parts_sha256}
        with store.staging() as staging:
            for name, digest in digests.items():
                staging.take(name, self.folder.path / name, digest)
            return staging.publish(draft)

    def close(self) -> None:
        """Forget what arrived."""
        self.folder.remove()

    def _bundle(self) -> Bundle:
        missing = [name for name in VERSION_FILES if not (self.folder.path / name).is_file()]
        if missing:
            raise InspectionRefused(f"the product lacks {', '.join(missing)}")
        try:
            return bundle_from_json((self.folder.path / BUNDLE_FILE).read_bytes())
        except (ValueError, TypeError) as error:
            raise InspectionRefused(f"the product's record cannot be used: {error}") from None


class Imports:
    """Imports that arrive in parts, by the caller's session name.

    Args:
        store: Where they go.
        max_bytes: Limit of one import.
    """

    def __init__(self, store: BankStore, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._open: Sessions[Import] = Sessions("imports")

    def get(self, session: str, product: str) -> Import:
        """The open import of that name, or a new one; abandoned ones are forgotten first.

        Raises:
            InspectionRefused: If it is of another product, or too many are open.
        """
        found = self._open.get(session)
        if found is None:
            found = Import(product, self._store.work_folder(), self._max_bytes)
            self._open.put(session, found)
        if found.product != product:
            raise InspectionRefused(
                f"session {session!r} imports '{found.product}', not '{product}'"
            )
        return found

    def drop(self, session: str) -> None:
        """Forget an import and its files."""
        self._open.drop(session)


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


def _known(file: object) -> str:
    if file not in VERSION_FILES:
        raise InspectionRefused(f"file is {file!r}, expected one of {', '.join(VERSION_FILES)}")
    return str(file)
