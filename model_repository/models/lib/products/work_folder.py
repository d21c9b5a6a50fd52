"""A hidden folder to gather files in, which its owner's death turns into a leftover."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from pathlib import Path

_SUFFIX = ".partial"
_LOCK_FILE = ".lock"


class WorkFolder:
    """A hidden folder that belongs to this object until `remove`, or to nobody if the process dies.

    Args:
        root: Where to make it: beside the products, so that files are moved and not copied.

    Attributes:
        path: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.path = hidden_path(root)
        self.path.mkdir()
        self._lock = (self.path / _LOCK_FILE).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete it and all that is in it."""
        try:
            shutil.rmtree(self.path, ignore_errors=True)
        finally:
            self._lock.close()


def hidden_path(folder: Path) -> Path:
    """A name in a folder that nobody uses: for what is not visible yet, or not any more."""
    return folder / f".{uuid.uuid4().hex}{_SUFFIX}"


def remove_abandoned(root: Path) -> None:
    """Delete the work folders whose owner is gone. Nobody may be making one meanwhile."""
    for path in root.glob(f".*{_SUFFIX}"):
        if not _has_owner(path):
            remove(path)


def remove(path: Path) -> None:
    """Delete a folder, or a link to one; what cannot be deleted stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _has_owner(path: Path) -> bool:
    try:
        with (path / _LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock: its owner died before taking it, or it never was a work folder
        return False
    return False
