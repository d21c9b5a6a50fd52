"""Files that appear whole under their name, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PREFIX, _SUFFIX = ".dinspect-", ".partial"


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str], *, overwrite: bool, durable: bool = False
) -> Iterator[BinaryIO]:
    """A file to write, that gets its name when the block ends well; else nothing is left of it.

    Args:
        path: Its name; what is there before stays until the new file is complete.
        overwrite: Whether it may replace an existing file.
        durable: Whether it must be on the disk before it gets its name.

    Raises:
        FileExistsError: If there is one already that may not be replaced, before anything is
            written; also if one appears meanwhile.
        OSError: If it cannot be written.
    """
    target = Path(path)
    if not overwrite and os.path.lexists(target):
        raise FileExistsError(f"{target} exists already")
    # In the same folder, since a rename across file systems is not one step. The name is short:
    # together with a long one of the caller's it would be too long for the file system.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_PREFIX, suffix=_SUFFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide it from colleagues
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_to_new(temporary, target)
        if durable:
            _flush_folder(target.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _rename_to_new(temporary: str, target: Path) -> None:
    """Rename a file unless the name is taken; in one step where the file system can."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise FileExistsError(f"{target} exists already") from None
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(f"{target} exists already") from None
        os.rename(temporary, target)
    else:
        os.unlink(temporary)


def _flush_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk, where a folder can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
