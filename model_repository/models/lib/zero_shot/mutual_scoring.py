"""Batched zero-shot: the distance of each patch to all patches of all other images.

Nothing is known to be good here, so the nearest neighbour says little: a defect may have a twin in
another image. What counts is how far the nearest share alpha of all other patches reaches: good
patches have many of their kind.

Source: AnomalyDINO, Appendix D, Equations 5 to 7, alpha = 0.1 %; the authors'
`run_anomalydino_batched.py` takes the mean of what is below that quantile instead of its largest
value, and both are offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory_bank import RowFile
from refusals import InspectionRefused

DEFAULT_ALPHA = 0.001
STATISTICS = ("max", "mean")
BLOCK_ROWS = 65_536
"""Rows in memory at a time: of the 384 numbers of ViT-S, 100 MB."""
_MAX_DISTANCES = 1 << 24
"""Nearest distances in memory at a time: 64 MB, and a few times that while they are selected."""


def num_nearest(num_bank_rows: int, alpha: float) -> int:
    """How many distances lie below the alpha quantile, at least one.

    Args:
        num_bank_rows: Patches of all other images, M.
        alpha: Share in (0, 1); the number is rounded down, as the authors do.
    """
    return max(int(alpha * num_bank_rows), 1)


def tail_distances(
    rows: RowFile, own: slice, count: int, statistic: str = "max"
) -> NDArray[np.float32]:
    """Score the patches of one image against those of all others, exactly and in FP32.

    Args:
        rows: ``(M + N, D)`` unit patch tokens of all images.
        own: Rows of the image itself, N of them.
        count: Nearest distances that count, from `num_nearest`.
        statistic: ``max``, the largest of them (Equation 7), or ``mean``, the mean of those below
            it, which is it where there is none.

    Returns:
        ``(N,)`` float32 in [0, 2].

    Raises:
        ValueError: If the statistic is unknown, or there are fewer than ``count`` other rows.
        InspectionRefused: If FAISS is not installed.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}, expected one of {', '.join(STATISTICS)}")
    num_others = rows.num_rows - (own.stop - own.start)
    if not 1 <= count <= num_others:
        raise ValueError(f"cannot take the {count} nearest of {num_others} rows")
    # Some patches at a time where many distances count, so that memory is bounded.
    step = max(_MAX_DISTANCES // count, 1)
    parts = [
        _statistic(_nearest(rows, own, slice(first, min(first + step, own.stop)), count), statistic)
        for first in range(own.start, own.stop, step)
    ]
    return np.concatenate(parts)


def _statistic(nearest: NDArray[np.float32], statistic: str) -> NDArray[np.float32]:
    """``(N, count)`` to ``(N,)``."""
    quantile: NDArray[np.float32] = nearest.max(axis=1)
    if statistic == "max":
        return quantile
    below = nearest < quantile[:, None]
    num_below = below.sum(axis=1)
    total = np.where(below, nearest, 0.0).sum(axis=1, dtype=np.float64)
    mean = np.where(num_below > 0, total / np.maximum(num_below, 1), quantile)
    return mean.astype(np.float32)


def _nearest(rows: RowFile, own: slice, asked: slice, count: int) -> NDArray[np.float32]:
    """The ``count`` smallest distances of the patches asked for, ``(N, count)`` in any order."""
    faiss = _import_faiss()
    queries = rows.read(asked.start, asked.stop - asked.start)
    nearest = np.empty((len(queries), 0), np.float32)
    for first, num_rows in _blocks(rows.num_rows, own):
        block = rows.read(first, num_rows)
        cosines, _ = faiss.knn(
            queries, block, min(count, num_rows), metric=faiss.METRIC_INNER_PRODUCT
        )
        found = np.clip(1.0 - cosines, 0.0, 2.0)
        nearest = np.concatenate([nearest, found], axis=1)
        if nearest.shape[1] > count:
            nearest = np.partition(nearest, count - 1, axis=1)[:, :count]
    return nearest


def _blocks(num_rows: int, own: slice) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each block; none holds a row of the image itself."""
    for start, stop in ((0, own.start), (own.stop, num_rows)):
        for first in range(start, stop, BLOCK_ROWS):
            yield first, min(BLOCK_ROWS, stop - first)


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InspectionRefused(
            f"zero-shot scoring needs FAISS, which the server cannot import ({error}); there, run: "
            "pip install 'dinspect[serve]', or faiss-cpu alone"
        ) from error
    return faiss
