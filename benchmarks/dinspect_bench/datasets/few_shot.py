"""Which of a category's good images a few-shot run learns from.

AnomalyDINO's "three independent runs" are consecutive slices of the sorted file names: with two
shots, seed 0 takes the first two images, seed 1 the third and fourth. Only the same images give
comparable figures, so `bench-accuracy` takes slices for AnomalyDINO. Neighbours in a folder may be
pictures of one part, so slices vary less than draws would; ``random`` draws, as it does for L2BT,
whose paper selects "randomly" (Section V) and does not say by which seeds.

Source: dammsi/AnomalyDINO `src/detection.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dinspect_bench.errors import DatasetError

CONSECUTIVE, RANDOM = "consecutive", "random"
SELECTIONS = (CONSECUTIVE, RANDOM)


def select_shots(
    good: Sequence[Path], shots: int | None, seed: int, selection: str = CONSECUTIVE
) -> tuple[Path, ...]:
    """Choose the images to learn from.

    Args:
        good: A category's good images, sorted by name.
        shots: How many; None for all of them.
        seed: Number of the slice, or seed of the draw.
        selection: ``consecutive`` or ``random``; without meaning for all of them. Of a random
            draw, fewer are the first of more.

    Raises:
        DatasetError: If there are too few for that. The authors' code goes on with what is left;
            a figure would then be called what it is not.
        ValueError: If the selection is neither.
    """
    if shots is None:
        return tuple(good)
    if selection not in SELECTIONS:
        raise ValueError(f"selection is {selection!r}, expected one of {', '.join(SELECTIONS)}")
    if selection == RANDOM:
        _require(good, shots, f"{shots} shots")
        drawn = np.random.default_rng(seed).permutation(len(good))[:shots]
        return tuple(good[index] for index in drawn)
    first = seed * shots
    _require(good, first + shots, f"slice {seed} of {shots} shots")
    return tuple(good[first : first + shots])


def _require(good: Sequence[Path], count: int, what: str) -> None:
    if len(good) < count:
        raise DatasetError(
            f"{what} needs {count} good images to learn from, there are {len(good)}; ask for fewer "
            "shots or smaller seeds"
        )
