from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dinspect_export import onnx_graph, recipes
from dinspect_export.check_images import CheckImages
from dinspect_export.errors import InvalidGeometryError, ManifestError, ParityError
from dinspect_export.geometry import grid_from_size, size_label
from dinspect_export.manifest import BackboneManifest, read_artefact, read_backbones
from dinspect_export.onnx_export import export_backbones
from dinspect_export.parity import max_cosine_distance
from dinspect_export.recipes import Tolerances
from dinspect_export.weights_location import Weights


def export(output_dir, grids, images, **options):
    weights = Weights("packaged", "dinov2_vits14", output_dir)
    check = CheckImages(images=tuple(images), references=options.pop("references", ()))
    return export_backbones(weights, grids, output_dir, check=check, **options)


def test_artefact_is_complete_and_proven(artefacts_dir, split):
    artefact = read_artefact(artefacts_dir / "dinov2_vits14_448")
    manifest = artefact.manifest
    assert isinstance(manifest, BackboneManifest)
    assert manifest.tolerances["min_patch_cosine"] == 1 - 1e-4
    (proof,) = manifest.proof
    assert 0 <= 1 - proof["min_patch_cosine"] == manifest.max_cosine_distance < 1e-4
    assert proof["runtime"] == "onnxruntime"
    digest = hashlib.sha256(split.enrolled[0].read_bytes()).hexdigest()
    assert manifest.recipe["check"] == {"images": [digest], "references": []}
    assert manifest.layers == [8, 12]
    assert set(manifest.files) == {"model.onnx", "known_answer.safetensors"}
    assert manifest.fine_tuned
    assert manifest.versions["torch"] == torch.__version__


def test_graph_takes_uint8_images_in_batches(artefacts_dir, torch_backbone):
    model = artefacts_dir / "dinov2_vits14_448" / "model.onnx"
    graph = onnx.load(str(model)).graph
    (pixels,) = graph.input
    assert pixels.name == "pixels"
    assert [tokens.name for tokens in graph.output] == ["patch_tokens_8", "patch_tokens_12"]
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).integers(0, 256, (3, 448, 448, 3), dtype=np.uint8)
    (together,) = session.run(["patch_tokens_12"], {"pixels": batch})
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
    (again,) = export(tmp_path, [(32, 32)], split.enrolled[:1])
    first = read_artefact(artefacts_dir / "dinov2_vits14_448").manifest
    assert again.manifest.onnx_sha256 == first.onnx_sha256


def test_uint8_is_cast_before_it_is_transposed(artefacts_dir):
    """TensorRT's parser has no uint8 transpose."""
    graph = onnx.load(str(artefacts_dir / "dinov2_vits14_448" / "model.onnx")).graph
    users = {node.op_type for node in graph.node if "pixels" in node.input}
    assert users == {"Shape", "Cast"}


@pytest.mark.parametrize(
    ("tolerances", "reason"),
    [
        (
            Tolerances(1.1, 1.0),
            r"worst patch has a cosine of 1\.000000 to PyTorch, required is 1\.1",
        ),
        (Tolerances(0.0, -1.0), r"image score changes by 0\.\d+%, allowed is -100"),
        (Tolerances(0.0, 1.0, -1), "0 verdicts flip, allowed are -1"),
    ],
)
def test_failed_parity_writes_nothing(monkeypatch, split, tmp_path, tolerances, reason):
    monkeypatch.setitem(recipes.TOLERANCES, "fp32", tolerances)
    with pytest.raises(ParityError, match=rf"{reason}.*; nothing was written"):
        export(
            tmp_path,
            [(2, 2)],
            split.functional[:2],
            references=tuple(split.enrolled[:2]),
            layers=[1],
        )
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_early_layer_carries_no_later_block(split, tmp_path):
    (artefact,) = export(tmp_path, [(2, 3)], split.enrolled[:2], layers=[1, 2])
    graph = onnx.load(str(artefact.path / "model.onnx")).graph
    assert [output.name for output in graph.output] == ["patch_tokens_1", "patch_tokens_2"]
    assert not any("blocks.2." in tensor.name for tensor in graph.initializer)
    assert artefact.path.name == "dinov2_vits14_28x42_layers_1_2"


def test_wrong_order_of_layers_is_refused(split, tmp_path):
    for layers in ([2, 1], [0], [13]):
        with pytest.raises(InvalidGeometryError, match=r"within 1\.\.12|within 1\.\.2"):
            export(tmp_path, [(2, 2)], split.enrolled[:1], layers=layers)


@pytest.mark.parametrize("images", ["none", "text"])
def test_unusable_check_images_are_refused(images, tmp_path):
    paths = []
    if images == "text":
        paths = [tmp_path / "note.png"]
        paths[0].write_text("no image")
    with pytest.raises(InvalidGeometryError, match="image"):
        export(tmp_path / "out", [(2, 2)], paths, layers=[1])


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
    with pytest.raises(ManifestError, match="build it again"):
        read_artefact(tmp_path)


def test_manifest_of_other_fields_is_refused(artefacts_dir, tmp_path):
    record = json.loads((artefacts_dir / "dinov2_vits14_448" / "manifest.json").read_text())
    del record["grid"]
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="lacks \\['grid'\\]"):
        read_artefact(tmp_path)


def test_empty_folder_says_what_to_run(tmp_path):
    with pytest.raises(ManifestError, match="dinspect export"):
        read_backbones(tmp_path)


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


def test_weights_too_large_for_one_file_lie_beside_it(monkeypatch, split, tmp_path):
    """As those of ViT-g do, whose graph would exceed the 2 GB of one ONNX file."""
    monkeypatch.setattr(onnx_graph, "_ONE_FILE_LIMIT_BYTES", 1_000_000)
    (artefact,) = export(tmp_path, [(2, 2)], split.enrolled[:1], layers=[1])
    assert set(artefact.manifest.files) == {
        "model.onnx", "model.onnx.data", "known_answer.safetensors"
    }  # fmt: skip
    digest = artefact.manifest.onnx_sha256
    with (artefact.path / "model.onnx.data").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(ManifestError, match=r"model\.onnx\.data is missing or not"):
        read_artefact(artefact.path)
    files = artefact.manifest.files | {"model.onnx.data": "0" * 64}
    assert dataclasses.replace(artefact.manifest, files=files).onnx_sha256 != digest


@pytest.mark.parametrize("items", [1, 3])
def test_fixed_batch(split, tmp_path, items):
    from dinspect_export.onnx_export import BackboneExporter
    from dinspect_export.recipes import backbone_recipe

    check = CheckImages(images=tuple(split.enrolled[:1]))
    exporter = BackboneExporter(Weights("packaged", "dinov2_vits14", tmp_path), check, tmp_path)
    digest = exporter.checkpoint.sha256
    recipe = backbone_recipe(
        "dinov2_vits14", digest, (2, 2), check=check, layers=[1], batch=(items, items)
    )  # fmt: skip
    artefact = exporter.export(recipe)
    (pixels,) = onnx.load(str(artefact.path / "model.onnx")).graph.input
    assert [dim.dim_value for dim in pixels.type.tensor_type.shape.dim] == [items, 28, 28, 3]
