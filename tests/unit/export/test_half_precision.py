"""FP16 as part of the graph: which parts, and that the original stays what it was."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dinspect_export.backbone import ExportableBackbone
from dinspect_export.onnx_export import write_backbone
from dinspect_export.parity import max_cosine_distance
from dinspect_export.precision import InHalf, with_half_matmuls
from dinspect_export.recipes import BackboneRecipe

GRID = (2, 3)


@pytest.fixture(scope="module")
def model(torch_backbone):
    """Two blocks of real weights, as a backbone for a small image."""
    network = torch_backbone.network
    return ExportableBackbone(network, GRID, [1, 12]).eval()


@pytest.fixture(scope="module")
def graphs(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    for precision in ("fp32", "fp16"):
        recipe = BackboneRecipe(
            "dinov2_vits14", "", GRID, (1, 12), precision, (1, 8), {}, "", {}
        )  # fmt: skip
        write_backbone(model, folder / f"{precision}.onnx", recipe)
    return folder


def inputs_by_operator(path):
    """Operator to the element types of its first inputs, as ONNX infers them."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    } | {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = collections.defaultdict(collections.Counter)
    for node in graph.node:
        found[node.op_type][onnx.TensorProto.DataType.Name(types[node.input[0]])] += 1
    return found


def test_products_are_half_and_norms_are_not(graphs):
    found = inputs_by_operator(graphs / "fp16.onnx")
    assert set(found["MatMul"]) == set(found["Conv"]) == set(found["Softmax"]) == {"FLOAT16"}
    assert set(found["LayerNormalization"]) == {"FLOAT"}
    graph = onnx.load(str(graphs / "fp16.onnx")).graph
    assert {output.type.tensor_type.elem_type for output in graph.output} == {1}
    assert set(inputs_by_operator(graphs / "fp32.onnx")["MatMul"]) == {"FLOAT"}


def test_residual_stream_and_layer_scale_stay_in_full_precision(graphs):
    graph = onnx.load(str(graphs / "fp16.onnx")).graph
    gammas = [t for t in graph.initializer if t.name.endswith("gamma")]
    assert len(gammas) == 24
    assert {t.data_type for t in gammas} == {onnx.TensorProto.FLOAT}
    assert sum(t.data_type == onnx.TensorProto.FLOAT16 for t in graph.initializer) >= 12 * 8


def test_half_is_half_the_size_and_nearly_the_same(graphs, model):
    sizes = {p: (graphs / f"{p}.onnx").stat().st_size for p in ("fp32", "fp16")}
    assert sizes["fp16"] < 0.52 * sizes["fp32"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 42, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(
        str(graphs / "fp16.onnx"), providers=["CPUExecutionProvider"]
    )
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels))
    for tokens, truth in zip(session.run(None, {"pixels": pixels}), expected, strict=True):
        assert tokens.dtype == np.float32
        assert 0 < max_cosine_distance(tokens, truth.numpy()) < 1e-3


def test_original_is_left_alone(model):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    half = with_half_matmuls(model.network)
    after = model.network.state_dict()
    assert list(after) == list(before)
    for name, value in after.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])
    assert half.blocks[0].norm1.weight is model.network.blocks[0].norm1.weight
    assert {p.dtype for p in half.blocks[0].attn.parameters()} == {torch.float16}


def test_in_half_computes_in_half_and_answers_in_full():
    inner = torch.nn.Identity()
    answer = InHalf(inner)(torch.tensor([1.0, 1.0001, 70000.0]))
    assert answer.dtype == torch.float32
    assert answer.tolist() == [1.0, 1.0, float("inf")]
