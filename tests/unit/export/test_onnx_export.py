from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dinspect_export import onnx_export
from dinspect_export.errors import InvalidGeometryError, ManifestError, ParityError
from dinspect_export.geometry import grid_from_size, size_label
from dinspect_export.manifest import read_artefact, read_artefacts
from dinspect_export.onnx_export import export_backbone
from dinspect_export.parity import cosine_distance_per_patch, max_cosine_distance


def test_artefact_is_complete_and_proven(artefacts_dir, split):
    artefact = read_artefact(artefacts_dir / "dinov2_vits14_448")
    manifest = artefact.manifest
    assert manifest.max_cosine_distance < manifest.tolerance == 1e-4
    assert manifest.check_images[0]["name"] == split.enrolled[0].name
    assert set(manifest.files) == {"model.onnx", "known_answer.safetensors"}
    assert manifest.fine_tuned
    assert manifest.versions["torch"] == torch.__version__


def test_graph_takes_uint8_images_in_batches(artefacts_dir, torch_backbone):
    model = artefacts_dir / "dinov2_vits14_448" / "model.onnx"
    graph = onnx.load(str(model)).graph
    (pixels,), (tokens,) = graph.input, graph.output
    assert (pixels.name, tokens.name) == ("pixels", "patch_tokens_12")
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).integers(0, 256, (3, 448, 448, 3), dtype=np.uint8)
    (together,) = session.run(None, {"pixels": batch})
    assert together.shape == (3, 1024, 384)
    with torch.inference_mode():
        alone = torch_backbone(torch.from_numpy(batch[2:]))[0].numpy()
    assert max_cosine_distance(together[2:], alone) < 1e-5


def test_graph_does_not_say_where_it_was_made(artefacts_dir):
    """Else the same weights exported in another folder have another hash, and banks are refused."""
    content = (artefacts_dir / "dinov2_vits14_448" / "model.onnx").read_bytes()
    for trace in (b"stack_trace", str(Path.cwd()).encode(), b"site-packages"):
        assert trace not in content


def test_same_weights_give_the_same_file(artefacts_dir, split, tmp_path):
    (again,) = export_backbone(
        "packaged",
        "dinov2_vits14",
        [(32, 32)],
        tmp_path,
        check_images=split.enrolled[:1],
        cache_dir=tmp_path,
    )
    first = read_artefact(artefacts_dir / "dinov2_vits14_448").manifest
    assert again.manifest.onnx_sha256 == first.onnx_sha256


def test_uint8_is_cast_before_it_is_transposed(artefacts_dir):
    """TensorRT's parser has no uint8 transpose."""
    graph = onnx.load(str(artefacts_dir / "dinov2_vits14_448" / "model.onnx")).graph
    users = {node.op_type for node in graph.node if "pixels" in node.input}
    assert users == {"Shape", "Cast"}


def test_failed_parity_writes_nothing(monkeypatch, split, tmp_path):
    monkeypatch.setattr(onnx_export, "PARITY_TOLERANCE", 0.0)
    with pytest.raises(ParityError, match="nothing was written"):
        export_backbone(
            "packaged",
            "dinov2_vits14",
            [(2, 2)],
            tmp_path,
            check_images=split.enrolled[:1],
            cache_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


def test_early_layer_carries_no_later_block(split, tmp_path):
    (artefact,) = export_backbone(
        "packaged",
        "dinov2_vits14",
        [(2, 3)],
        tmp_path,
        check_images=split.enrolled[:2],
        cache_dir=tmp_path,
        layers=[1, 2],
    )
    graph = onnx.load(str(artefact.path / "model.onnx")).graph
    assert [output.name for output in graph.output] == ["patch_tokens_1", "patch_tokens_2"]
    assert not any("blocks.2." in tensor.name for tensor in graph.initializer)
    assert artefact.path.name == "dinov2_vits14_28x42"


@pytest.mark.parametrize("images", ["none", "text"])
def test_unusable_check_images_are_refused(images, tmp_path):
    paths = []
    if images == "text":
        paths = [tmp_path / "note.png"]
        paths[0].write_text("no image")
    with pytest.raises(InvalidGeometryError, match="image"):
        export_backbone(
            "packaged",
            "dinov2_vits14",
            [(2, 2)],
            tmp_path / "out",
            check_images=paths,
            cache_dir=tmp_path,
        )


def test_changed_file_is_noticed(artefacts_dir, tmp_path):
    source = artefacts_dir / "dinov2_vits14_448"
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ManifestError, match=r"model\.onnx is missing or not the file"):
        read_artefact(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format_version": 99}'])
def test_damaged_manifest_is_refused(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ManifestError, match="export the model again"):
        read_artefact(tmp_path)


def test_manifest_of_other_fields_is_refused(artefacts_dir, tmp_path):
    record = json.loads((artefacts_dir / "dinov2_vits14_448" / "manifest.json").read_text())
    del record["grid"]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="lacks \\['grid'\\]"):
        read_artefact(tmp_path)


def test_empty_folder_says_what_to_run(tmp_path):
    with pytest.raises(ManifestError, match="dinspect export"):
        read_artefacts(tmp_path)


@pytest.mark.parametrize(
    ("size", "grid"), [("448", (32, 32)), ("448x588", (32, 42)), ("14", (1, 1))]
)
def test_size_and_grid_are_inverse(size, grid):
    assert grid_from_size(size, 14) == grid
    assert size_label(grid, 14) == size


@pytest.mark.parametrize("size", ["450", "448x600", "0", "448x", "x448", "-448", "448.0"])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(InvalidGeometryError, match="size"):
        grid_from_size(size, 14)


def test_one_bad_patch_is_not_hidden():
    reference = np.random.default_rng(0).normal(size=(1, 1000, 8)).astype(np.float32)
    tokens = reference.copy()
    tokens[0, 500] *= -1
    assert max_cosine_distance(tokens, reference) == pytest.approx(2.0)
    assert (cosine_distance_per_patch(tokens, reference) > 1e-6).sum() == 1


def test_length_does_not_matter_but_nan_does():
    reference = np.ones((1, 4, 8), np.float32)
    assert max_cosine_distance(3 * reference, reference) == pytest.approx(0.0, abs=1e-9)
    broken = reference.copy()
    broken[0, 0, 0] = np.nan
    assert max_cosine_distance(broken, reference) == float("inf")
    with pytest.raises(ValueError, match="expected"):
        max_cosine_distance(reference[:, :2], reference)
