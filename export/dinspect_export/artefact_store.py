"""Where artefacts are kept: written whole or not at all, by one build at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dinspect_export.errors import StorageError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_PARTIAL = ".partial"
_PREVIOUS = ".previous"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep every other build out of a folder; waits until the one that is in has finished.

    What builds that were killed left behind is removed on entry.

    Raises:
        StorageError: If the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a", encoding="ascii")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another build is at work in %s; waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_leftovers(folder)
        yield


@contextlib.contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``target`` that takes its place only if nothing failed.

    Raises:
        StorageError: If it cannot be written; nothing of it stays.
    """
    staging = target.with_name(f".{target.name}{_PARTIAL}")
    previous = target.with_name(f".{target.name}{_PREVIOUS}")
    try:
        with writing(target):
            _remove(staging)
            staging.mkdir(parents=True)
            yield staging
            for path in staging.iterdir():
                path.chmod(0o644)  # some writers make files that only we could read
            _take_place(staging, target, previous)
    finally:
        _remove(staging)
    _remove(previous)


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a `StorageError` that names ``target``.

    The exporters wrap such errors in their own, so the whole chain of causes is searched.
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal_of_the_system(error, target)
        if refusal is None:
            raise
        raise StorageError(
            f"cannot write {target}: {refusal.strerror}; nothing was left behind. Make room or "
            "give another folder, then run the command again"
        ) from error


_FULL = {errno.EDQUOT, errno.EFBIG, errno.ENOSPC, errno.EROFS}


def _refusal_of_the_system(error: BaseException | None, target: Path) -> OSError | None:
    """The error about writing ``target`` among the causes of an error; None for any other."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and (
            error.errno in _FULL or str(error.filename).startswith(_ground(target))
        ):
            return error
        error = error.__cause__ or error.__context__
    return None


def _ground(target: Path) -> str:
    """The nearest folder above a path that exists, where writing it fails first."""
    parent = target.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    return str(parent)


def _take_place(staging: Path, target: Path, previous: Path) -> None:
    """Rename over an earlier artefact; it comes back if that fails."""
    _remove(previous)
    if target.is_symlink() or target.exists():
        target.rename(previous)
    try:
        staging.rename(target)
    except OSError:
        if previous.exists():
            previous.rename(target)
        raise


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".*"):
        target = folder / path.stem.removeprefix(".")
        if path.suffix == _PREVIOUS and not target.exists():
            logger.warning("%s is back: a build was killed while it was replaced", target)
            path.rename(target)
        elif path.suffix in (_PARTIAL, _PREVIOUS):
            logger.warning("removing %s, left behind by a build that was killed", path)
            _remove(path)


def replace_file(target: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        StorageError: If it cannot be written.
    """
    staged = target.with_name(f".{target.name}.{os.getpid()}{_PARTIAL}")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with staged.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the name, or a power cut leaves it on nothing
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
