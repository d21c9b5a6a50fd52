"""What a run keeps beside its records while it is at work, for one run at a time.

Beside ``parts.jsonl`` lie ``parts_work``, with trainings to go on with and the maps of the category
that is being measured, and ``.parts_run``, with the lock and whose products the run's are. The lock
is not in the folder that is removed: a run that waits for it would hold a lock that is gone.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dinspect_export.artefact_store import exclusive, replace_file

MAPS_FOLDER = "maps"
OWNER_FILE = "owner"


@dataclass(frozen=True)
class WorkFolder:
    """A run's own folder.

    Attributes:
        path: The folder; it may not be there yet.
        owner: Whose products the run's are: the same in a run that goes on with these records,
            wherever it is started, and another for all other records.
    """

    path: Path
    owner: str


@contextlib.contextmanager
def work_folder(output: Path) -> Iterator[WorkFolder]:
    """The folder of the run that writes some records; waits until another one has finished.

    Maps that a killed run left are removed on entry. The folder is gone afterwards, unless there is
    a training in it that some row has still to go on with.

    Args:
        output: File of the records.

    Raises:
        StorageError: If lock or owner cannot be written beside the records.
    """
    run_dir = output.with_name(f".{output.stem}_run")
    path = output.with_name(f"{output.stem}_work")
    with exclusive(run_dir):
        shutil.rmtree(path / MAPS_FOLDER, ignore_errors=True)
        try:
            yield WorkFolder(path, _owner_id(run_dir / OWNER_FILE))
        finally:
            with contextlib.suppress(OSError):  # not empty, or never made
                path.rmdir()


@contextlib.contextmanager
def empty_folder(path: Path) -> Iterator[Path]:
    """A folder with nothing in it, gone afterwards.

    Args:
        path: The folder; what is in it is removed.

    Raises:
        OSError: If it cannot be made.
    """
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _owner_id(path: Path) -> str:
    """A random name, written once; no machine's name or path, which a container changes."""
    if not path.exists():
        replace_file(path, uuid.uuid4().hex.encode())
    return path.read_text(encoding="ascii")
