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


def first_component(tokens):
    """Unscaled projection on the first principal component, by SVD (`compute_background_mask`).

    The direction's largest entry is positive, as in scikit-learn's `svd_flip`.
    """
    tokens = np.asarray(tokens, dtype=np.float64)
    centred = tokens - tokens.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    if max(direction, key=abs) < 0:
        direction = -direction
    return np.array([float((token * direction).sum()) for token in centred])


def _neighbourhood(mask, row, column):
    rows, columns = len(mask), len(mask[0])
    return [
        mask[r][c]
        for r in range(max(row - 1, 0), min(row + 2, rows))
        for c in range(max(column - 1, 0), min(column + 2, columns))
    ]


def dilation(mask):
    """3 x 3, what lies outside ignored."""
    return [
        [any(_neighbourhood(mask, r, c)) for c in range(len(mask[0]))] for r in range(len(mask))
    ]


def erosion(mask):
    """3 x 3, what lies outside ignored."""
    return [
        [all(_neighbourhood(mask, r, c)) for c in range(len(mask[0]))] for r in range(len(mask))
    ]


def foreground_mask(tokens, grid):
    """First component above 10, sign rule, dilation, closing (Section C.1, "Masking").

    Threshold, centre crop and kernel are those of `backbones.compute_background_mask`.
    """
    rows, columns = grid
    component = first_component(tokens).reshape(rows, columns)
    mask = [[value > 10 for value in row] for row in component]
    centre = [
        mask[r][c]
        for r in range(int(rows * 0.2), int(rows * 0.8))
        for c in range(int(columns * 0.2), int(columns * 0.8))
    ]
    if sum(centre) <= 0.35 * len(centre):
        mask = [[-value > 10 for value in row] for row in component]
    return np.array(erosion(dilation(dilation(mask))))
