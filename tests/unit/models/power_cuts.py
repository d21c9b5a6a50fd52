"""Cuts the power at a chosen step of a writer: what is on the disk then is what stays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STEPS = (
    (os, "fsync"),
    (os, "link"),
    (os, "unlink"),  # two that a tree is removed by
    (os, "rmdir"),
    (shutil, "copyfile"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
)


_FOR_EVER = 10**9


class PowerCut(BaseException):
    """The power is gone."""


class Power:
    """Runs a writer and cuts the power at its n-th step, from which on every step fails.

    A file whose content was not flushed yet loses half of what was written since it last was.

    Args:
        patched: Takes the place of the functions that make the steps.
    """

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self._left = _FOR_EVER
        self._flushed_bytes: dict[int, int] = {}
        for owner, name in STEPS:
            patched.setattr(owner, name, self._step(name, getattr(owner, name)))

    def is_cut(self, root: Path, write: Callable[[], object], after: int) -> bool:
        """Whether the power was cut after so many steps; else the writer was done before.

        Args:
            root: Folder whose files are all on the disk before.
            write: The writer.
            after: Steps it may make.
        """
        found = [path.stat() for path in root.rglob("*") if path.is_file()]
        self._flushed_bytes = {status.st_ino: status.st_size for status in found}
        self._left = after
        try:
            write()
        except PowerCut:
            return True
        finally:
            self._left = _FOR_EVER
        return False

    def _step(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if self._left <= 0:
                if name == "fsync" and self._left == 0:
                    self._tear(args[0])
                self._left = -1
                raise PowerCut
            self._left -= 1
            if name == "fsync":
                status = os.fstat(args[0])
                self._flushed_bytes[status.st_ino] = status.st_size
                return None  # Nobody has to wait for the disk, it loses what is told above.
            return function(*args, **options)

        return step

    def _tear(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_file():
            status = path.stat()
            safe = min(self._flushed_bytes.get(status.st_ino, 0), status.st_size)
            os.truncate(path, safe + (status.st_size - safe) // 2)
