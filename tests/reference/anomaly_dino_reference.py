"""AnomalyDINO computed the slow, obvious way, to hold the fast code to.

Each function cites the paper's supplement (its Sections, Equations) or the authors' code
(`dammsi/AnomalyDINO`). Nothing here is shared with what is tested.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter


def pixels(path, resolution=448, patch=14):
    """Shorter edge to the resolution, bicubic, crop right and bottom (`backbones.prepare_image`)."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = resolution / min(image.size)
    # torchvision's Resize truncates the longer edge.
    size = tuple(
        resolution if side == min(image.size) else int(side * scale) for side in image.size
    )
    array = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    rows, columns = array.shape[0] // patch, array.shape[1] // patch
    return array[: rows * patch, : columns * patch]


def patch_distances(tokens, bank):
    """Nearest-neighbour cosine distance (Equations 2 and 3), in float64.

    Args:
        tokens: ``(N, D)``.
        bank: ``(M, D)``.
    """
    tokens = np.asarray(tokens, dtype=np.float64)
    bank = np.asarray(bank, dtype=np.float64)
    bank_lengths = np.sqrt((bank**2).sum(axis=1))
    distances = np.empty(len(tokens))
    for index, token in enumerate(tokens):
        cosine = bank @ token / (bank_lengths * np.sqrt((token**2).sum()))
        distances[index] = 1.0 - cosine.max()
    return distances


def image_score(distances):
    """Mean of the 1 % largest patch distances (Section C.2; `post_eval.mean_top1p`)."""
    ordered = sorted(np.ravel(distances).tolist(), reverse=True)
    count = max(int(len(ordered) * 0.01), 1)
    return sum(ordered[:count]) / count


def upsample(grid, height, width):
    """Bilinear interpolation with half-pixel centres and repeated edges, pixel by pixel."""
    rows, columns = grid.shape
    result = np.empty((height, width))
    for y in range(height):
        v = min(max((y + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        y0 = int(v)
        y1 = min(y0 + 1, rows - 1)
        for x in range(width):
            u = min(max((x + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            x0 = int(u)
            x1 = min(x0 + 1, columns - 1)
            above = grid[y0, x0] * (1 - (u - x0)) + grid[y0, x1] * (u - x0)
            below = grid[y1, x0] * (1 - (u - x0)) + grid[y1, x1] * (u - x0)
            result[y, x] = above * (1 - (v - y0)) + below * (v - y0)
    return result


def anomaly_map(grid, height, width):
    """Bilinear to the original size, then Gaussian with sigma 4 (Section C.2; `utils.dists2map`)."""
    return gaussian_filter(upsample(np.asarray(grid, np.float64), height, width), sigma=4.0)
