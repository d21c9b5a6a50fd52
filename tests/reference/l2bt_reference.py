"""L2BT computed the slow, obvious way, to hold the fast code to: distances, maps, training.

Each function cites the paper ("Learning to Be a Transformer to Pinpoint Anomalies") or the authors'
code (`alex-costanzino/L2BT`). Nothing here is shared with what is tested. All in float64.
"""

from __future__ import annotations

import functools
import math

import numpy as np


def gelu(x):
    """x times the normal distribution's cumulative function at x (Section IV-B.2)."""
    return np.array([v * 0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x])


def student(weights, token):
    """Three linear layers, GELU after all but the last (Section IV-B.2, `models/students.py`).

    Args:
        weights: ``input.weight`` (D, D) and so on.
        token: ``(D,)``.
    """
    x = gelu(weights["input.weight"] @ token + weights["input.bias"])
    x = gelu(weights["projection.weight"] @ x + weights["projection.bias"])
    return weights["output.weight"] @ x + weights["output.bias"]


def length(x):
    return math.sqrt(sum(v * v for v in x))


def distance(predicted, actual, normalisation, metric):
    """Equation 3, or with both normalised as `B_infer_VisA.py` does, or 1 - cos (Table 8)."""
    if metric == "cosine":
        return 1.0 - float(predicted @ actual) / (length(predicted) * length(actual))
    if normalisation == "l2":
        predicted, actual = predicted / length(predicted), actual / length(actual)
    return length(predicted - actual)


def patch_distances(
    tokens_j, tokens_k, forward, backward, normalisation, metric, combination, grid
):
    """Algorithm 2, steps 3 to 5, patch by patch; combinations of Table 9.

    Args:
        tokens_j: ``(N, D)`` of block j, row by row.
        tokens_k: The same of block k.
        forward: Weights of the student from j to k.
        backward: Weights of the student from k to j.
        grid: ``(rows, columns)``.
    """
    rows, columns = grid
    result = np.empty(grid)
    for row in range(rows):
        for column in range(columns):
            f_j, f_k = tokens_j[row * columns + column], tokens_k[row * columns + column]
            at_k = distance(student(forward, f_j), f_k, normalisation, metric)
            at_j = distance(student(backward, f_k), f_j, normalisation, metric)
            result[row, column] = {
                "product": at_j * at_k,
                "sum": at_j + at_k,
                "forward": at_k,
                "backward": at_j,
            }[combination]
    return result


def image_score(distances):
    """Mean of the 0.1 % largest values, at least one (Section IV-B.2)."""
    ordered = sorted(np.ravel(distances).tolist(), reverse=True)
    count = max(int(len(ordered) * 0.001), 1)
    return sum(ordered[:count]) / count


def anomaly_map(distances, image_size, smoothing, sigma_px=4.0):
    """Patch distances of an image that was padded to a square, as a map of the image itself.

    Algorithm 2, step 6. "boxes" is what `B_infer_VisA.py` runs, on the square with its padding;
    "gaussian" is the Gaussian blur of the paper, on the image without it (Section IV-B.1).

    Args:
        distances: ``(n, n)``.
        image_size: ``(height, width)`` in pixels.
        smoothing: "boxes" or "gaussian".
        sigma_px: Of the Gaussian.
    """
    height, width = image_size
    side = max(image_size)
    square = upsampled(distances, side)
    if smoothing == "boxes":
        for size in (5, 5, 5, 5, 5, 7, 7, 7):
            square = box_filtered(square, size)
    # `SquarePad` puts the smaller half of the padding above and left.
    top, left = (side - height) // 2, (side - width) // 2
    result = square[top : top + height, left : left + width]
    if smoothing == "gaussian":
        result = gaussian_filtered(result, sigma_px)
    return result


def upsampled(values, side):
    """Bilinear, between the centres of pixels; beyond the outermost patches' centres constant."""
    weights = np.zeros((side, len(values)))
    for pixel in range(side):
        position = (pixel + 0.5) * len(values) / side - 0.5
        position = min(max(position, 0.0), len(values) - 1.0)
        before = math.floor(position)
        after = min(before + 1, len(values) - 1)
        weights[pixel, before] += 1.0 - (position - before)
        weights[pixel, after] += position - before
    return weights @ np.asarray(values, dtype=np.float64) @ weights.T


def box_filtered(values, size):
    """Mean over a square of pixels; those outside are 0."""
    padded = np.pad(values, size // 2)
    result = np.zeros_like(values)
    for row in range(size):
        for column in range(size):
            result += padded[row : row + values.shape[0], column : column + values.shape[1]]
    return result / size**2


def gaussian_filtered(values, sigma_px):
    """Gaussian cut off at 4 sigma, rows and then columns; outside the image is mirrored."""
    radius = int(4.0 * sigma_px + 0.5)
    kernel = np.array([math.exp(-0.5 * (i / sigma_px) ** 2) for i in range(-radius, radius + 1)])
    kernel /= kernel.sum()
    for _ in range(2):
        padded = np.pad(values, ((radius, radius), (0, 0)), mode="symmetric")
        values = sum(
            share * padded[start : start + values.shape[0]] for start, share in enumerate(kernel)
        ).T
    return values


def map_score(anomaly_map):
    """Mean of the 0.1 % largest pixels, at least one (Section IV-B.2)."""
    return image_score(anomaly_map)


def training_loss(tokens_j, tokens_k, forward, backward):
    """Mean over all patches of Equation 2, both directions added (`A_train_VisA.py`).

    Args:
        tokens_j: ``(images, N, D)`` of block j.
        tokens_k: The same of block k.
        forward: Weights of the student from j to k.
        backward: Weights of the student from k to j.
    """

    def one_minus_cosine(predicted, actual):
        # Shorter ones count as 1e-6 long (`CosineSimilarity(eps=1e-06)`).
        lengths = max(length(predicted), 1e-6) * max(length(actual), 1e-6)
        return 1.0 - float(predicted @ actual) / lengths

    losses = [
        one_minus_cosine(student(forward, f_j), f_k) + one_minus_cosine(student(backward, f_k), f_j)
        for image_j, image_k in zip(tokens_j, tokens_k, strict=True)
        for f_j, f_k in zip(image_j, image_k, strict=True)
    ]
    return sum(losses) / len(losses)


def train(batches, forward, backward, learning_rate):
    """One step of Adam for each batch, both students by one loss; changes their weights in place.

    Gradients are differences of the loss. Adam is Algorithm 1 of Kingma and Ba, "Adam: A Method for
    Stochastic Optimization", with its beta of 0.9 and 0.999 and its epsilon of 1e-8.

    Args:
        batches: Pairs of tokens as `training_loss` takes them.
        forward: Weights of the student from j to k.
        backward: Weights of the student from k to j.
        learning_rate: Adam's alpha.
    """
    weights = [array for network in (forward, backward) for array in network.values()]
    first = [np.zeros_like(array) for array in weights]
    second = [np.zeros_like(array) for array in weights]
    for step, batch in enumerate(batches, start=1):
        loss = functools.partial(training_loss, *batch, forward, backward)
        slopes = [slope(array, loss) for array in weights]
        for array, g, m, v in zip(weights, slopes, first, second, strict=True):
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g**2
            m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
            array -= learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)


def slope(array, function, step=1e-5):
    """How much a function grows with each number of an array it looks at."""
    result = np.zeros_like(array)
    for place in np.ndindex(*array.shape):
        kept = array[place]
        array[place] = kept + step
        above = function()
        array[place] = kept - step
        below = function()
        array[place] = kept
        result[place] = (above - below) / (2 * step)
    return result
