"""The map of an image that was padded to a square, against the slow reference and PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import l2bt_reference as reference

from map_operator import BOX_WIDTHS_PX, SMOOTHINGS, MapRule, anomaly_map
from wire import L2BT_SIGMA_PX

SIZES = [(48, 48), (40, 60), (60, 40), (41, 60), (60, 41), (33, 64), (64, 64), (7, 100)]
"""Square, wide, tall, by an even and an odd difference; the last smaller than the Gaussian."""


def distances_of(patches, seed=0):
    return np.random.default_rng(seed).random((patches, patches)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patches", [4, 5, 16])
@pytest.mark.parametrize(("smoothing", "sigma"), [("boxes", 4.0), ("gaussian", 1.5)])
def test_padded_map_equals_the_reference(size, patches, smoothing, sigma):
    distances = distances_of(patches)
    found = anomaly_map(distances, size, MapRule(True, smoothing, sigma))
    assert (found.shape, found.dtype) == (size, np.float32)
    expected = reference.anomaly_map(distances, size, smoothing, sigma)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("size", [(300, 300), (90, 140), (140, 90), (91, 140)])
def test_boxes_equal_the_official_calls(size):
    """`B_infer_VisA.py`: interpolate to the square, five and three convolutions, crop the padding."""
    distances, side = distances_of(32), max(size)
    square = torch.from_numpy(distances)[None, None]
    square = F.interpolate(square, size=[side, side], mode="bilinear")
    for width in (5, 5, 5, 5, 5, 7, 7, 7):
        weight = torch.ones(1, 1, width, width) / width**2
        square = F.conv2d(square, weight, padding=width // 2)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    expected = square[0, 0, top : top + size[0], left : left + size[1]].numpy()
    found = anomaly_map(distances, size, MapRule(True, "boxes"))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_gaussian_is_as_wide_as_the_boxes():
    variance = sum((width**2 - 1) / 12 for width in (5,) * 5 + (7,) * 3)
    assert BOX_WIDTHS_PX == (5, 5, 5, 5, 5, 7, 7, 7)
    assert pytest.approx(math.sqrt(22)) == L2BT_SIGMA_PX == math.sqrt(variance)
    distances = distances_of(8)
    boxes = anomaly_map(distances, (200, 200), MapRule(True, "boxes"))
    gaussian = anomaly_map(distances, (200, 200), MapRule(True, "gaussian", L2BT_SIGMA_PX))
    inside = slice(30, 170)  # at the border the boxes see zeros outside
    np.testing.assert_allclose(boxes[inside, inside], gaussian[inside, inside], atol=0.01)
    assert boxes[0, 0] < 0.5 * gaussian[0, 0]


@pytest.mark.parametrize(
    ("size", "row", "column"), [((100, 50), 1, 2), ((50, 100), 2, 1), ((80, 80), 2, 1)]
)
def test_peak_lies_where_its_patch_covers_the_image(size, row, column):
    """Four by four patches of the padded square, of which the image is the middle."""
    distances = np.zeros((4, 4), np.float32)
    distances[row, column] = 1.0
    found = anomaly_map(distances, size, MapRule(True, "gaussian", 1.0))
    side = max(size)
    y = (row + 0.5) * side / 4 - (side - size[0]) / 2
    x = (column + 0.5) * side / 4 - (side - size[1]) / 2
    peak = np.unravel_index(found.argmax(), found.shape)
    assert np.abs(np.array(peak) + 0.5 - (y, x)).max() <= 1.0


def test_no_smoothing_interpolates_alone():
    distances = distances_of(4)
    found = anomaly_map(distances, (30, 48), MapRule(True, "gaussian", 0.0))
    np.testing.assert_allclose(found, reference.upsampled(distances, 48)[9:39], atol=1e-6)


def test_image_of_another_size_has_a_map_of_its_own():
    """Operators are kept per size and rule; none is taken for another's."""
    distances = distances_of(4)
    rules = [MapRule(True, "boxes"), MapRule(True, "gaussian", 2.0), MapRule(True, "gaussian", 3.0)]
    for size in ((40, 60), (60, 40), (80, 120)):
        maps = [anomaly_map(distances, size, rule) for rule in rules]
        assert all(map_.shape == size for map_ in maps)
        for rule, map_ in zip(rules, maps, strict=True):
            expected = reference.anomaly_map(distances, size, rule.smoothing, rule.sigma_px)
            np.testing.assert_allclose(map_, expected, atol=2e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("padded", [True, False])
def test_rule_travels_as_numbers(padded, smoothing):
    rule = MapRule(padded, smoothing, 4.5)
    numbers = np.asarray(rule.to_numbers(), np.float32)
    assert MapRule.from_numbers(*(float(number) for number in numbers)) == rule
