"""Students are published only if what will run them computes what PyTorch computed."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from trainings import RUN_BY, graph, known_answer, publish_files, training_files

import trained_students
from dinspect_export.students import (
    Combination,
    DistanceOptions,
    Metric,
    Normalisation,
    StudentDistance,
    StudentPair,
    TrainedStudents,
    write_students_onnx,
)
from dinspect_export.students import known_answer as pytorchs_answer
from dinspect_export.variants import VARIANTS
from refusals import InspectionRefused
from student_runner import StudentRunner, check_operations, known_tokens
from students_store import StudentsStore
from wire import KNOWN_TOKENS


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


def test_tokens_are_spread_evenly_with_unit_variance():
    tokens = known_tokens(100, 64)
    assert (tokens.shape, tokens.dtype) == ((2, 100, 64), np.float32)
    assert tokens[0, 0, 1] == np.float32((KNOWN_TOKENS[0] - 0.5) * KNOWN_TOKENS[1])
    assert abs(tokens.mean()) < 1e-3
    assert abs(tokens.std() - 1) < 1e-3


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("combination", Combination)
def test_every_graph_that_is_exported_computes_its_known_answer(
    tmp_path, runtime, half, metric, combination
):
    """Server and trainer make the same tokens; no graph holds what the server refuses."""
    torch.manual_seed(0)
    pair = StudentPair(384).eval().requires_grad_(False)
    students = TrainedStudents(pair, VARIANTS["dinov2_vits14"], (8, 12))
    normalisation = Normalisation.NONE if metric is Metric.EUCLIDEAN else Normalisation.L2
    options = DistanceOptions(normalisation, metric, combination)
    path = tmp_path / "students.onnx"
    write_students_onnx(students, path, grid=(3, 3), options=options, half=half)
    check_operations(path)
    step, width = KNOWN_TOKENS
    expected = np.array(pytorchs_answer(students, (3, 3), options, step=step, width=width))
    tokens = known_tokens(9, 384)
    direct = StudentDistance(pair, (3, 3), options)(*torch.tensor(tokens)[:, None])[0]
    np.testing.assert_allclose(expected, direct, rtol=1e-6)
    runner = StudentRunner(path, (8, 12), (3, 3), 384, runtime, "fp32")
    np.testing.assert_allclose(runner.distances(*tokens), expected, rtol=2e-3 if half else 1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"known_answer": known_answer(1.001)}, "away from PyTorch's known answer"),
        ({"known_answer": known_answer()[:1]}, "not of the grid 2 x 2"),
        ({"known_answer": [[1.0], [1.0]]}, "not of the grid 2 x 2"),
        ({"known_answer": [[0.0, 0.0], [0.0, 0.0]]}, "away from PyTorch's known answer"),
    ],
)
def test_students_that_miss_the_known_answer_are_not_published(store, changes, reason):
    with pytest.raises(InspectionRefused, match=reason):
        publish_files(store, "screw", training_files(**changes))
    assert store.products() == {}


def test_what_will_run_them_is_what_is_proven(store, monkeypatch):
    """In BF16 the same students are further away, and may be."""
    seen = []

    class Watched(StudentRunner):
        def __init__(self, *args):
            seen.append(args[-2:])
            super().__init__(*args)

    monkeypatch.setattr(trained_students, "StudentRunner", Watched)
    for run_by in (RUN_BY, dataclasses.replace(RUN_BY, runtime="onnxruntime", precision="auto")):
        publish_files(store, "screw", training_files(), run_by=run_by)
        assert seen.pop() == (run_by.runtime, run_by.precision)
        assert run_by.tolerance == 1e-4
    assert dataclasses.replace(RUN_BY, precision="bf16").tolerance == 3e-2
    assert dataclasses.replace(RUN_BY, runtime="onnxruntime", precision="fp16").tolerance == 1e-4


def test_graph_with_a_loop_is_never_run(store):
    """It could keep the server from everything else for good."""
    model = onnx.load_from_string(graph())
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    model.graph.initializer.append(helper.make_tensor("start", TensorProto.FLOAT, [], [0.0]))
    body.input.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    body.node.append(helper.make_node("Add", ["sum", "sum"], ["doubled"]))
    body.output.append(helper.make_tensor_value_info("doubled", TensorProto.FLOAT, []))
    loop = helper.make_node("Loop", ["turns", "yes", "start"], ["ended"], body=body)
    model.graph.node.insert(0, loop)
    for node in model.graph.node:
        if "scaled" in node.output:
            node.output[0] = "unlooped"
    model.graph.node.insert(
        len(model.graph.node) - 2, helper.make_node("Add", ["unlooped", "ended"], ["scaled"])
    )
    files = training_files(students=model.SerializeToString())
    with pytest.raises(InspectionRefused, match="which no pair of students needs"):
        publish_files(store, "screw", files)
    assert store.products() == {}
