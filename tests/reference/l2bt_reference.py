"""L2BT's patch distances computed the slow, obvious way, to hold the fast code to.

Each function cites the paper ("Learning to Be a Transformer to Pinpoint Anomalies") or the authors'
code (`alex-costanzino/L2BT`). Nothing here is shared with what is tested. All in float64.
"""

from __future__ import annotations

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
