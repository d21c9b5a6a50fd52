"""INT8 as part of the graph: which layers, ranges of single tokens, and what the eight bits cost."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from safetensors.numpy import load_file
from unit.export.random_networks import TINY, random_network

import runners
from dinspect_export.backbone import ExportableBackbone
from dinspect_export.onnx_export import write_backbone
from dinspect_export.parity import max_cosine_distance
from dinspect_export.quantisation import (
    quantise_linear_layers,
    rounded_weights,
    smoothing_factors,
)
from dinspect_export.recipes import TOLERANCES, BackboneRecipe

GRID = (2, 3)
OUTPUTS = 24


@pytest.fixture(scope="module")
def generator():
    return np.random.default_rng(5)


def layer_graph(path, weights, before=()):
    """One linear layer behind a few nodes that make ``tokens`` of ``x``."""
    constants = [numpy_helper.from_array(weights, "weights")]
    constants += [numpy_helper.from_array(np.float32(value), name) for name, value in before[1:]]
    nodes = before[0] if before else [helper.make_node("Identity", ["x"], ["tokens"])]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["tokens", "weights"], ["y"])],
        "layer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, weights.shape[1]])],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def run(path, tokens):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": tokens})[0]


@pytest.fixture(scope="module")
def layer(tmp_path_factory, generator):
    """The same layer in FP32 and in INT8."""
    folder = tmp_path_factory.mktemp("layer")
    weights = generator.normal(size=(64, OUTPUTS)).astype(np.float32)
    whole = layer_graph(folder / "fp32.onnx", weights)
    assert quantise_linear_layers(whole, folder / "int8.onnx") == 1
    return whole, folder / "int8.onnx"


def test_product_is_within_the_rounding_of_eight_bits(layer, generator):
    tokens = generator.normal(size=(50, 64)).astype(np.float32)
    exact, found = (run(path, tokens) for path in layer)
    assert 1e-4 < np.abs(found - exact).max() / np.abs(exact).max() < 0.02


def test_range_is_the_tokens_own(layer, generator):
    tokens = generator.normal(size=(4, 64)).astype(np.float32)
    sizes = np.array([[1.0], [1e-4], [1e4], [3.0]], np.float32)
    alone = run(layer[1], tokens)
    np.testing.assert_allclose(run(layer[1], tokens * sizes), alone * sizes, rtol=1e-5, atol=1e-7)


def test_token_of_zeros_gives_zeros_and_divides_by_none(layer, tmp_path):
    zeros = np.zeros((2, 64), np.float32)
    assert not run(layer[1], zeros).any()
    model = onnx.load(layer[1])  # what a runtime makes of NaN in INT8 is its own affair
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info("int8_0_unit"))
    onnx.save(model, tmp_path / "unit.onnx")
    assert not run(tmp_path / "unit.onnx", zeros).any()


def gelu_layer(path, weights):
    """A layer behind the parts of an exact GELU, as the exporter writes them."""
    nodes = [
        helper.make_node("Div", ["x", "root"], ["a"]),
        helper.make_node("Erf", ["a"], ["b"]),
        helper.make_node("Add", ["b", "one"], ["c"]),
        helper.make_node("Mul", ["half", "c"], ["d"]),
        helper.make_node("Mul", ["x", "d"], ["tokens"]),
    ]
    before = (nodes, ("root", 2**0.5), ("one", 1.0), ("half", 0.5))
    return layer_graph(path, weights, before)


def test_behind_gelu_the_range_begins_at_its_minimum(tmp_path, generator):
    weights = generator.normal(size=(64, OUTPUTS)).astype(np.float32)
    whole = gelu_layer(tmp_path / "fp32.onnx", weights)
    quantise_linear_layers(whole, tmp_path / "int8.onnx")
    graph = onnx.load(tmp_path / "int8.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (quantiser,) = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert constants[quantiser.input[2]].dtype == np.uint8
    assert constants[quantiser.input[1]] == np.float32(1 / 255)
    for tokens in (
        generator.normal(size=(50, 64)),
        np.full((1, 64), -0.7518),  # where GELU is smallest: all of it lies in the shift
        np.full((1, 64), -30.0),  # and 0 from below
    ):
        pixels = tokens.astype(np.float32)
        exact, found = run(whole, pixels), run(tmp_path / "int8.onnx", pixels)
        gelu = torch.nn.functional.gelu(torch.from_numpy(pixels)).numpy()
        # Half a step of the token, times the weights, and half a step of the weights, times it.
        steps = (gelu + 0.17).max(axis=1, keepdims=True) / 255
        allowed = steps / 2 * np.abs(weights).sum(axis=0) * 1.01
        allowed = (
            allowed + np.abs(gelu).sum(axis=1, keepdims=True) * rounded_weights(weights)[1] / 2
        )
        assert (np.abs(found - exact) <= allowed + 1e-4).all()


def test_products_of_tokens_and_other_products_of_erf_are_told_apart(tmp_path):
    """What lies behind another layer is no GELU, however near an Erf is."""
    weights = np.eye(8, dtype=np.float32)
    path = gelu_layer(tmp_path / "fp32.onnx", weights)
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(helper.make_node("MatMul", ["z", "weights"], ["y"]))
    onnx.save(model, path)
    assert quantise_linear_layers(path, tmp_path / "int8.onnx") == 2
    kinds = [
        node.input[2]
        for node in onnx.load(tmp_path / "int8.onnx").graph.node
        if node.op_type == "QuantizeLinear"
    ]
    constants = {
        tensor.name: numpy_helper.to_array(tensor).dtype
        for tensor in onnx.load(tmp_path / "int8.onnx").graph.initializer
    }
    assert [constants[name] for name in kinds] == [np.uint8, np.int8]


def test_weights_are_rounded_to_the_nearest_of_their_own_channel():
    weights = np.array([[1.27, -2.54, 0.0], [-0.013, 0.05, 0.0]], np.float32)
    rounded, scales = rounded_weights(weights)
    np.testing.assert_array_equal(rounded, [[127, -127, 0], [-1, 2, 0]])
    np.testing.assert_allclose(scales, [0.01, 0.02, 1.0], rtol=1e-6)


def test_smoothing_changes_no_product_and_levels_the_channels(generator):
    gain = generator.lognormal(sigma=2.0, size=64).astype(np.float32)
    offset = generator.normal(size=64).astype(np.float32)
    weights = generator.normal(size=(64, OUTPUTS)).astype(np.float32)
    factors = smoothing_factors(gain, offset, weights)
    assert np.exp(np.log(factors).mean()) == pytest.approx(1.0, rel=1e-5)
    tokens = generator.normal(size=(9, 64)).astype(np.float32) * gain + offset
    np.testing.assert_allclose(
        (tokens / factors) @ (weights * factors[:, None]), tokens @ weights, rtol=1e-3, atol=1e-3
    )
    usual = 3 * np.abs(gain) + np.abs(offset)
    assert np.log(usual / factors).std() < 0.3 * np.log(usual).std()


def test_unused_channels_do_not_weigh_on_the_others(generator):
    gain, offset = np.ones(64, np.float32), np.zeros(64, np.float32)
    gain[:32] = 0.0
    weights = generator.normal(size=(64, OUTPUTS)).astype(np.float32)
    weights[5] = 0.0
    factors = smoothing_factors(gain, offset, weights)
    assert np.isfinite(factors).all()
    assert (factors > 0).all()
    assert not np.isnan(smoothing_factors(0 * gain, offset, 0 * weights)).any()


def recipe(variant, precision):
    return BackboneRecipe(variant, "", GRID, (3,), precision, (1, 8), {}, "", {})


@pytest.mark.parametrize("name", ["tiny", "tiny_reg", "tiny_swiglu"])
def test_every_linear_layer_and_nothing_else_is_quantised(name, tmp_path):
    """Four layers in each of three blocks; attention's two products and the patches are not."""
    model = ExportableBackbone(random_network(TINY[name]), GRID, [3]).eval()
    for precision in ("fp32", "int8"):
        write_backbone(model, tmp_path / f"{precision}.onnx", recipe(name, precision))
    found = {
        precision: collections.Counter(
            node.op_type for node in onnx.load(tmp_path / f"{precision}.onnx").graph.node
        )
        for precision in ("fp32", "int8")
    }
    assert found["int8"]["QuantizeLinear"] == 3 * 4
    assert found["int8"]["DequantizeLinear"] == 2 * 3 * 4
    assert found["int8"]["MatMul"] == found["fp32"]["MatMul"] == 3 * 6
    assert found["int8"]["Conv"] == 1
    size = [(tmp_path / f"{precision}.onnx").stat().st_size for precision in ("int8", "fp32")]
    assert size[0] < size[1]


