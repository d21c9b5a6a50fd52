"""The anomaly map in one step: bilinear upsampling and Gaussian smoothing as a matrix product.

Both are linear and separable, so for one image size the whole map is ``L_rows @ D @ L_columns.T``
with ``L = smoothing @ interpolation``, built once per size. It equals resizing to the original size
and filtering there (to rounding), at a fraction of the cost: the wide arrays are only ever written
once.

Source: AnomalyDINO `src/utils.py::dists2map` (bilinear resize with half-pixel centres, then SciPy's
`gaussian_filter` with sigma 4, truncated at 4 sigma, half-sample symmetric border). One deliberate
difference: the patches cover the cropped image, so where the crop removed a margin the map is
extended over it by the nearest patch instead of being stretched over the whole image, which would
shift it by up to 13 px of the resized image.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE, resized_size

SIGMA_PX = 4.0
_TRUNCATE = 4.0


def anomaly_map(
    distances: NDArray[np.float32], image_size: tuple[int, int], sigma_px: float = SIGMA_PX
) -> NDArray[np.float32]:
    """Upsample patch distances to the original image and smooth them.

    Args:
        distances: ``(rows, columns)`` float32 patch distances.
        image_size: Height and width of the original image in pixels.
        sigma_px: Standard deviation of the smoothing in pixels of the original image.

    Returns:
        ``(H, W)`` float32.
    """
    rows, columns = distances.shape
    resized = resized_size(image_size, PATCH_SIZE * min(rows, columns))
    left = _axis_operator(image_size[0], resized[0], rows, sigma_px)
    right = _axis_operator(image_size[1], resized[1], columns, sigma_px)
    return (left @ distances) @ right.T


@lru_cache(maxsize=32)
def _axis_operator(
    size_px: int, resized_px: int, patches: int, sigma_px: float
) -> NDArray[np.float32]:
    """Interpolation and smoothing along one axis, ``(size_px, patches)`` float32."""
    position = (np.arange(size_px) + 0.5) * (resized_px / size_px) / PATCH_SIZE - 0.5
    position = np.clip(position, 0.0, patches - 1)
    below = np.minimum(np.floor(position).astype(np.int64), max(patches - 2, 0))
    weight = position - below
    operator = np.zeros((size_px, patches))
    pixels = np.arange(size_px)
    operator[pixels, below] = 1.0 - weight
    operator[pixels, np.minimum(below + 1, patches - 1)] += weight
    return _smooth_rows(operator, sigma_px).astype(np.float32)


def _smooth_rows(operator: NDArray[np.float64], sigma_px: float) -> NDArray[np.float64]:
    if sigma_px <= 0:
        return operator
    radius = int(_TRUNCATE * sigma_px + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(operator, ((radius, radius), (0, 0)), mode="symmetric")
    size = len(operator)
    return sum(weight * padded[shift : shift + size] for shift, weight in enumerate(kernel))
