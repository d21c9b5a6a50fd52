"""What a faster search loses: measured on images that are in no bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_search import Search
from image_score import top_fraction_mean

MAX_PROBES = 4
_BLOCK_ROWS = 4096


def measure_loss(
    search: Search,
    rows: NDArray[np.float32],
    probes: Sequence[NDArray[np.float32]],
    num_neighbours: int,
) -> dict[str, Any]:
    """Compare a search with the exact one in all patches of all references.

    Args:
        search: The search in use.
        rows: ``(M, D)`` float32 unit vectors: every patch, before any was left out.
        probes: ``(N, D)`` float32 unit tokens of each image to measure on.
        num_neighbours: Of the search.

    Returns:
        ``images`` (mirrored references, which are in no bank), ``max_distance_error`` and
        ``mean_distance_error`` per patch, and ``max_score_change`` as a share of the exact score.
    """
    exact = exact_distances(rows, np.concatenate(probes), num_neighbours)
    found = np.concatenate([search.distances(query) for query in probes])
    error = np.abs(found - exact)
    changes = [
        abs(top_fraction_mean(ours) / top_fraction_mean(truth) - 1)
        for ours, truth in zip(
            np.split(found, len(probes)), np.split(exact, len(probes)), strict=True
        )
        if top_fraction_mean(truth) > 0
    ]
    return {
        "images": len(probes),
        "max_distance_error": float(error.max()),
        "mean_distance_error": float(error.mean()),
        "max_score_change": float(max(changes, default=0.0)),
    }


def exact_distances(
    rows: NDArray[np.float32], queries: NDArray[np.float32], num_neighbours: int
) -> NDArray[np.float32]:
    """Mean FP32 cosine distance to the nearest rows, in blocks, so that rows may lie on disk.

    Args:
        rows: ``(M, D)`` float32 unit vectors.
        queries: ``(N, D)`` float32 unit vectors.
        num_neighbours: How many rows the mean is over.
    """
    nearest = np.full((len(queries), num_neighbours), np.inf, np.float32)
    for first in range(0, len(rows), _BLOCK_ROWS):
        distances = 1.0 - queries @ np.asarray(rows[first : first + _BLOCK_ROWS]).T
        if num_neighbours == 1:
            nearest = np.minimum(nearest, distances.min(axis=1, keepdims=True))
        else:
            both = np.concatenate([nearest, distances], axis=1)
            nearest = np.partition(both, num_neighbours - 1, axis=1)[:, :num_neighbours]
    return np.clip(nearest, 0.0, 2.0).mean(axis=1)
