"""Files that are there twice. Published data sets have them; what they do to a figure is told.

A copy among the images to learn from adds nothing to a memory bank, and the server refuses it, for
it would score 0 against its twin when thresholds are found. A test image that was learnt from is
measured as the protocol says, but its score says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dinspect_bench.datasets.category import file_sha256


def without_copies(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Each content once, by the first file that has it.

    Raises:
        DatasetError: If a file cannot be read.
    """
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(file_sha256(path), path)
    return tuple(first.values())


def copies_of(originals: Iterable[Path], paths: Sequence[Path]) -> tuple[Path, ...]:
    """Those of some files whose content is also that of an original.

    Raises:
        DatasetError: If a file cannot be read.
    """
    known = {file_sha256(path) for path in originals}
    return tuple(path for path in paths if file_sha256(path) in known)
