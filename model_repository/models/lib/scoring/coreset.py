"""A smaller memory bank that still covers every reference patch.

Greedy k-centre: each row taken is the one farthest from all rows taken before, so that the largest
distance of any row to the coreset shrinks as fast as a greedy choice can make it, to at most twice
the optimum (on the chord between unit vectors; their cosine distance has the same order).

The choice is exactly that of taking one row at a time, but the bank is read once per block of many.
Distances to the coreset only shrink, so as long as the best of the farthest rows, kept up to date
among themselves, is farther than any row outside them was, it is the farthest of all.

Source: PatchCore (Roth et al., CVPR 2022), Equation 5 and Algorithm 1, without its random
projection: the greedy minimax facility location of Sener and Savarese (ICLR 2018).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 4096
"""Rows compared at once with the rows just taken; the product stays in cache."""
_CANDIDATES = 1024
"""Farthest rows kept up to date among themselves between two readings of the bank."""
_CHOSEN = -1.0
"""Stands for the distance of a row of the coreset, below any other's."""


def coreset_size(num_rows: int, fraction: float) -> int:
    """Rows of a coreset, rounded down as PatchCore does, at least one.

    Raises:
        ValueError: If the fraction is not in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"a coreset is a share in (0, 1] of the bank, not {fraction}")
    return max(int(num_rows * fraction), 1)


def greedy_coreset(bank: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Choose the rows that cover a bank best.

    The first row is the one farthest from the mean direction; of equally far rows the lower index
    is taken. Products are in float32 whatever the search's precision, so that a coreset does not
    depend on what a processor has units for.

    Args:
        bank: ``(M, D)`` float32 unit vectors; may be a memory map, of which no more than a block is
            copied at a time.
        size: Rows to choose, see `coreset_size`.

    Returns:
        ``(size,)`` int64 row numbers, ascending.

    Raises:
        ValueError: If the size is not in 1..M.
    """
    if not 1 <= size <= len(bank):
        raise ValueError(f"cannot choose {size} of {len(bank)} rows")
    chosen = np.array([_farthest_from_mean(bank)])
    distance = np.full(len(bank), np.inf, np.float32)  # of each row to the coreset
    _take(bank, distance, chosen)
    while len(chosen) < size:
        candidates, others_largest, others_first = _farthest(distance)
        taken = _greedy_within(
            bank[candidates],
            distance[candidates],
            others_largest,
            size - len(chosen),
            int(np.searchsorted(candidates, others_first)),
        )
        chosen = np.append(chosen, candidates[taken])
        _take(bank, distance, candidates[taken])
    return np.sort(chosen)


def _farthest_from_mean(bank: NDArray[np.float32]) -> int:
    blocks = [slice(first, first + _BLOCK_ROWS) for first in range(0, len(bank), _BLOCK_ROWS)]
    mean = np.sum([bank[block].sum(axis=0, dtype=np.float64) for block in blocks], axis=0)
    return int(np.concatenate([bank[block] @ mean for block in blocks]).argmin())


def _take(
    bank: NDArray[np.float32], distance: NDArray[np.float32], rows: NDArray[np.int64]
) -> None:
    """Shrink the distances to a coreset that has these rows too, in place."""
    taken = np.ascontiguousarray(bank[rows].T)  # (D, rows)
    for first in range(0, len(bank), _BLOCK_ROWS):
        block = slice(first, first + _BLOCK_ROWS)
        nearest = np.maximum(1.0 - (bank[block] @ taken).max(axis=1), 0.0)
        np.minimum(distance[block], nearest, out=distance[block])
    distance[rows] = _CHOSEN


def _farthest(distance: NDArray[np.float32]) -> tuple[NDArray[np.int64], float, int]:
    """The farthest rows, of equally far ones those of lower index, and the best of all others.

    Returns:
        Row numbers, ascending; then the largest distance outside them and the first row outside
        them that has it, below any distance if there is none outside.
    """
    if len(distance) <= _CANDIDATES:
        return np.arange(len(distance)), -np.inf, len(distance)
    place = len(distance) - 1 - _CANDIDATES
    others_largest = np.partition(distance, place)[place]
    farther = np.flatnonzero(distance > others_largest)
    equal = np.flatnonzero(distance == others_largest)[: _CANDIDATES + 1 - len(farther)]
    return np.sort(np.append(farther, equal[:-1])), float(others_largest), int(equal[-1])


def _greedy_within(
    candidates: NDArray[np.float32],
    distance: NDArray[np.float32],
    others_largest: float,
    limit: int,
    num_before: int,
) -> list[int]:
    """Take the farthest candidate again and again, while it is the farthest row of the bank.

    Args:
        candidates: ``(B, D)``, ascending by their row in the bank.
        distance: ``(B,)`` to the coreset; brought up to date in place.
        others_largest: No row outside is farther than this.
        limit: Rows to take at most.
        num_before: Candidates that come before the first row outside that may be as far; of equally
            far rows the first is taken, so the candidates behind it do not win.

    Returns:
        Numbers of the candidates taken, at least one.
    """
    between = np.maximum(1.0 - candidates @ candidates.T, 0.0)
    taken: list[int] = []
    while len(taken) < limit:
        best = int(distance.argmax())
        if distance[best] < others_largest:
            break
        if distance[best] == others_largest and best >= num_before:
            break
        taken.append(best)
        np.minimum(distance, between[best], out=distance)
        distance[best] = _CHOSEN
    return taken
