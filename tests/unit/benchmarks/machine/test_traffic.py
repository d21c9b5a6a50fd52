"""Counted bytes, against arithmetic by hand and against the networks and files themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.traffic import (
    backbone_traffic,
    item_bytes,
    knn_traffic,
    map_traffic,
    num_parameters,
    preprocess_traffic,
    students_traffic,
)
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.students import StudentPair
from dinspect_export.variants import VARIANTS

GRID = (3, 4)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_are_those_of_the_exported_network(name):
    """Of every kind, cut to two blocks of three, with the position embedding of the grid."""
    variant = replace(VARIANTS[name], dim=64, depth=3, num_heads=2)
    backbone = ExportableBackbone(VisionTransformer(variant, depth=2), GRID, (2,))
    there = {key: value.numel() for key, value in backbone.network.state_dict().items()}
    there["pos_embed"] = backbone.baked_position_embedding.numel()
    assert num_parameters(variant, GRID, 2) == sum(there.values())


def test_parameters_are_as_many_as_published():
    """21 M, 86 M, 300 M and 1,100 M, as AnomalyDINO's Table 9 has them; at 518 px as stored."""
    counted = {size: num_parameters(VARIANTS[f"dinov2_vit{size}14"], (37, 37), depth)
               for size, depth in (("s", 12), ("b", 12), ("l", 24), ("g", 40))}  # fmt: skip
    assert {size: round(number / 1e6) for size, number in counted.items()} == {
        "s": 22, "b": 87, "l": 304, "g": 1136,
    }  # fmt: skip


def test_backbone_by_hand():
    """Twelve patches of 2 x 2 pixels, width 4, two blocks put out."""
    variant = replace(VARIANTS["dinov2_vits14"], dim=4, depth=3, patch_size=2)
    counted = backbone_traffic(variant, GRID, (1, 3), "bf16")
    assert counted.parts == {
        "pixels": 6 * 8 * 3,
        "weights": 2 * num_parameters(variant, GRID, 3),
        "patch_tokens": 2 * 12 * 4 * 4,
    }
    assert counted.total == sum(counted.parts.values())


def test_search_reads_the_bank_in_its_precision_and_tokens_in_fp32():
    assert knn_traffic(16, GRID, 7, "bf16").parts == {
        "patch_tokens": 12 * 16 * 4, "memory_bank": 7 * 16 * 2, "patch_distances": 12 * 4,
    }  # fmt: skip


@pytest.mark.parametrize(("combination", "num_students"), [("product", 2), ("forward", 1)])
def test_students_weights_are_those_that_run(combination, num_students):
    one = sum(weight.numel() for weight in StudentPair(16).forward_student.parameters())
    counted = students_traffic(16, GRID, "fp16", combination).parts
    assert counted["weights"] == num_students * one * 2
    assert counted["patch_tokens"] == 2 * 12 * 16 * torch.float32.itemsize
    assert counted["patch_distances"] == 12 * 4


def test_map_and_preprocessing_by_hand():
    assert map_traffic((50, 70), GRID).parts == {
        "patch_distances": 12 * 4, "operators": (50 * 3 + 70 * 4) * 4, "map": 50 * 70 * 4,
    }  # fmt: skip
    assert preprocess_traffic(1000, (42, 56)).parts == {"image": 1000, "pixels": 42 * 56 * 3}


def test_unknown_precision_is_refused():
    assert [item_bytes(name) for name in ("fp32", "fp16", "bf16", "int8")] == [4, 2, 2, 1]
    with pytest.raises(BenchmarkError, match="'fp64', expected one of: fp32, fp16, bf16, int8"):
        item_bytes("fp64")
