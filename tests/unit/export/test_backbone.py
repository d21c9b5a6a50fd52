from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from dinspect_export.backbone import DinoVisionTransformer, ExportableBackbone
from dinspect_export.checkpoints import packaged_onnx_path
from dinspect_export.errors import InvalidGeometryError, UnknownVariantError
from dinspect_export.variants import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VARIANTS,
    PositionEmbeddingRule,
    variant_by_name,
)


def tiny(**changes):
    small = {"dim": 32, "depth": 3, "num_heads": 2, "pretrain_grid": 6}
    return dataclasses.replace(variant_by_name("dinov2_vits14"), **(small | changes))


def random_network(variant, seed=0):
    torch.manual_seed(seed)
    network = DinoVisionTransformer(variant).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network


def test_variants_have_the_published_shapes():
    assert list(VARIANTS) == [
        f"dinov2_vit{size}14{suffix}" for size in "sblg" for suffix in ("", "_reg")
    ]
    millions = {}
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            network = DinoVisionTransformer(variant)
        millions[name] = sum(p.numel() for p in network.parameters()) / 1e6
    # Model card of DINOv2: 21 M, 86 M, 300 M, 1,100 M parameters.
    expected = {"s": 22.06, "b": 86.58, "l": 304.37, "g": 1136.48}
    for size, number in expected.items():
        assert millions[f"dinov2_vit{size}14"] == pytest.approx(number, abs=0.01)


def test_unknown_variant_lists_the_known():
    with pytest.raises(UnknownVariantError, match="dinov2_vits14, dinov2_vits14_reg"):
        variant_by_name("resnet50")


def test_tokens_equal_an_independent_graph_of_the_same_weights(torch_backbone, split):
    """The packaged ONNX model was traced from Hugging Face's implementation: run it up to its
    final LayerNorm. It resizes the position grid by size, so for this test alone so do we."""
    graph = onnx.load(str(packaged_onnx_path()))
    last = [n.output[0] for n in graph.graph.node if n.name.startswith("/backbone/layernorm/")][-1]
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None)
    )
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    from dinspect_export.onnx_export import check_pixels

    pixels = check_pixels(split.enrolled[0], (224, 224))[None]
    normalised = (pixels / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    theirs = session.run(
        [last], {"input_image": normalised.transpose(0, 3, 1, 2).astype(np.float32)}
    )[0][:, 1:]

    network = torch_backbone.network
    original = network.variant
    try:
        network.variant = dataclasses.replace(
            original, position_rule=PositionEmbeddingRule(offset=0.0, antialias=False)
        )
        model = ExportableBackbone(network, (16, 16), [12])
        ours = model(torch.from_numpy(pixels.copy()))[0].numpy()
    finally:
        network.variant = original
    np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "grid"), [("dinov2_vits14", (32, 32)), ("dinov2_vits14_reg", (32, 42))]
)
def test_position_embedding_follows_the_rule_of_the_variant(name, grid):
    """Meta's `interpolate_pos_encoding`, written out for both rules."""
    variant = variant_by_name(name)
    network = DinoVisionTransformer(variant, depth=0)
    torch.manual_seed(1)
    network.pos_embed.data.normal_()
    stored = network.pos_embed[:, 1:].reshape(1, 37, 37, variant.dim).permute(0, 3, 1, 2)
    if variant.num_registers:
        expected = F.interpolate(stored, size=grid, mode="bicubic", antialias=True)
    else:
        scale = ((grid[0] + 0.1) / 37, (grid[1] + 0.1) / 37)
        expected = F.interpolate(stored, scale_factor=scale, mode="bicubic", antialias=False)
    found = network.position_embedding(grid)
    assert found.shape == (1, 1 + grid[0] * grid[1], variant.dim)
    torch.testing.assert_close(found[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2))
    torch.testing.assert_close(found[:, :1], network.pos_embed[:, :1])


def test_position_embedding_of_the_stored_size_is_untouched():
    network = random_network(tiny())
    assert network.position_embedding((6, 6)) is network.pos_embed


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_class_and_register_tokens_stay_out(registers, ffn):
    network = random_network(tiny(num_registers=registers, ffn=ffn))
    model = ExportableBackbone(network, (2, 3), [1, 3])
    outputs = model(torch.zeros(2, 28, 42, 3, dtype=torch.uint8))
    assert [tuple(output.shape) for output in outputs] == [(2, 6, 32), (2, 6, 32)]


def test_tap_equals_the_last_layer_of_a_shallower_network():
    network = random_network(tiny())
    torch.manual_seed(2)
    pixels = torch.randint(0, 256, (1, 28, 28, 3), dtype=torch.uint8)
    early = ExportableBackbone(network, (2, 2), [2, 3])(pixels)[0]
    shallow = DinoVisionTransformer(network.variant, depth=2).eval()
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("blocks.2.")}
    shallow.load_state_dict(state)
    torch.testing.assert_close(early, ExportableBackbone(shallow, (2, 2), [2])(pixels)[0])


def test_final_layer_norm_is_applied_to_every_tap():
    network = random_network(tiny())
    network.norm.weight.data.fill_(0.0)
    network.norm.bias.data.copy_(torch.arange(32.0))
    for tap in ExportableBackbone(network, (2, 2), [1, 3])(
        torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    ):
        torch.testing.assert_close(tap, torch.arange(32.0).expand(1, 4, 32))


def test_patches_are_row_major_and_the_input_is_height_by_width():
    """With the blocks switched off, a patch's token depends on its own pixels alone."""
    network = random_network(tiny())
    for block in network.blocks:
        block.ls1.gamma.data.zero_()
        block.ls2.gamma.data.zero_()
    model = ExportableBackbone(network, (2, 3), [3])
    plain = torch.zeros(1, 28, 42, 3, dtype=torch.uint8)
    marked = plain.clone()
    marked[0, 14:28, 0:14] = 255  # second row, first column
    changed = (model(plain)[0] != model(marked)[0]).any(-1)[0]
    assert changed.tolist() == [False, False, False, True, False, False]


def test_pixels_are_normalised_as_rgb():
    network = random_network(tiny())
    model = ExportableBackbone(network, (1, 1), [1])
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).expand(1, 14, 14, 3)
    seen = pixels.float().permute(0, 3, 1, 2) * model.pixel_scale + model.pixel_shift
    expected = [
        (v / 255 - m) / s
        for v, m, s in zip((10, 100, 200), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    ]
    torch.testing.assert_close(seen[0, :, 0, 0], torch.tensor(expected))


@pytest.mark.parametrize("layers", [[], [0], [4], [3, 1], [2, 2]])
def test_layers_outside_the_network_are_refused(layers):
    with pytest.raises(InvalidGeometryError, match=r"within 1\.\.3"):
        ExportableBackbone(random_network(tiny()), (2, 2), layers)
