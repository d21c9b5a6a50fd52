"""Agreement of two runs of one backbone, patch by patch.

One bad patch is a missed defect, and a similarity over the whole tensor hides it: so the figure is
always the worst patch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def cosine_distance_per_patch(
    tokens: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Cosine distance of corresponding patch tokens.

    Args:
        tokens: ``(..., N, D)`` patch tokens.
        reference: The same shape, from the run that is trusted.

    Returns:
        ``(..., N)`` in [0, 2]; NaN where a token has no direction or is not finite.

    Raises:
        ValueError: If the shapes differ.
    """
    if tokens.shape != reference.shape:
        raise ValueError(f"tokens are {tokens.shape}, expected {reference.shape} as the reference")
    a, b = tokens.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return 1.0 - cosine


def max_cosine_distance(tokens: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The worst patch's cosine distance; infinite when any patch has none.

    Raises:
        ValueError: If the shapes differ.
    """
    distance = cosine_distance_per_patch(tokens, reference)
    return float(distance.max()) if np.isfinite(distance).all() else float("inf")
