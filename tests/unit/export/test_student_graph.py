from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from reference import l2bt_reference as reference

from dinspect_export.backbone import ExportableBackbone
from dinspect_export.check_images import check_pixels
from dinspect_export.engine import EngineOptions, build_engine
from dinspect_export.errors import CheckpointError, InvalidGeometryError
from dinspect_export.onnx_graph import write_graph
from dinspect_export.student_files import save_students
from dinspect_export.students import (
    DistanceOptions,
    StudentDistance,
    StudentPair,
    TrainedStudents,
    write_students_onnx,
)
from dinspect_export.variants import variant_by_name

VARIANT = variant_by_name("dinov2_vits14")
GRID = (32, 32)


def random_pair(dim, seed=0):
    torch.manual_seed(seed)
    return StudentPair(dim).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def real(torch_backbone, split):
    """Tokens of blocks 8 and 12 of three good cells and one cracked, each `(4, 1024, 384)`."""
    backbone = ExportableBackbone(torch_backbone.network, GRID, [8, 12])
    images = (*split.enrolled[:3], split.defective[0])
    pixels = np.stack([check_pixels(path, backbone.input_size) for path in images])
    with torch.inference_mode():
        return tuple(tokens.clone() for tokens in backbone(torch.from_numpy(pixels)))


@pytest.fixture(scope="module")
def trained(real):
    """Students whose last layer is fitted to the first two cells (ridge regression), so that
    distances, and what FP16 does to them, are like those of trained ones."""
    pair = random_pair(VARIANT.dim)
    tokens_j, tokens_k = (tokens[:2].reshape(-1, VARIANT.dim) for tokens in real)
    for student, source, target in (
        (pair.forward_student, tokens_j, tokens_k),
        (pair.backward_student, tokens_k, tokens_j),
    ):
        hidden = torch.nn.functional.gelu(student.input(source))
        hidden = torch.nn.functional.gelu(student.projection(hidden)).double()
        mean = hidden.mean(0)
        centred, wanted = hidden - mean, target.double() - target.double().mean(0)
        gram = centred.T @ centred + 10.0 * torch.eye(VARIANT.dim, dtype=torch.float64)
        fitted = torch.linalg.solve(gram, centred.T @ wanted)
        student.output.weight.copy_(fitted.T)
        student.output.bias.copy_(target.double().mean(0) - mean @ fitted)
    return TrainedStudents(pair, VARIANT, (8, 12))


@pytest.fixture(scope="module")
def graphs(trained, tmp_path_factory):
    """The FP32 and the FP16 graph of the same students, by `half`."""
    folder = tmp_path_factory.mktemp("graphs")
    paths = {half: folder / f"students_{half}.onnx" for half in (False, True)}
    for half, path in paths.items():
        write_students_onnx(trained, path, grid=GRID, half=half)
    return paths


def run_onnx(path, tokens_j, tokens_k):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"patch_tokens_8": tokens_j.numpy(), "patch_tokens_12": tokens_k.numpy()}
    (distances,) = session.run(["patch_distances"], feeds)
    return distances


def run_torch(students, grid, tokens_j, tokens_k, options=None):
    model = StudentDistance(students.pair, grid, options or DistanceOptions())
    with torch.inference_mode():
        return model(tokens_j, tokens_k).numpy()


@pytest.mark.parametrize("half", [False, True])
def test_graph_has_the_published_contract(graphs, half):
    model = onnx.load(str(graphs[half]))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    described = {
        value.name: (
            value.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    }
    assert described == {
        "patch_tokens_8": (TensorProto.FLOAT, ["batch", 1024, 384]),
        "patch_tokens_12": (TensorProto.FLOAT, ["batch", 1024, 384]),
        "patch_distances": (TensorProto.FLOAT, ["batch", 32, 32]),
    }


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_fp32_graph_equals_pytorch(graphs, trained, real, batch):
    tokens_j, tokens_k = (tokens.repeat(2, 1, 1)[-batch:] for tokens in real)
    found = run_onnx(graphs[False], tokens_j, tokens_k)
    expected = run_torch(trained, GRID, tokens_j, tokens_k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_images_of_a_batch_do_not_touch_each_other(graphs, real):
    together = run_onnx(graphs[False], *real)
    for image in range(len(together)):
        alone = run_onnx(graphs[False], *(tokens[image : image + 1] for tokens in real))
        np.testing.assert_allclose(together[image], alone[0], atol=1e-5)


def test_graph_keeps_rows_and_columns_apart(tmp_path):
    students = TrainedStudents(random_pair(384), VARIANT, (3, 7))
    write_students_onnx(students, tmp_path / "m.onnx", grid=(2, 5))
    tokens = torch.randn(2, 2, 10, 384)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    feeds = {"patch_tokens_3": tokens[0].numpy(), "patch_tokens_7": tokens[1].numpy()}
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found, run_torch(students, (2, 5), *tokens), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        DistanceOptions(combination="sum"),
        DistanceOptions(metric="cosine", combination="forward"),
        DistanceOptions(normalisation="none", combination="backward"),
    ],
    ids=["sum", "cosine", "not normalised"],
)
def test_every_kind_of_distance_is_exported(options, trained, real, tmp_path):
    write_students_onnx(trained, tmp_path / "m.onnx", grid=GRID, options=options)
    np.testing.assert_allclose(
        run_onnx(tmp_path / "m.onnx", *real), run_torch(trained, GRID, *real, options), rtol=1e-4
    )


