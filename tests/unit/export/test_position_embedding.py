"""The position embedding against the two rules Meta published, written out in float64.

`reference` shares nothing with the code under test: each rule is one matrix per axis, whose row says
how an output position is mixed from the stored ones.

Source: facebookresearch/dinov2 `interpolate_pos_encoding`, and PyTorch's definition of its two
bicubic filters (``UpSampleKernel.cpp``): a = -0.75 as is, a = -0.5 when antialiased.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dinspect_export.backbone import VisionTransformer
from dinspect_export.variants import variant_by_name

DIM = 8
SIZES = [(32, 32), (48, 48), (74, 74), (32, 42)]  # 448, 672 and 1036 px, and 448 x 588


def cubic(distance, a):
    """Keys' cubic convolution kernel at a distance in samples."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def sampled(stored, wanted, scale):
    """Four taps around each sampling point, the border repeated."""
    matrix = np.zeros((wanted, stored))
    for row in range(wanted):
        centre = (row + 0.5) / scale - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            matrix[row, np.clip(tap, 0, stored - 1)] += cubic(centre - tap, -0.75)
    return matrix


def antialiased(stored, wanted):
    """A filter as wide as the output's step, cut at the border and made to sum to one."""
    step = stored / wanted
    width = max(step, 1.0)
    centres = (np.arange(wanted) + 0.5) * step - 0.5
    taps = np.arange(stored)
    matrix = cubic((taps - centres[:, None]) / width, -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


def axis_matrix(variant, wanted):
    stored = variant.pretrain_grid
    if variant.name.endswith("_reg"):
        return antialiased(stored, wanted)
    if variant.name.startswith("dinov2"):
        return sampled(stored, wanted, (wanted + 0.1) / stored)
    return sampled(stored, wanted, wanted / stored)


@pytest.mark.parametrize("grid", SIZES)
@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg", "vit_b_16"])
def test_position_embedding_follows_the_rule_of_the_variant(name, grid):
    variant = dataclasses.replace(variant_by_name(name), dim=DIM)
    network = VisionTransformer(variant, depth=0)
    torch.manual_seed(1)
    network.pos_embed.data.normal_()
    edge = variant.pretrain_grid
    stored = network.pos_embed.detach().numpy().astype(np.float64)[0]
    expected = np.einsum(
        "rs,sqd,cq->rcd",
        axis_matrix(variant, grid[0]),
        stored[1:].reshape(edge, edge, DIM),
        axis_matrix(variant, grid[1]),
    )
    found = network.position_embedding(grid).detach().numpy()
    assert found.shape == (1, 1 + grid[0] * grid[1], DIM)
    np.testing.assert_allclose(found[0, 1:], expected.reshape(-1, DIM), atol=2e-5)
    np.testing.assert_array_equal(found[0, 0], stored[0])


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg", "vit_b_16"])
def test_position_embedding_of_the_stored_size_is_untouched(name):
    network = VisionTransformer(dataclasses.replace(variant_by_name(name), dim=DIM), depth=0)
    edge = network.variant.pretrain_grid
    assert network.position_embedding((edge, edge)) is network.pos_embed


@pytest.mark.parametrize("grid", SIZES)
def test_the_rules_differ_by_more_than_the_tolerance(grid):
    """Or the test above would not notice the wrong one."""
    without = axis_matrix(variant_by_name("dinov2_vits14"), grid[0])
    assert np.abs(without - axis_matrix(variant_by_name("dinov2_vits14_reg"), grid[0])).max() > 1e-3
    assert np.abs(without - sampled(37, grid[0], grid[0] / 37)).max() > 1e-3
