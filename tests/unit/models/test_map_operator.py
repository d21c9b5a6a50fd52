from __future__ import annotations

import cv2
import numpy as np
import pytest
from reference.anomaly_dino_reference import anomaly_map as reference_map
from scipy.ndimage import gaussian_filter

from map_operator import MapRule, anomaly_map


def grid(rows, columns):
    return np.random.default_rng(rows * columns).random((rows, columns)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "size"), [((32, 32), (300, 300)), ((8, 8), (60, 60)), ((3, 3), (9, 9))]
)
def test_map_equals_the_reference(shape, size):
    distances = grid(*shape)
    found = anomaly_map(distances, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference_map(distances, *size), atol=2e-6)


def test_map_equals_opencv_and_scipy_on_a_large_image():
    """The authors' own two calls, `utils.dists2map`."""
    distances = grid(32, 32)
    expected = gaussian_filter(
        cv2.resize(distances, (1024, 1024), interpolation=cv2.INTER_LINEAR), 4.0
    )
    np.testing.assert_allclose(anomaly_map(distances, (1024, 1024)), expected, atol=2e-5)


def test_map_covers_the_crop_and_is_extended_over_the_margin():
    """640 x 480 at 448: 597 columns, 42 patches cover 588 of them; the rest repeats the edge."""
    distances = np.zeros((32, 42), np.float32)
    distances[:, 41] = 1.0
    found = anomaly_map(distances, (480, 640), MapRule(sigma_px=0.0))
    assert found.shape == (480, 640)
    centre_of_last = (41 + 0.5) * 14 * 640 / 597
    assert (found[:, int(np.ceil(centre_of_last)) :] == 1.0).all()
    before_last = int((40 + 0.5) * 14 * 640 / 597)
    assert (found[:, :before_last] == 0.0).all()


def test_constant_stays_constant_and_mass_stays():
    np.testing.assert_allclose(
        anomaly_map(np.full((5, 7), 0.3, np.float32), (50, 70)), 0.3, rtol=1e-5
    )


def test_peak_lies_on_its_patch():
    distances = np.zeros((32, 32), np.float32)
    distances[5, 20] = 1.0
    found = anomaly_map(distances, (640, 640))
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert (row // 20, column // 20) == (5, 20)
