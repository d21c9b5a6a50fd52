"""Who changed what and when, so that no crash leaves a change out or tells one that never was.

What is about to be changed is first written down beside the log; once it is done, the line joins
the log. Where a writer died in between, the next one finds its note, looks whether the change took
place, and settles the matter.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from durable_files import flush, write_durably

CHANGES_FILE = ".changes.jsonl"
_PENDING_FILE = ".change.pending"


def now() -> str:
    """The time as records have it: ISO 8601, UTC, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class LoggedChange:
    """One line of the log.

    Attributes:
        at: ISO 8601, UTC.
        operator: Who, as the client said.
        action: ``activated``, ``deleted``, or as `bundle.Change` has it, for a new version.
        product: Product name.
        version: The version; None for the product as a whole.
        in_force: Whether the version is in force from then on.
    """

    at: str
    operator: str
    action: str
    product: str
    version: int | None
    in_force: bool


class ChangeLog:
    """The changes to the products below one folder. Its writers must take turns.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / CHANGES_FILE
        self._pending = root / _PENDING_FILE

    @contextlib.contextmanager
    def recording(self, change: LoggedChange) -> Iterator[None]:
        """Make a change; it is in the log afterwards, unless the body raises."""
        write_durably(self._pending, _line(asdict(change)))
        flush(self._root)
        yield
        self._append(_line(asdict(change)))
        self._pending.unlink()

    def settle(self, outcome: Callable[[LoggedChange], LoggedChange | None]) -> None:
        """Finish what a writer left that died, or failed, in the middle of a change.

        Args:
            outcome: What became of a change, from what is there now; None if it was not made.
        """
        try:
            line = self._pending.read_bytes()
        except FileNotFoundError:
            return
        with contextlib.suppress(ValueError, TypeError):  # cut short: nothing was begun
            made = outcome(LoggedChange(**json.loads(line)))
            if made is not None and self._lines()[-1:] != [line]:
                self._append(_line(asdict(made)))
        self._pending.unlink()

    def of(self, product: str) -> list[dict[str, Any]]:
        """The lines about one product, oldest first; a damaged line is left out."""
        found = []
        for line in self._lines():
            with contextlib.suppress(ValueError):
                change = json.loads(line)
                if isinstance(change, dict) and change.get("product") == product:
                    found.append(change)
        return found

    def highest_version(self, product: str) -> int:
        """Highest version of a product that the log tells of, 0 if none."""
        versions = [change.get("version") for change in self.of(product)]
        return max((one for one in versions if isinstance(one, int)), default=0)

    def _lines(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _append(self, line: bytes) -> None:
        with self._path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a crash cut the last line short
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _line(change: dict[str, Any]) -> bytes:
    return json.dumps(change, sort_keys=True).encode("ascii") + b"\n"
