"""Bins by size and Equation 4, on numbers small enough to do by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dinspect_bench.accuracy.size_quartiles import (
    quartile_bounds_px,
    quartile_means,
    robustness,
)


@pytest.mark.parametrize(
    ("sizes", "bounds"),
    [
        ([5], (5, 5, 5, 5)),
        ([50, 10, 30, 20, 40], (20, 30, 40, 50)),
        ([10, 20, 30, 40], (17.5, 25, 32.5, 40)),
        ([7, 7, 7, 100], (7, 7, 30.25, 100)),
    ],
)
def test_bounds_are_the_quantiles_of_the_sizes(sizes, bounds):
    assert quartile_bounds_px(np.array(sizes)) == bounds


def test_bins_are_cumulative_and_hold_their_bound():
    areas = np.array([0.1, 0.9, 0.5, 0.7, 0.3])
    sizes = np.array([50, 10, 30, 20, 40])
    assert quartile_means(areas, sizes) == pytest.approx((0.8, 0.7, 0.6, 0.5))


def test_regions_as_large_as_the_bound_all_belong_to_the_bin():
    areas = np.array([0.2, 0.4, 0.6, 1.0])
    assert quartile_means(areas, np.array([7, 7, 7, 100])) == pytest.approx((0.4, 0.4, 0.4, 0.55))


def test_one_region_is_in_every_bin():
    assert quartile_means(np.array([0.3]), np.array([12])) == (0.3, 0.3, 0.3, 0.3)


@pytest.mark.parametrize(
    ("quartiles", "expected"),
    [
        ((0.8, 0.8, 0.8, 0.8), 0.8),  # sizes do not matter: the mean
        ((0.4, 0.5, 0.7, 0.8), 0.3),  # 0.6 * (1 - 0.4 / 0.8)
        ((0.8, 0.7, 0.5, 0.4), 0.3),  # better on small ones is as far from robust
        ((0.0, 0.2, 0.4, 0.6), 0.0),
        ((0.0, 0.0, 0.0, 0.0), 0.0),  # Eq. 4 divides by 0
        ((1.0, 1.0, 1.0, 1.0), 1.0),
    ],
)
def test_robustness_is_equation_4(quartiles, expected):
    assert robustness(quartiles) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("quartiles", "printed"),
    [
        ((0.739, 0.741, 0.760, 0.779), 0.715),  # PatchCore, 224
        ((0.650, 0.654, 0.671, 0.690), 0.627),  # SimpleNet, 224
        ((0.876, 0.904, 0.919, 0.931), 0.853),  # EfficientAD, 256
    ],
)
def test_robustness_is_what_the_paper_prints(quartiles, printed):
    """Table 2 of L2BT, VisA, AUPRO@30 %: means over classes, rounded to three digits."""
    assert robustness(quartiles) == pytest.approx(printed, abs=2e-3)
