"""AnomalyDINO computed the slow, obvious way, to hold the fast code to.

Each function cites the paper's supplement (its Sections, Equations, Tables) or the authors' code
(`dammsi/AnomalyDINO`). Nothing here is shared with what is tested. Distances and scores are in
float64.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

ROTATIONS_DEG = (0, 45, 90, 135, 180, 225, 270, 315)
"""Section C.1, "Rotation"; the default angles of `utils.augment_image`."""


def decoded(path):
    """A file's image, ``(H, W, 3)`` uint8 RGB (`detection.run_anomaly_detection`)."""
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


def pixels(path, resolution=448, patch=14):
    """A file's image as the backbone sees it, see `prepared`."""
    return prepared(decoded(path), resolution, patch)


def prepared(image, resolution=448, patch=14):
    """Shorter edge to the resolution, bicubic, crop right and bottom (`backbones.prepare_image`)."""
    image = Image.fromarray(image)
    scale = resolution / min(image.size)
    # torchvision's Resize truncates the longer edge.
    size = tuple(
        resolution if side == min(image.size) else int(side * scale) for side in image.size
    )
    array = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    rows, columns = array.shape[0] // patch, array.shape[1] // patch
    return array[: rows * patch, : columns * patch]


def rotate(image, angle_deg, exact=False):
    """Turn an image counter-clockwise, bilinear, its border reflected (Section C.1, "Rotation").

    `utils.rotate_image`: about (W / 2, H / 2), which is half a pixel right of and below the centre;
    `cv2.warpAffine` with INTER_LINEAR and BORDER_DEFAULT, which repeats no edge pixel.

    Args:
        image: ``(H, W, C)`` uint8.
        angle_deg: The angle.
        exact: False to look each pixel up at a multiple of 1/32 px, as OpenCV does.

    Returns:
        uint8; float64 and not rounded if exact.
    """
    height, width = image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    y_to, x_to = np.indices((height, width), dtype=np.float64)
    # Where a pixel of the result comes from: turned back about the centre.
    x_offset = width / 2 - cosine * width / 2 + sine * height / 2
    y_offset = height / 2 - sine * width / 2 - cosine * height / 2
    x = _position(cosine * x_to, x_offset - sine * y_to, exact)
    y = _position(sine * x_to, y_offset + cosine * y_to, exact)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]

    def at(row, column):
        return image[_reflected(row, height), _reflected(column, width)].astype(np.float64)

    above = at(top, left) * (1 - right_share) + at(top, left + 1) * right_share
    below = at(top + 1, left) * (1 - right_share) + at(top + 1, left + 1) * right_share
    result = above * (1 - bottom_share) + below * bottom_share
    return result if exact else np.floor(result + 0.5).astype(np.uint8)


def _position(along_the_row, rest, exact):
    """A coordinate, rounded to 1/32 px in steps of 1/1024 (AB_BITS, INTER_BITS of OpenCV)."""
    if exact:
        return along_the_row + rest
    return np.floor((np.rint(along_the_row * 1024) + np.rint(rest * 1024) + 16) / 32) / 32


def _reflected(index, size):
    """What lies outside is mirrored at the edge pixels: ``dcb|abcd|cba``."""
    index = np.abs(index) % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def preprocessing(setting, rotated=False, texture=False, test_passed=True):
    """Angles of each reference, and whether tests are masked (Section C.1, Tables 8 and 9b).

    `utils.get_dataset_info`; the settings that mask or rotate whatever the object are the rows of
    Table 9b, `force_mask_rotation` and so on there.

    Args:
        setting: Its name.
        rotated: What Table 8 knows of the object, asked by "informed".
        texture: Table 8's (T).
        test_passed: False for Table 8's (MT), the masking test that failed.
    """
    rotates = {
        "agnostic": True,
        "informed": rotated,
        "masking_only": False,
        "no_mask_no_rotation": False,
        "no_mask_rotation": True,
        "mask_no_rotation": False,
        "mask_rotation": True,
    }[setting]
    if setting.startswith("no_mask"):
        masks = False
    elif setting.startswith("mask_"):
        masks = True
    else:
        masks = test_passed and not texture
    return (ROTATIONS_DEG if rotates else (0,)), masks


def cosine_distances(tokens, bank):
    """``1 - cos`` of each token to each row (Equation 3).

    Args:
        tokens: ``(N, D)``.
        bank: ``(M, D)``.

    Returns:
        ``(N, M)`` float64.
    """
    tokens, bank = np.asarray(tokens, dtype=np.float64), np.asarray(bank, dtype=np.float64)
    token_lengths, bank_lengths = np.sqrt((tokens**2).sum(axis=1)), np.sqrt((bank**2).sum(axis=1))
    return 1.0 - (tokens @ bank.T) / (token_lengths[:, None] * bank_lengths)


def patch_distances(tokens, bank):
    """Distance to the nearest row (Equation 2): ``(N, D)`` and ``(M, D)`` to ``(N,)``."""
    return cosine_distances(tokens, bank).min(axis=1)


def mean_of_k_nearest(tokens, bank, k):
    """Mean distance to the k nearest rows; the authors' `src/detection.py`, `knn_neighbors`."""
    return np.sort(cosine_distances(tokens, bank), axis=1)[:, :k].sum(axis=1) / k


def masked(distances, foreground):
    """Patches of the background have distance 0 (`detection.run_anomaly_detection`)."""
    return np.array(
        [
            [d if shown else 0.0 for d, shown in zip(*row, strict=True)]
            for row in zip(np.asarray(distances), np.asarray(foreground), strict=True)
        ]
    )


