"""A build that must fail: exit status 2, a clear error, and nothing left behind."""

from __future__ import annotations

import onnx
import pytest
import torch
from descriptions import BACKBONE, CHECK, ENGINE, GRAPH_FP32, SMALL, dinspect, write_description

LOCKS = ["artefacts/.lock", "engines/.lock"]


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def failing(folder, text):
    """Build what must fail; returns the error."""
    done = dinspect("build", write_description(folder, text))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_truncated_checkpoint(tmp_path):
    torch.save({"cls_token": torch.zeros(1, 1, 384)}, tmp_path / "weights.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[: len(whole) // 2])
    error = failing(tmp_path, SMALL.replace('"packaged"', '"weights.pth"'))
    assert "weights.pth" in error
    assert files_below(tmp_path / "build") == LOCKS


def test_checkpoint_of_another_size(tmp_path):
    from dinspect_export.backbone import VisionTransformer
    from dinspect_export.variants import variant_by_name

    network = VisionTransformer(variant_by_name("dinov2_vits14"))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    text = SMALL.replace('"packaged"', '"weights.pth"').replace("vits14", "vitb14")
    error = failing(tmp_path, text)
    assert "weights.pth is not dinov2_vitb14" in error
    assert "looks like dinov2_vits14" in error
    assert files_below(tmp_path / "build") == LOCKS


def test_missing_weights(tmp_path):
    error = failing(tmp_path, SMALL.replace('"packaged"', '"nothing.pth"'))
    assert "no weights at" in error


@pytest.mark.parametrize("output", ["/sys/dinspect", "a_file"])
def test_unwritable_folder(tmp_path, output):
    (tmp_path / "a_file").write_text("")
    error = failing(tmp_path, f'output = "{output}"\n{SMALL}')
    assert "cannot write" in error
    assert output.removeprefix("/") in error


def test_unsupported_operator(tmp_path):
    node = onnx.helper.make_node("Unique", ["pixels"], ["values"], name="the_culprit", sorted=1)
    graph = onnx.helper.make_graph(
        [node],
        "foreign",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 4])],
        [onnx.helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, ["n"])],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), str(tmp_path / "foreign.onnx"))
    text = CHECK + ENGINE + '[[graph]]\nname = "foreign"\nfile = "foreign.onnx"\n'
    pytest.importorskip("tensorrt_rtx")
    error = failing(tmp_path, text)
    assert "cannot parse" in error
    assert "'the_culprit' (Unique): not supported" in error
    assert files_below(tmp_path / "build") == LOCKS


def test_same_artefact_twice_is_refused(tmp_path):
    error = failing(tmp_path, CHECK + BACKBONE + BACKBONE)
    assert f"described more than once: {GRAPH_FP32}" in error
