from __future__ import annotations

import pytest
import torch

from dinspect_export.backbone import VisionTransformer
from dinspect_export.errors import UnknownVariantError
from dinspect_export.variants import VARIANTS, variant_by_name

DINOV2 = [f"dinov2_vit{size}14{suffix}" for size in "sblg" for suffix in ("", "_reg")]
IMAGENET = ["vit_b_16", "vit_l_16", "vit_base_patch16_224"]


def test_table_holds_the_published_backbones():
    assert list(VARIANTS) == DINOV2 + IMAGENET
    assert all(name == variant.name for name, variant in VARIANTS.items())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Meta's files, less the mask token.
        ("dinov2_vits14", 22_056_576 - 384),
        ("dinov2_vits14_reg", 22_056_576 - 384 + 4 * 384),
        ("dinov2_vitb14", 86_580_480 - 768),
        ("dinov2_vitl14", 304_368_640 - 1024),
        ("dinov2_vitg14", 1_136_480_768 - 1536),
        # torchvision's 86,567,656 and 304,326,632, and timm's, less the head of 1000 classes.
        ("vit_b_16", 86_567_656 - 769 * 1000),
        ("vit_l_16", 304_326_632 - 1025 * 1000),
        ("vit_base_patch16_224", 86_567_656 - 769 * 1000),
    ],
)
def test_networks_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        network = VisionTransformer(variant_by_name(name))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", DINOV2 + IMAGENET)
def test_stored_grid_is_that_of_the_size_of_pre_training(name):
    variant = variant_by_name(name)
    assert variant.patch_size * variant.pretrain_grid == (518 if name in DINOV2 else 224)
    assert variant.dim == 64 * variant.num_heads


def test_default_layers_are_those_of_l2bt_at_every_depth():
    layers = {variant.depth: variant.default_layers for variant in VARIANTS.values()}
    assert layers == {12: (8, 12), 24: (16, 24), 40: (27, 40)}


def test_pixels_of_every_backbone_are_normalised_as_published():
    other = {
        name: variant.pixel_std
        for name, variant in VARIANTS.items()
        if (variant.pixel_mean, variant.pixel_std) != ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    }
    assert other == {"vit_base_patch16_224": (0.5, 0.5, 0.5)}
    assert variant_by_name("vit_base_patch16_224").pixel_mean == (0.5, 0.5, 0.5)


def test_published_addresses_are_metas():
    assert variant_by_name("dinov2_vits14").checkpoint_url == (
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth"
    )
    registers = variant_by_name("dinov2_vitg14_reg").checkpoint_url
    assert registers.endswith("/dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth")
    assert [name for name, v in VARIANTS.items() if v.checkpoint_url is None] == IMAGENET


def test_known_digests_belong_to_vit_s():
    digests = {n: v.checkpoint_sha256 for n, v in VARIANTS.items() if v.checkpoint_sha256}
    assert {name: digest[:8] for name, digest in digests.items()} == {
        "dinov2_vits14": "b938bf1b",
        "dinov2_vits14_reg": "f4331770",
    }
    assert all(len(digest) == 64 for digest in digests.values())


def test_unknown_variant_lists_the_known():
    with pytest.raises(UnknownVariantError, match="dinov2_vits14, dinov2_vits14_reg"):
        variant_by_name("resnet50")
