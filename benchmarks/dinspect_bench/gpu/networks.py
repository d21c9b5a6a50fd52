"""Backbones, students and tensors with random values: time does not depend on them.

No weights, graphs or other packages than PyTorch are needed, so these rows can always be measured.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinspect_bench.errors import BenchmarkError
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.precision import with_half_matmuls
from dinspect_export.students import StudentDistance, StudentPair
from dinspect_export.variants import BackboneVariant, variant_by_name

NUM_INPUTS = 4
"""Different inputs that samples take in turn, so that none finds its own in a cache."""


def exact_products(exact: bool) -> None:
    """Whether FP32 products are computed in FP32, or in a GPU's TF32, which rounds to 10 bits."""
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact


def grid_of(variant: BackboneVariant, size: int) -> tuple[int, int]:
    """Patch grid of a square input.

    Raises:
        BenchmarkError: If the size is no multiple of the patch.
    """
    if size % variant.patch_size:
        raise BenchmarkError(f"{size} px is no multiple of the {variant.patch_size} px patch")
    return size // variant.patch_size, size // variant.patch_size


def on_device(model: ExportableBackbone, precision: str, device: str) -> ExportableBackbone:
    """A backbone as its graph of a precision computes it: see `precision.with_half_matmuls`.

    Args:
        model: In FP32; left as it is.
        precision: ``fp32`` or ``fp16``.
        device: ``cuda`` or ``cpu``.
    """
    network = with_half_matmuls(model.network) if precision == "fp16" else model.network
    # A copy: parameters are shared with the model given, and moving them would move its own.
    fresh = copy.deepcopy(ExportableBackbone(network, model.grid, model.layers))
    return fresh.eval().requires_grad_(False).to(device)


def random_backbone(variant_name: str, size: int, precision: str, device: str) -> nn.Module:
    """``(B, H, W, 3)`` uint8 pixels to the patch tokens of the variant's default blocks."""
    variant = variant_by_name(variant_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = VisionTransformer(variant)
    model = ExportableBackbone(network, grid_of(variant, size), variant.default_layers)
    return on_device(model, precision, device)


def random_students(variant_name: str, size: int, precision: str, device: str) -> StudentDistance:
    """Patch tokens of two blocks to patch distances, the students in a precision."""
    variant = variant_by_name(variant_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = StudentPair(variant.dim)
    pair = pair.to(torch.float16 if precision == "fp16" else torch.float32)
    model = StudentDistance(pair, grid_of(variant, size))
    return model.eval().requires_grad_(False).to(device)


def random_pixels(size: int, batch: int, device: str) -> list[Tensor]:
    """Batches of ``(B, H, W, 3)`` uint8 pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, size, size, 3)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        for _ in range(NUM_INPUTS)
    ]


def random_tokens(variant_name: str, size: int, batch: int, device: str) -> list[Tensor]:
    """Batches of ``(B, N, D)`` float32 patch tokens."""
    variant = variant_by_name(variant_name)
    rows, columns = grid_of(variant, size)
    generator = torch.Generator().manual_seed(1)
    shape = (batch, rows * columns, variant.dim)
    return [torch.randn(shape, generator=generator).to(device) for _ in range(NUM_INPUTS)]


def random_bank(dim: int, num_patches: int, device: str) -> Tensor:
    """A memory bank ``(M, D)`` of float32 unit vectors."""
    generator = torch.Generator().manual_seed(2)
    return F.normalize(torch.randn((num_patches, dim), generator=generator), dim=-1).to(device)
