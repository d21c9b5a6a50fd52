"""The anomaly map on a device: bilinear upsampling and smoothing as one matrix product per axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA_PX = 4.0
"""Of the Gaussian (AnomalyDINO, `src/utils.py::dists2map`)."""
_TRUNCATE = 4.0


class DeviceMap:
    """Patch distances to the map of a square image of the backbone's own input size.

    Args:
        grid: Patch grid ``(rows, columns)``.
        size_px: Edge of the map in pixels.
        device: ``cuda`` or ``cpu``.
        sigma_px: Of the Gaussian.
    """

    def __init__(
        self, grid: tuple[int, int], size_px: int, device: str, sigma_px: float = SIGMA_PX
    ) -> None:
        rows, columns = (_axis_operator(patches, size_px, sigma_px) for patches in grid)
        self._rows, self._columns = rows.to(device), columns.T.contiguous().to(device)

    def __call__(self, distances: Tensor) -> Tensor:
        """``(B, rows, columns)`` float32 distances to ``(B, H, W)`` float32 maps."""
        return self._rows @ distances @ self._columns


def _axis_operator(patches: int, size_px: int, sigma_px: float) -> Tensor:
    """Interpolation and smoothing along one axis, ``(size_px, patches)`` float32.

    A linear operator's columns are its answers to unit vectors.
    """
    from scipy.ndimage import gaussian_filter1d

    unit = torch.eye(patches, dtype=torch.float64)[None]
    upsampled = F.interpolate(unit, size=size_px, mode="linear", align_corners=False)[0]
    smoothed = gaussian_filter1d(
        upsampled.numpy(), sigma_px, axis=1, mode="reflect", truncate=_TRUNCATE
    )
    return torch.from_numpy(smoothed).T.to(torch.float32).contiguous()
