"""Counted operations, against arithmetic by hand and against PyTorch's own counter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.operations import (
    backbone_operations,
    feed_forward_width,
    foreground_operations,
    knn_operations,
    map_operations,
    resize_operations,
    students_operations,
)
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.students import Combination, DistanceOptions, StudentDistance, StudentPair
from dinspect_export.variants import VARIANTS

GRID = (3, 4)


def counted_by_pytorch(model, *inputs):
    # By the plain formula: the fused attention of a CPU is not among what the counter knows.
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(*inputs)
    return counter.get_total_flops()


def test_backbone_by_hand():
    """Two patches of 2 x 2 pixels, width 4: three tokens with the class token."""
    variant = replace(VARIANTS["dinov2_vits14"], dim=4, depth=5, patch_size=2)
    assert backbone_operations(variant, (1, 2), depth=2).parts == {
        "patch_embedding": 2 * 2 * 12 * 4,
        "qkv": 2 * (2 * 3 * 4 * 12),
        "attention_scores": 2 * (2 * 3 * 4 * 3),
        "attention_values": 2 * (2 * 3 * 3 * 4),
        "projection": 2 * (2 * 3 * 4 * 4),
        "feed_forward": 2 * (2 * 3 * 4 * 16 + 2 * 3 * 16 * 4),
    }


def test_total_is_the_sum_of_the_parts():
    counted = backbone_operations(VARIANTS["dinov2_vits14"], GRID, 12)
    assert counted.total == sum(counted.parts.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_backbone_is_what_pytorch_counts(name):
    """Of every kind, registers and SwiGLU included; cut to two blocks of three, all parts count."""
    variant = replace(VARIANTS[name], dim=64, depth=3, num_heads=2)
    backbone = ExportableBackbone(VisionTransformer(variant, depth=2).eval(), GRID, (1, 2))
    pixels = torch.zeros(1, *backbone.input_size, 3, dtype=torch.uint8)
    assert backbone_operations(variant, GRID, 2).total == counted_by_pytorch(backbone, pixels)


@pytest.mark.parametrize("combination", Combination)
def test_students_are_what_pytorch_counts(combination):
    distance = StudentDistance(StudentPair(16), GRID, DistanceOptions(combination=combination))
    tokens = torch.zeros(1, 12, 16)
    counted = students_operations(16, GRID, combination.value)
    assert counted.total == counted_by_pytorch(distance, tokens, tokens)


@pytest.mark.parametrize(
    ("combination", "students"),
    [("product", {"forward_student", "backward_student"}), ("backward", {"backward_student"})],
)
def test_students_by_hand(combination, students):
    assert students_operations(2, (1, 5), combination).parts == dict.fromkeys(
        students, 3 * (2 * 5 * 2 * 2)
    )


def test_search_is_one_product_with_the_bank():
    bank = torch.zeros(7, 16)
    counted = knn_operations(16, GRID, 7)
    assert counted.parts == {"similarities": 2 * 12 * 16 * 7}
    assert counted.total == counted_by_pytorch(lambda tokens: tokens @ bank.T, torch.zeros(12, 16))


def test_mask_is_the_covariance_and_one_projection():
    counted = foreground_operations(16, GRID)
    assert counted.parts == {"covariance": 2 * 12 * 16 * 16, "projection": 2 * 12 * 16}
    axis = torch.zeros(16, 1)
    assert counted.total == counted_by_pytorch(
        lambda tokens: (tokens.T @ tokens, tokens @ axis), torch.zeros(12, 16)
    )


def test_map_is_two_products():
    left, right = torch.zeros(50, 3), torch.zeros(70, 4)
    counted = map_operations((50, 70), GRID)
    assert counted.parts == {"rows": 2 * 50 * 3 * 4, "columns": 2 * 50 * 4 * 70}
    assert counted.total == counted_by_pytorch(
        lambda grid: (left @ grid) @ right.T, torch.zeros(3, 4)
    )


def test_enlarging_takes_four_pixels_and_shrinking_as_many_as_there_are():
    """A row of 10 px made 30: four taps each. Then a column of 100 px made 20: 4 * 5 taps each."""
    counted = resize_operations((100, 10), (20, 30))
    assert counted.parts == {
        "horizontal": 2 * 3 * 100 * (30 * 4),
        "vertical": 2 * 3 * 30 * (20 * 20),
    }


def test_axis_that_keeps_its_size_is_not_filtered():
    assert resize_operations((448, 448), (448, 448)).total == 0
    assert resize_operations((448, 100), (448, 50)).parts["vertical"] == 0


@pytest.mark.parametrize(("name", "width"), [("dinov2_vits14", 1536), ("dinov2_vitg14", 4096)])
def test_feed_forward_is_as_wide_as_published(name, width):
    assert feed_forward_width(VARIANTS[name]) == width


def test_papers_size_is_two_teraflop_and_its_students_a_fiftieth():
    """The numbers the comparison with L2BT's Table 2 rests on; 5477 tokens of width 768."""
    teacher = backbone_operations(VARIANTS["dinov2_vitb14"], (74, 74), 12).total
    students = students_operations(768, (74, 74)).total
    per_block = 24 * 5477 * 768**2 + 4 * 5477**2 * 768
    assert teacher == 12 * per_block + 2 * 5476 * 588 * 768
    assert teacher == pytest.approx(2.04e12, rel=0.002)
    assert students == 2 * 3 * 2 * 5476 * 768**2
    assert students == pytest.approx(38.8e9, rel=0.002)


@pytest.mark.parametrize("depth", [0, 13])
def test_depth_beyond_the_backbone_is_refused(depth):
    with pytest.raises(BenchmarkError, match=rf"depth {depth} of dinov2_vits14 .* 1\.\.12"):
        backbone_operations(VARIANTS["dinov2_vits14"], GRID, depth)


@pytest.mark.parametrize(
    "count",
    [
        lambda: backbone_operations(VARIANTS["dinov2_vits14"], (0, 4), 1),
        lambda: students_operations(16, (4, 0)),
        lambda: knn_operations(16, (0, 0), 1),
        lambda: knn_operations(16, GRID, 0),
        lambda: foreground_operations(16, (0, 3)),
        lambda: map_operations((10, 10), (3, 0)),
    ],
)
def test_nothing_to_count_is_refused(count):
    with pytest.raises(BenchmarkError, match="empty"):
        count()


def test_unknown_combination_is_refused():
    with pytest.raises(BenchmarkError, match="'mean', expected one of: product, sum"):
        students_operations(16, GRID, "mean")
