"""Which patches show the object: the zero-shot foreground mask, and whether to trust it.

The first principal component of an image's patch tokens tells object from background; which end is
the object is decided by what fills the centre of the image. Where that fails the mask hides part of
the object, and with it the defects there, so a product is masked only if the mask of its first
reference passes a test.

Source: AnomalyDINO, Section C.1 of the supplement, and the authors'
`src/backbones.py::compute_background_mask`. Two things differ in a mask: their randomized PCA is
not seeded, and they filter the mask as one column of N patches, where a 3 x 3 kernel reaches left
and right only, and round the end of a row; ours stays in the grid and reaches up
and down too, as the paper reads. The test of a mask is ours alone: they judged by eye.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 10.0
"""On the unscaled component, in units of the tokens after the backbone's final LayerNorm."""
CENTRE_BORDER = 0.2
MIN_CENTRE_SHARE = 0.35
"""Also what the sign rule asks for. More of the centre than this is more than 12 % of the grid, so
there is no lower limit of the foreground's share."""
MAX_BORDER_SHARE = 0.25
MAX_HOLE_SHARE = 0.01
MAX_FOREGROUND_SHARE = 0.8

_KERNEL = np.ones((3, 3), np.uint8)
_BLOCK = 8
_TOLERANCE = 1e-12
_MAX_ITERATIONS = 60


@dataclass(frozen=True)
class MaskingTest:
    """Whether a product is masked, judged on one good image. All shares are in [0, 1].

    Attributes:
        passed: Whether the mask may be trusted.
        reason: Why, as a sentence; the first condition that failed.
        foreground_share: Of all patches, how many are foreground.
        centre_share: Of the patches in the centre crop, as the sign rule sees them: before the
            mask is enlarged.
        border_share: Of the outermost ring of patches.
        hole_share: Of all patches, how many are background enclosed by foreground.
    """

    passed: bool
    reason: str
    foreground_share: float
    centre_share: float
    border_share: float
    hole_share: float

    def to_dict(self) -> dict[str, bool | str | float]:
        """Name to value, for JSON."""
        return asdict(self)


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
    return _enlarged(_raw_mask(tokens, grid))


def masking_test(tokens: NDArray[np.float32], grid: tuple[int, int]) -> MaskingTest:
    """Decide on a good image whether its product may be masked.

    The paper masks "whenever the zero-shot segmentation of DINOv2 captures the object correctly".
    This is a cautious stand-in for that judgement: the object fills the centre, without which the
    sign rule is a guess; it ends before the image does, as a texture or a zipper does not; nothing
    inside it was taken for background; and there is background left to hide. What it cannot see is
    a part of the object that was cut off at its outline.

    Args:
        tokens: As in `foreground_mask`.
        grid: (rows, columns) of patches.

    Raises:
        ValueError: As in `foreground_mask`.
    """
    raw = _raw_mask(tokens, grid)
    mask = _enlarged(raw)
    ring = np.ones(grid, dtype=bool)
    ring[1:-1, 1:-1] = False
    centre = float(_centre(raw).mean())
    border = float(mask[ring].mean())
    hole = float(_holes(mask).mean())
    share = float(mask.mean())
    conditions = (
        (
            centre > MIN_CENTRE_SHARE,
            f"The centre of the image is {centre:.1%} foreground, and must be more than "
            f"{MIN_CENTRE_SHARE:.0%}.",
        ),
        (
            border <= MAX_BORDER_SHARE,
            f"The border of the image is {border:.1%} foreground, and may be {MAX_BORDER_SHARE:.0%}"
            " at most: the object does not end inside the image.",
        ),
        (
            hole <= MAX_HOLE_SHARE,
            f"Background enclosed by foreground is {hole:.1%} of the image, and may be "
            f"{MAX_HOLE_SHARE:.0%} at most: part of the object may be taken for background.",
        ),
        (
            share <= MAX_FOREGROUND_SHARE,
            f"The foreground is {share:.1%} of the image, and may be {MAX_FOREGROUND_SHARE:.0%} at"
            " most: there is hardly any background to hide.",
        ),
    )
    failed = [reason for holds, reason in conditions if not holds]
    return MaskingTest(
        passed=not failed,
        reason=failed[0] if failed else "The mask sets one or more whole objects off.",
        foreground_share=share,
        centre_share=centre,
        border_share=border,
        hole_share=hole,
    )


def _raw_mask(tokens: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """The thresholded component with the sign of the object, ``(rows, columns)``."""
    component = _first_component(tokens).reshape(grid)
    mask = component > THRESHOLD
    if _centre(mask).sum() <= MIN_CENTRE_SHARE * _centre(mask).size:
        mask = -component > THRESHOLD
    return mask


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = mask.shape
    # Rounded down at both ends, as the authors do: of 32 rows it is 6 to 24.
    return mask[
        int(rows * CENTRE_BORDER) : int(rows * (1 - CENTRE_BORDER)),
        int(columns * CENTRE_BORDER) : int(columns * (1 - CENTRE_BORDER)),
    ]


def _enlarged(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Dilated, then closed, both 3 x 3; what lies outside the grid has no say in either."""
    dilated = cv2.dilate(mask.astype(np.uint8), _KERNEL)
    return cv2.morphologyEx(dilated, cv2.MORPH_CLOSE, _KERNEL).astype(bool)


def _holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Background from which no path of background, side by side, leads to the border."""
    _, regions = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)
    edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return ~mask & ~np.isin(regions, edges)


def _first_component(tokens: NDArray[np.float32]) -> NDArray[np.float64]:
    """Project tokens on their first principal component: ``(N, D)`` to ``(N,)``, unscaled.

    The sign is the one that makes the direction's largest entry positive, as in scikit-learn's PCA
    since 1.5.
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
