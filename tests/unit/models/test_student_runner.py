"""Students run as their graph says, on both runtimes; what is no such graph is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from trainings import DIM, GRID, LAYERS, expected_distances, graph, tokens

from refusals import InspectionRefused
from student_runner import StudentRunner, students_size_bytes


@pytest.fixture
def runner(tmp_path):
    """Makes a runner of a graph's content."""

    def make(content, runtime="onnxruntime", precision="fp32", layers=LAYERS, grid=GRID, dim=DIM):
        path = tmp_path / "students.onnx"
        path.write_bytes(content)
        return StudentRunner(path, layers, grid, dim, runtime, precision)

    return make


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "triton-onnxruntime"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_distances_are_the_graphs(runner, runtime, precision):
    students = runner(graph(3.0), runtime, precision)
    for seed in range(3):
        pair = tokens(seed)
        found = students.distances(*pair)
        assert (found.shape, found.dtype) == (GRID, np.float32)
        np.testing.assert_allclose(found, expected_distances(pair, 3.0), rtol=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_answers_stay_when_the_next_is_asked_for(runner, runtime):
    students = runner(graph(), runtime)
    first = students.distances(*tokens(0))
    kept = first.copy()
    students.distances(*tokens(1))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_tokens_need_not_be_contiguous(runner, runtime):
    pair = tokens()
    students = runner(graph(), runtime)
    turned = [np.asfortranarray(one) for one in pair]
    assert np.array_equal(students.distances(*turned), students.distances(*pair))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_half_precision_is_close_to_the_graph(runner, runtime):
    pair = tokens()
    found = runner(graph(), runtime, "bf16").distances(*pair)
    np.testing.assert_allclose(found, expected_distances(pair), rtol=0.05)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be run"),
        (b"garbage" * 100, "cannot be run"),
        (graph()[:-40], "cannot be run|puts out"),
        (graph(layers=(4, 12)), "cannot be run on 4 patch tokens of width 8 from blocks 8 and 12"),
        (graph(dim=16), "cannot be run"),
        (graph(grid=(3, 3)), "cannot be run"),
        (graph(output_rank=2), r"puts out float32 \(1, 4\), expected float32 \(1, 2, 2\)"),
        (graph(dtype=TensorProto.DOUBLE), "puts out float64"),
        (graph(float("nan")), "NaN or infinity"),
    ],
)
def test_other_graph_is_refused(runner, runtime, content, reason):
    with pytest.raises(InspectionRefused, match=reason):
        runner(content, runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_grid_and_width_are_the_products(runner, runtime):
    for other in ({"grid": (1, 4)}, {"grid": (4, 4)}, {"dim": 16}, {"layers": (8, 11)}):
        with pytest.raises(InspectionRefused, match="cannot be run|puts out"):
            runner(graph(), runtime, **other)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_token_that_is_not_finite_shows_in_its_patch_alone(runner, runtime):
    pair = tokens()
    pair[0, 2, 5] = np.nan
    found = runner(graph(), runtime).distances(*pair)
    assert np.isnan(found).tolist() == [[False, False], [True, False]]


def test_size_counts_the_weights_and_the_tokens(runner, tmp_path):
    content = graph()
    students = runner(content)
    path = tmp_path / "students.onnx"
    assert students.size_bytes == students_size_bytes(path, GRID, DIM)
    assert students.size_bytes == len(content) + 4 * 6 * 4 * DIM
    assert students_size_bytes(path, (4, 2), DIM) > students.size_bytes
    with pytest.raises(InspectionRefused, match="cannot be read: No such file"):
        students_size_bytes(tmp_path / "gone", GRID, DIM)
