"""The slow reference itself, by hand and against other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import l2bt_reference as reference


def test_reference_loss_of_one_patch_by_hand():
    """Both students say (3, 4) whatever they see; cosines of 4/5 at k and 24/25 at j."""
    constant = {f"{layer}.{kind}": np.zeros((2, 2) if kind == "weight" else 2)
                for layer in ("input", "projection", "output") for kind in ("weight", "bias")}  # fmt: skip
    constant["output.bias"] = np.array([3.0, 4.0])
    tokens_j, tokens_k = np.array([[[4.0, 3.0]]]), np.array([[[0.0, 2.0]]])
    found = reference.training_loss(tokens_j, tokens_k, constant, constant)
    assert found == pytest.approx(0.2 + 0.04)


def test_reference_adam_takes_steps_of_the_learning_rate_downhill():
    """With always the same gradient the two means cancel, but for the epsilon."""
    tokens = np.array([[[1.0, 0.0]]])
    zero = {f"{layer}.{kind}": np.zeros((2, 2) if kind == "weight" else 2)
            for layer in ("input", "projection", "output") for kind in ("weight", "bias")}  # fmt: skip
    forward = zero | {"output.bias": np.array([1.0, 1.0])}
    backward = zero | {"output.bias": np.array([1.0, 0.0])}  # already right
    reference.train([(tokens, tokens)], forward, backward, 0.1)
    np.testing.assert_allclose(forward["output.bias"], [1.1, 0.9], atol=1e-6)
    np.testing.assert_allclose(backward["output.bias"], [1.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("image_size", [(13, 20), (20, 13), (21, 21)])
@pytest.mark.parametrize("side", [1, 4, 30])
def test_reference_map_with_boxes_is_pytorchs(image_size, side):
    distances = np.random.default_rng(0).random((side, side))
    largest = max(image_size)
    square = torch.from_numpy(distances)[None, None]
    square = F.interpolate(square, size=(largest, largest), mode="bilinear")
    for size in (5, 5, 5, 5, 5, 7, 7, 7):
        square = F.avg_pool2d(square, size, stride=1, padding=size // 2)
    top, left = ((largest - edge) // 2 for edge in image_size)
    expected = square[0, 0, top : top + image_size[0], left : left + image_size[1]]
    found = reference.anomaly_map(distances, image_size, "boxes")
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("image_size", "sigma_px"), [((13, 20), 4.0), ((30, 11), 1.3)])
def test_reference_map_with_gaussian_is_scipys(image_size, sigma_px):
    from scipy.ndimage import gaussian_filter

    distances = np.random.default_rng(0).random((5, 5))
    square = reference.upsampled(distances, max(image_size))
    top, left = ((max(image_size) - edge) // 2 for edge in image_size)
    cropped = square[top : top + image_size[0], left : left + image_size[1]]
    found = reference.anomaly_map(distances, image_size, "gaussian", sigma_px)
    expected = gaussian_filter(cropped, sigma_px, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_reference_score_is_the_mean_of_the_largest_thousandth():
    assert reference.map_score(np.arange(6000.0).reshape(60, 100)) == 5996.5
    assert reference.map_score(np.array([[1.0, 7.0], [3.0, 2.0]])) == 7.0