@pytest.fixture(scope="module")
def real(torch_backbone, tmp_path_factory):
    """Real weights in INT8 for a small image, and PyTorch's own answer."""
    path = tmp_path_factory.mktemp("real") / "model.onnx"
    model = ExportableBackbone(torch_backbone.network, (8, 8), [8, 12]).eval()
    write_backbone(
        model,
        path,
        BackboneRecipe("dinov2_vits14", "", (8, 8), (8, 12), "int8", (1, 8), {}, "", {}),
    )
    return model, path


def test_real_network_stays_the_same_network(real, split):
    from dinspect_export.check_images import check_pixels

    model, path = real
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    pixels = np.stack([check_pixels(file, (112, 112)) for file in split.defective[:4]])
    with torch.inference_mode():
        expected = [tokens.numpy() for tokens in model(torch.from_numpy(pixels))]
    found = session.run(None, {"pixels": pixels})
    worst = max(max_cosine_distance(a, b) for a, b in zip(found, expected, strict=True))
    assert 1e-5 < worst < 1 - TOLERANCES["int8"].min_patch_cosine
    alone = session.run(None, {"pixels": pixels[2:3]})
    np.testing.assert_allclose(alone[1][0], found[1][2], atol=2e-4)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_server_runs_it_and_says_so(real, runtime, tmp_path, split):
    from safetensors.numpy import save_file

    from dinspect_export.check_images import check_pixels

    model, path = real
    pixels = check_pixels(split.functional[0], (112, 112))[None]
    with torch.inference_mode():
        tokens = [tokens.numpy() for tokens in model(torch.from_numpy(pixels))]
    known = tmp_path / "known.safetensors"
    save_file(
        {"pixels": pixels, "patch_tokens_8": tokens[0], "patch_tokens_12": tokens[1]}, str(known)
    )
    backbone = runners.load_backbone(path, known, runtime, "int8")
    assert backbone.precision == "int8"
    assert 1e-5 < backbone.max_cosine_distance < runners.TOLERANCE["int8"]
    swapped = load_file(str(known))
    swapped["patch_tokens_12"] = swapped["patch_tokens_12"][:, ::-1].copy()
    save_file(swapped, str(known))
    with pytest.raises(runners.WrongAnswerError, match="nothing is served"):
        runners.load_backbone(path, known, runtime, "int8")