def greedy_coreset(bank, size):
    """PatchCore's greedy k-centre, one row at a time, in float64 (Roth et al., Algorithm 1).

    Starts at the row farthest from the mean direction; of equally far rows the first is taken.
    PatchCore starts anywhere.

    Args:
        bank: ``(M, D)`` unit vectors.
        size: Rows to choose.
    """
    bank = np.asarray(bank, dtype=np.float64)
    chosen = [int(np.argmin(bank @ bank.sum(axis=0)))]
    distances = 1.0 - bank @ bank[chosen[0]]
    while len(chosen) < size:
        rest = [row for row in range(len(bank)) if row not in chosen]
        farthest = max(rest, key=lambda row: (distances[row], -row))
        chosen.append(farthest)
        distances = np.minimum(distances, 1.0 - bank @ bank[farthest])
    return sorted(chosen)


def image_score(distances):
    """Mean of the 1 % largest patch distances (Section C.2; `post_eval.mean_top1p`)."""
    ordered = sorted(np.ravel(distances).tolist(), reverse=True)
    count = max(int(len(ordered) * 0.01), 1)
    return sum(ordered[:count]) / count


def named_score(name, distances, foreground, height, width):
    """An image score of Table 10, by its name.

    The default counts the masked patches' zeros among the patches, as `detection.py` and
    `post_eval.py` do; "mean_top1p_foreground" takes 1 % of the patches left after masking, whose
    number Section C.2 gives.

    Args:
        name: Its name.
        distances: ``(rows, columns)``, 0 where masked.
        foreground: ``(rows, columns)``, False where masked.
        height: Of the image in pixels.
        width: The same.
    """
    if name == "mean_top1p":
        return image_score(distances)
    if name == "mean_top1p_foreground":
        pairs = zip(np.ravel(distances), np.ravel(foreground), strict=True)
        left = [distance for distance, shown in pairs if shown]
        return image_score(left) if left else 0.0
    if name == "max":
        return max(np.ravel(distances).tolist())
    return max(np.ravel(anomaly_map(distances, height, width)).tolist())


def upsample(grid, height, width, covered=(1.0, 1.0)):
    """Bilinear interpolation with half-pixel centres and repeated edges, pixel by pixel.

    Args:
        grid: ``(rows, columns)``.
        height: Of the result in pixels.
        width: The same.
        covered: Shares of height and width over which the grid lies, from the top left.
    """
    rows, columns = grid.shape
    height_covered, width_covered = height * covered[0], width * covered[1]
    result = np.empty((height, width))
    for y in range(height):
        v = min(max((y + 0.5) * rows / height_covered - 0.5, 0.0), rows - 1.0)
        y0 = int(v)
        y1 = min(y0 + 1, rows - 1)
        for x in range(width):
            u = min(max((x + 0.5) * columns / width_covered - 0.5, 0.0), columns - 1.0)
            x0 = int(u)
            x1 = min(x0 + 1, columns - 1)
            above = grid[y0, x0] * (1 - (u - x0)) + grid[y0, x1] * (u - x0)
            below = grid[y1, x0] * (1 - (u - x0)) + grid[y1, x1] * (u - x0)
            result[y, x] = above * (1 - (v - y0)) + below * (v - y0)
    return result


def anomaly_map(grid, height, width, patch=14):
    """Bilinear to the original size, then Gaussian with sigma 4 (Section C.2; `utils.dists2map`).

    The authors stretch the grid over the whole image. Where `prepared` cropped a margin, it lies
    here where its patches were cut out, and the nearest patch extends over the margin.
    """
    grid = np.asarray(grid, np.float64)
    rows, columns = grid.shape
    resolution, shorter = patch * min(rows, columns), min(height, width)
    covered = (
        patch * rows / int(resolution * height / shorter),
        patch * columns / int(resolution * width / shorter),
    )
    return gaussian_filter(upsample(grid, height, width, covered), sigma=4.0)


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


def tail_distance(distances, alpha=0.001, statistic="max"):
    """Patch score from the nearest share alpha of all distances (Section D, Equation 7).

    Args:
        distances: Of one patch to all patches of all other images.
        alpha: Share below the quantile; its number is rounded down, at least 1.
        statistic: "max" is Equation 7, the largest of them. "mean" is what
            `run_anomalydino_batched.py::calculate_cosine_distances` does: the mean of what is
            strictly below the largest; the largest itself where nothing is.
    """
    ordered = sorted(np.asarray(distances, dtype=np.float64).tolist())
    quantile = ordered[max(int(alpha * len(ordered)), 1) - 1]
    below = [distance for distance in ordered if distance < quantile]
    if statistic == "max" or not below:
        return quantile
    return sum(below) / len(below)


def batched_zero_shot(tokens, alpha=0.001, statistic="max"):
    """Patch scores of every image against all others (Section D, Equations 5 to 7).

    No image's background is left out of what the others are compared with, as in
    `run_anomalydino_batched.py`, which masks the scores afterwards.

    Args:
        tokens: ``(N, D)`` of each image.
        alpha: As in `tail_distance`.
        statistic: As in `tail_distance`.

    Returns:
        ``(N,)`` for each image.
    """
    scores = []
    for j, own in enumerate(tokens):
        others = np.concatenate([other for i, other in enumerate(tokens) if i != j])
        distances = cosine_distances(own, others)
        scores.append(np.array([tail_distance(row, alpha, statistic) for row in distances]))
    return scores
