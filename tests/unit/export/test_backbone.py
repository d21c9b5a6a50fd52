from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from random_networks import random_network, tiny

from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.checkpoints import packaged_onnx_path
from dinspect_export.errors import InvalidGeometryError
from dinspect_export.variants import BY_SIZE, IMAGENET_MEAN, IMAGENET_STD


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
    from dinspect_export.check_images import check_pixels

    pixels = check_pixels(split.enrolled[0], (224, 224))[None]
    normalised = (pixels / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    theirs = session.run(
        [last], {"input_image": normalised.transpose(0, 3, 1, 2).astype(np.float32)}
    )[0][:, 1:]

    network = torch_backbone.network
    original = network.variant
    try:
        network.variant = dataclasses.replace(original, position_rule=BY_SIZE)
        model = ExportableBackbone(network, (16, 16), [12])
        ours = model(torch.from_numpy(pixels.copy()))[0].numpy()
    finally:
        network.variant = original
    np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-3)


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
    shallow = VisionTransformer(network.variant, depth=2).eval()
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


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("dinov2_vits14", IMAGENET_MEAN, IMAGENET_STD),
        ("vit_base_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_pixels_are_normalised_as_rgb_as_the_variant_says(name, mean, std):
    network = random_network(tiny(name))
    model = ExportableBackbone(network, (1, 1), [1])
    edge = network.variant.patch_size
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).expand(1, edge, edge, 3)
    seen = []
    network.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(pixels)
    expected = [(v / 255 - m) / s for v, m, s in zip((10, 100, 200), mean, std, strict=True)]
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor(expected))


def test_without_layer_scale_the_branches_are_added_as_they_are():
    with_gain = random_network(tiny(layer_scale=True))
    without = VisionTransformer(tiny(layer_scale=False)).eval()
    state = with_gain.state_dict()
    for name in [name for name in state if ".ls" in name]:
        state.pop(name).fill_(1.0)
    without.load_state_dict(state)
    pixels = torch.full((1, 28, 28, 3), 99, dtype=torch.uint8)
    expected, found = (
        ExportableBackbone(net, (2, 2), [3])(pixels)[0] for net in (with_gain, without)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layers", [[], [0], [4], [3, 1], [2, 2]])
def test_layers_outside_the_network_are_refused(layers):
    with pytest.raises(InvalidGeometryError, match=r"within 1\.\.3"):
        ExportableBackbone(random_network(tiny()), (2, 2), layers)
