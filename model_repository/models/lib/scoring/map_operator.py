"""The anomaly map in one step: bilinear upsampling and smoothing as a matrix product.

Both are linear and separable, so for one image size the whole map is ``L_rows @ D @ L_columns.T``
with ``L = smoothing @ interpolation``, built once per size. It equals resizing to the original size
and filtering there (to rounding), at a fraction of the cost: the wide arrays are only ever written
once.

Sources. AnomalyDINO: `src/utils.py::dists2map` (bilinear resize with half-pixel centres, then
SciPy's `gaussian_filter` with sigma 4, truncated at 4 sigma, half-sample symmetric border). One
deliberate difference: the patches cover the cropped image, so where the crop removed a margin the
map is extended over it by the nearest patch instead of being stretched over the whole image, which
would shift it by up to 13 px of the resized image. L2BT: Algorithm 2, step 6; `B_infer_VisA.py`
smooths the padded square by five box filters of 5 px and three of 7 px, zero outside, and then
crops. Their variances add up to 22 px², so a Gaussian of that variance is the paper's "Gaussian
blur".
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE, padding_before, resized_size

SIGMA_PX = 4.0
BOX_WIDTHS_PX = (5, 5, 5, 5, 5, 7, 7, 7)
SMOOTHINGS = ("gaussian", "boxes")
_TRUNCATE = 4.0


class MapRule(NamedTuple):
    """How patch distances become a map.

    Attributes:
        padded: Whether the patches cover the image padded to a square, instead of its crop.
        smoothing: ``gaussian``, or ``boxes``: L2BT's official chain of box filters.
        sigma_px: Of the Gaussian, in pixels of the original image; 0 for no smoothing.
    """

    padded: bool = False
    smoothing: str = "gaussian"
    sigma_px: float = SIGMA_PX

    def to_numbers(self) -> tuple[float, float, float]:
        """As it travels from model to model in a tensor of numbers."""
        return float(self.padded), float(SMOOTHINGS.index(self.smoothing)), self.sigma_px

    @classmethod
    def from_numbers(cls, padded: float, smoothing: float, sigma_px: float) -> MapRule:
        """Read what `to_numbers` wrote."""
        return cls(bool(padded), SMOOTHINGS[int(smoothing)], float(sigma_px))


ANOMALY_DINO_MAP = MapRule()


def anomaly_map(
    distances: NDArray[np.float32], image_size: tuple[int, int], rule: MapRule = ANOMALY_DINO_MAP
) -> NDArray[np.float32]:
    """Upsample patch distances to the original image and smooth them.

    Args:
        distances: ``(rows, columns)`` float32 patch distances.
        image_size: Height and width of the original image in pixels.
        rule: Geometry and smoothing.

    Returns:
        ``(H, W)`` float32; of a padded image without the padding.
    """
    rows, columns = distances.shape
    left = _axis_operator(image_size, 0, rows, min(rows, columns), rule)
    right = _axis_operator(image_size, 1, columns, min(rows, columns), rule)
    return (left @ distances) @ right.T


@lru_cache(maxsize=32)
def _axis_operator(
    image_size: tuple[int, int], axis: int, patches: int, shorter: int, rule: MapRule
) -> NDArray[np.float32]:
    """Interpolation and smoothing along one axis, ``(size_px, patches)`` float32."""
    size_px = image_size[axis]
    if not rule.padded:
        resized_px = resized_size(image_size, PATCH_SIZE * shorter)[axis]
        operator = _interpolation(size_px, resized_px / PATCH_SIZE, patches)
        return _smoothed(operator, rule).astype(np.float32)
    square_px = max(image_size)
    before_px = padding_before(size_px, square_px)
    inside = slice(before_px, before_px + size_px)
    operator = _interpolation(square_px, patches, patches)
    if rule.smoothing == "boxes":  # as the official code: smoothed together with the padding
        return _smoothed(operator, rule)[inside].astype(np.float32)
    return _smoothed(operator[inside], rule).astype(np.float32)


def _interpolation(size_px: int, covered_patches: float, patches: int) -> NDArray[np.float64]:
    """Bilinear interpolation of patch centres, ``(size_px, patches)``.

    Args:
        size_px: Pixels of the axis.
        covered_patches: How many patches these pixels are wide; more than there are where a margin
            was cropped.
        patches: Patches there are.
    """
    position = (np.arange(size_px) + 0.5) * (covered_patches / size_px) - 0.5
    position = np.clip(position, 0.0, patches - 1)
    below = np.minimum(np.floor(position).astype(np.int64), max(patches - 2, 0))
    weight = position - below
    operator = np.zeros((size_px, patches))
    pixels = np.arange(size_px)
    operator[pixels, below] = 1.0 - weight
    operator[pixels, np.minimum(below + 1, patches - 1)] += weight
    return operator


def _smoothed(operator: NDArray[np.float64], rule: MapRule) -> NDArray[np.float64]:
    if rule.smoothing == "boxes":
        for width in BOX_WIDTHS_PX:
            operator = _filtered(operator, np.full(width, 1.0 / width), "constant")
        return operator
    if rule.sigma_px <= 0:
        return operator
    radius = int(_TRUNCATE * rule.sigma_px + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / rule.sigma_px) ** 2)
    return _filtered(operator, kernel / kernel.sum(), "symmetric")


def _filtered(
    operator: NDArray[np.float64], kernel: NDArray[np.float64], border: str
) -> NDArray[np.float64]:
    """Filter the pixels' axis with a kernel of odd length."""
    radius = len(kernel) // 2
    padded = np.pad(operator, ((radius, radius), (0, 0)), mode=border)  # type: ignore[call-overload]
    size = len(operator)
    return sum(weight * padded[shift : shift + size] for shift, weight in enumerate(kernel))
