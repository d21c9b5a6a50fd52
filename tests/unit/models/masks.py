"""Masks made by hand, and tokens that have them."""

from __future__ import annotations

import numpy as np


def tokens_of(mask, height=60.0):
    """Two-dimensional tokens whose first component is the mask's, `height` apart."""
    tokens = np.zeros((mask.size, 2), np.float32)
    tokens[:, 0] = height * mask.ravel()
    return tokens


def box(grid, rows, columns):
    mask = np.zeros(grid, dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask
