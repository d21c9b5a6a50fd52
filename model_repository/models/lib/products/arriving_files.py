"""A version's files on their way in, part by part, over several requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from refusals import InspectionRefused
from sessions import Sessions
from version_store import VersionStore
from work_folder import WorkFolder

MAX_RECORD_BYTES = 64 * 2**20


@dataclass
class ArrivingFiles:
    """The files of one version, as far as they are here.

    Attributes:
        product: What it will be called.
        names: The files it consists of, its record first.
        folder: Where its files gather.
        max_bytes: What all of them may take.
        touched_s: Monotonic time of the last part.
    """

    product: str
    names: tuple[str, ...]
    folder: WorkFolder
    max_bytes: int
    touched_s: float = field(default_factory=time.monotonic)

    def add(self, file: object, offset: int, content: bytes) -> None:
        """Add a part behind what is there.

        Raises:
            InspectionRefused: If it does not follow, or all of it becomes too large.
        """
        name = known_file(file, self.names)
        path = self.folder.path / name
        size = path.stat().st_size if path.exists() else 0
        if offset != size:
            raise InspectionRefused(f"{name} has {size} bytes so far, the part begins at {offset}")
        if name == self.names[0] and size + len(content) > MAX_RECORD_BYTES:
            raise InspectionRefused(f"{name} takes more than {MAX_RECORD_BYTES} bytes")
        total = sum(other.stat().st_size for other in self.folder.path.iterdir()) + len(content)
        if total > self.max_bytes:
            raise InspectionRefused(
                f"the product takes more than the {self.max_bytes} bytes that the server allows"
            )
        with path.open("ab") as stream:
            stream.write(content)
        self.touched_s = time.monotonic()

    def require_whole(self) -> None:
        """Refuse to go on while a file is missing.

        Raises:
            InspectionRefused: Naming it.
        """
        missing = [name for name in self.names if not (self.folder.path / name).is_file()]
        if missing:
            raise InspectionRefused(f"the product lacks {', '.join(missing)}")

    def close(self) -> None:
        """Forget what arrived."""
        self.folder.remove()


class Arrivals:
    """Versions that arrive in parts, by the caller's session name.

    Args:
        store: Where they go.
        names: The files each consists of, its record first.
        max_bytes: Limit of one version.
        what: What they are, in the plural, for messages.
    """

    def __init__(
        self, store: VersionStore[Any], names: tuple[str, ...], max_bytes: int, what: str
    ) -> None:
        self._store = store
        self._names = names
        self._max_bytes = max_bytes
        self._what = what
        self._open: Sessions[ArrivingFiles] = Sessions(what)

    def get(self, session: str, product: str) -> ArrivingFiles:
        """The open arrival of that name, or a new one; abandoned ones are forgotten first.

        Raises:
            InspectionRefused: If it is of another product, or too many are open.
        """
        found = self._open.get(session)
        if found is None:
            folder = self._store.work_folder()
            found = ArrivingFiles(product, self._names, folder, self._max_bytes)
            self._open.put(session, found)
        if found.product != product:
            raise InspectionRefused(
                f"session {session!r} of the {self._what} is for '{found.product}', not '{product}'"
            )
        return found

    def drop(self, session: str) -> None:
        """Forget an arrival and its files."""
        self._open.drop(session)


def known_file(file: object, names: tuple[str, ...]) -> str:
    """A file's name, if it is one of those.

    Raises:
        InspectionRefused: If not.
    """
    if file not in names:
        raise InspectionRefused(f"file is {file!r}, expected one of {', '.join(names)}")
    return str(file)