def test_fp16_graph_stays_within_a_percent(graphs, trained, real):
    unseen = [tokens[2:] for tokens in real]
    exact, half = run_torch(trained, GRID, *unseen), run_onnx(graphs[True], *unseen)
    assert 0.02 < np.median(exact) < 0.5, "these students are not like trained ones"
    np.testing.assert_allclose(half, exact, rtol=0.01)
    assert not np.array_equal(half, exact)
    for image in range(len(exact)):
        score = reference.image_score(exact[image])
        assert reference.image_score(half[image]) == pytest.approx(score, rel=0.01)


def types_by_operator(path):
    """Operator to the element types that go in and come out, shapes and axes aside."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        types[value.name] = value.type.tensor_type.elem_type
    found = {}
    for node in graph.node:
        names = (*node.input, *node.output)
        found.setdefault(node.op_type, []).append(
            {types[name] for name in names if name} - {TensorProto.INT64}
        )
    return found


def test_fp16_graph_multiplies_in_fp16_and_measures_in_fp32(graphs):
    found = types_by_operator(graphs[True])
    assert found["MatMul"] == [{TensorProto.FLOAT16}] * 6
    assert found["Erf"] == [{TensorProto.FLOAT16}] * 4
    for operator in ("ReduceL2", "ReduceSum", "Sub", "Sqrt"):
        assert set(map(frozenset, found[operator])) == {frozenset({TensorProto.FLOAT})}, operator
    assert len(found["Cast"]) == 4  # each student: one in, one out
    weights = onnx.load(str(graphs[True])).graph.initializer
    matrices = [tensor for tensor in weights if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in matrices} == {TensorProto.FLOAT16}
    assert len(matrices) == 6
    assert set(types_by_operator(graphs[False])["MatMul"][0]) == {TensorProto.FLOAT}


def test_students_stay_as_they_were(tmp_path):
    """They may be in the middle of their training."""
    pair = random_pair(384).train().requires_grad_(True)
    before = {name: weight.clone() for name, weight in pair.state_dict().items()}
    students = TrainedStudents(pair, VARIANT, (8, 12))
    for half in (False, True):
        write_students_onnx(students, tmp_path / "m.onnx", grid=(1, 1), half=half)
    assert pair.forward_student.training
    for name, weight in pair.named_parameters():
        assert weight.requires_grad
        assert weight.dtype == torch.float32
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize(("value", "half"), [(1e5, True), (float("nan"), False)])
def test_weights_that_the_precision_cannot_hold_are_refused_and_named(value, half, tmp_path):
    pair = random_pair(384)
    pair.backward_student.output.bias[0] = value
    students = TrainedStudents(pair, VARIANT, (8, 12))
    with pytest.raises(CheckpointError, match=r"backward_student\.output\.bias: NaN or beyond"):
        write_students_onnx(students, tmp_path / "m.onnx", grid=(1, 1), half=half)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("grid", [(0, 3), (-1, 3)])
def test_graph_of_an_empty_grid_is_refused(grid, trained, tmp_path):
    with pytest.raises(InvalidGeometryError, match="empty"):
        write_students_onnx(trained, tmp_path / "m.onnx", grid=grid)


def test_one_direction_exports_one_student(tmp_path):
    students = TrainedStudents(random_pair(384), VARIANT, (8, 12))
    options = DistanceOptions(combination="backward")
    write_students_onnx(students, tmp_path / "m.onnx", grid=(2, 2), options=options)
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    assert sum(node.op_type == "MatMul" for node in graph.node) == 3
    assert [value.name for value in graph.input] == ["patch_tokens_8", "patch_tokens_12"]


WRITE_AGAIN = """
from pathlib import Path
from dinspect_export.student_files import load_students_safetensors
from dinspect_export.students import write_students_onnx
students = load_students_safetensors(Path("students.safetensors"))
for half in (False, True):
    write_students_onnx(students, Path(f"{half}.onnx"), grid=(32, 32), half=half)
"""


def test_same_students_give_the_same_file(graphs, trained, tmp_path):
    """In another folder and another process, whose hashes are seeded otherwise."""
    save_students(trained, tmp_path / "students.safetensors")
    environment = os.environ | {
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
    }
    command = [sys.executable, "-c", WRITE_AGAIN]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    for half, path in graphs.items():
        content = path.read_bytes()
        assert content == (tmp_path / f"{half}.onnx").read_bytes()
        assert b"site-packages" not in content


def test_one_example_given_twice_stays_two_inputs(tmp_path):
    class Difference(torch.nn.Module):
        def forward(self, a, b):
            return a - b

    example = torch.zeros(2, 3)
    names = ["a", "b"]
    write_graph(
        Difference().eval(),
        [example, example],
        tmp_path / "m.onnx",
        input_names=names,
        output_names=["c"],
    )
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    a, b = np.ones((1, 3), np.float32), np.zeros((1, 3), np.float32)
    assert session.run(None, {"a": a, "b": b})[0].tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("half", [False, True])
def test_tensorrt_parses_and_builds_the_graph(graphs, half):
    pytest.importorskip("tensorrt_rtx")
    engine = build_engine(graphs[half], EngineOptions("tensorrt-rtx"))
    products, others = ("HALF", "FLOAT") if half else ("FLOAT", "HALF")
    assert engine.layers[f"MATRIX_MULTIPLY {products}"] == 6
    assert f"MATRIX_MULTIPLY {others}" not in engine.layers
    assert "REDUCE FLOAT" in engine.layers
    assert "REDUCE HALF" not in engine.layers
    shapes = [[batch, 1024, 384] for batch in (1, 4, 8)]
    assert engine.profile == {"patch_tokens_8": shapes, "patch_tokens_12": shapes}
    assert len(engine.plan) > graphs[half].stat().st_size
