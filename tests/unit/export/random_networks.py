"""Small networks with random weights, and the five kinds of published backbone in small."""

from __future__ import annotations

import dataclasses

import torch

from dinspect_export.backbone import VisionTransformer
from dinspect_export.variants import variant_by_name


def tiny(base="dinov2_vits14", **changes):
    """A published variant, but three blocks of width 32 and a stored grid of 6 x 6."""
    small = {"dim": 32, "depth": 3, "num_heads": 2, "pretrain_grid": 6}
    return dataclasses.replace(variant_by_name(base), **(small | changes))


TINY = {
    variant.name: variant
    for variant in (
        tiny("dinov2_vits14", name="tiny"),
        tiny("dinov2_vits14_reg", name="tiny_reg"),
        tiny("dinov2_vitg14", name="tiny_swiglu"),
        tiny("dinov2_vitg14_reg", name="tiny_swiglu_reg"),
        tiny("vit_b_16", name="tiny_torchvision"),
        tiny("vit_base_patch16_224", name="tiny_timm"),
    )
}


def random_network(variant, seed=0):
    torch.manual_seed(seed)
    network = VisionTransformer(variant).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network


def random_state(variant, seed=0):
    return dict(random_network(variant, seed).state_dict())
