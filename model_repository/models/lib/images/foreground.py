"""Which patches show the object: the zero-shot foreground mask.

The first principal component of an image's patch tokens tells object from background; which end is
the object is decided by what fills the centre of the image.

Source: AnomalyDINO, Section C.1 of the supplement, and the authors'
`src/backbones.py::compute_background_mask`. Two things differ: their randomized PCA is not seeded,
and they filter the mask as one column of N patches, where a 3 x 3 kernel reaches left and right
only, and round the end of a row; ours stays in the grid and reaches up and down too, as the paper
reads.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 10.0
"""On the unscaled component, in units of the tokens after the backbone's final LayerNorm."""
CENTRE_BORDER = 0.2
MIN_CENTRE_SHARE = 0.35
"""What the sign rule asks for."""

_KERNEL = np.ones((3, 3), np.uint8)
_BLOCK = 8
_TOLERANCE = 1e-12
_MAX_ITERATIONS = 60


def foreground_mask(tokens: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Find the patches that show the object.

    Args:
        tokens: ``(N, D)`` float32 patch tokens after the final LayerNorm, not scaled to length 1.
        grid: (rows, columns) of patches, N in all.

    Returns:
        ``(rows, columns)``, true on the object. All false where no patch stands out, as in an
        empty image, whose tokens are all alike: that is nothing found, not nothing wrong.

    Raises:
        ValueError: If a token is not finite, or N is not the grid's size.
    """
    return enlarged(object_component(tokens, grid) > THRESHOLD)


def object_component(tokens: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.float64]:
    """The tokens' first principal component with the object at its positive end.

    Args and errors are those of `foreground_mask`.

    Returns:
        ``(rows, columns)`` float64, unscaled.
    """
    component = first_component(tokens).reshape(grid)
    centre = centre_of(component > THRESHOLD)
    return -component if centre.sum() <= MIN_CENTRE_SHARE * centre.size else component


def centre_of(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of a mask that decides on the sign: without a border of 20 % on each side."""
    rows, columns = mask.shape
    # Rounded down at both ends, as the authors do: of 32 rows it is 6 to 24.
    return mask[
        int(rows * CENTRE_BORDER) : int(rows * (1 - CENTRE_BORDER)),
        int(columns * CENTRE_BORDER) : int(columns * (1 - CENTRE_BORDER)),
    ]


def enlarged(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilated, then closed, both 3 x 3; what lies outside the grid has no say in either."""
    dilated = cv2.dilate(mask.astype(np.uint8), _KERNEL)
    return cv2.morphologyEx(dilated, cv2.MORPH_CLOSE, _KERNEL).astype(bool)


def first_component(tokens: NDArray[np.float32]) -> NDArray[np.float64]:
    """Project tokens on their first principal component: ``(N, D)`` to ``(N,)``, unscaled.

    The sign is the one that makes the direction's largest entry positive, as in scikit-learn's PCA
    since 1.5.

    Raises:
        ValueError: If a token is not finite.
    """
    if not np.isfinite(tokens).all():
        raise ValueError("a patch token is not finite; the backbone is broken")
    centred = tokens.astype(np.float64)
    centred -= centred.mean(axis=0)
    direction = _leading_eigenvector(centred.T @ centred)
    if direction[np.abs(direction).argmax()] < 0:
        direction = -direction
    return centred @ direction


def _leading_eigenvector(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit eigenvector to the largest eigenvalue of a symmetric, positive semidefinite matrix.

    Subspace iteration from a fixed start, so the result does not depend on process or thread count
    beyond rounding. Many times faster than all eigenvectors, which are computed where it has not
    converged.
    """
    size = len(matrix)
    start = np.random.default_rng(0).standard_normal((size, min(_BLOCK, size)))
    block = np.linalg.qr(start).Q
    for _ in range(_MAX_ITERATIONS):
        image = matrix @ block
        values, vectors = np.linalg.eigh(block.T @ image)  # Rayleigh-Ritz
        leading = block @ vectors[:, -1]
        residual = np.linalg.norm(image @ vectors[:, -1] - values[-1] * leading)
        if residual <= _TOLERANCE * values[-1]:
            return leading
        block = np.linalg.qr(image).Q
    return np.linalg.eigh(matrix).eigenvectors[:, -1]
