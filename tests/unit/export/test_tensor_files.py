from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinspect_export.errors import CheckpointError
from dinspect_export.tensor_files import read_tensors

STATE = {"a": torch.randn(64, 64), "b": torch.randn(3).double(), "c": torch.randn(2, 3).T}


@pytest.fixture(params=["w.pth", "w.safetensors", "old.pth"])
def weight_file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in STATE.items()}, path)
    else:
        new = request.param == "w.pth"
        torch.save(STATE, path, _use_new_zipfile_serialization=new)
    return path


def test_tensors_come_back_as_contiguous_float32(weight_file):
    tensors = read_tensors([weight_file])
    assert set(tensors) == set(STATE)
    for name, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert torch.equal(tensor, STATE[name].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_half_precision_is_read_as_float32(dtype, name, tmp_path):
    half = {"a": STATE["a"].to(dtype)}
    torch.save(half, tmp_path / name) if name == "w.pth" else save_file(half, tmp_path / name)
    (tensor,) = read_tensors([tmp_path / name]).values()
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, half["a"].float())


def test_content_and_not_the_name_tells_the_format(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "really_safetensors.pth")
    torch.save({"b": torch.ones(1)}, tmp_path / "really_torch.safetensors")
    assert set(read_tensors(sorted(tmp_path.iterdir()))) == {"a", "b"}


@pytest.mark.parametrize("length", [0x80, 0x150])
def test_safetensors_are_known_by_their_header_whatever_its_length(length, tmp_path):
    """A length that begins with 0x80 looks like the start of a pickle."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    content = struct.pack("<Q", length) + header.ljust(length).encode() + struct.pack("<f", 2.5)
    (tmp_path / "w.safetensors").write_bytes(content)
    assert read_tensors([tmp_path / "w.safetensors"])["a"].tolist() == [2.5]


@pytest.mark.parametrize("kept", [20, 0.3, 0.99])
def test_truncated_file_is_refused(weight_file, kept):
    content = weight_file.read_bytes()
    weight_file.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=rf"{weight_file.name}.*truncated"):
        read_tensors([weight_file])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "pointer"),
        (b"not weights", "no weight file"),
    ],
)
def test_what_is_no_weight_file_is_refused(content, said, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_tensors([tmp_path / "w.pth"])


def test_pickled_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match=r"never unpickled") as raised:
        read_tensors([tmp_path / "bomb.pth"])
    assert "False" not in str(raised.value)  # PyTorch's own advice
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": STATE, "epoch": 3}, r"\['model', 'epoch'\]"),
        ({7: torch.ones(1)}, r"\[7\]"),
        ([torch.ones(1)], "list"),
        (torch.ones(1), "Tensor"),
    ],
)
def test_anything_but_a_state_dict_is_refused(content, said, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"no state dict of tensors but .*{said}"):
        read_tensors([tmp_path / "w.pth"])


def test_file_without_tensors_is_refused(tmp_path):
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_tensors([tmp_path / "w.pth"])


@pytest.mark.parametrize("tensor", [torch.ones(2, dtype=torch.int8), torch.eye(2).to_sparse()])
def test_quantised_and_sparse_weights_are_refused(tensor, tmp_path):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="a is torch.*quantised"):
        read_tensors([tmp_path / "w.pth"])


def test_name_in_two_shards_is_refused(tmp_path):
    for name in ("1.safetensors", "2.safetensors"):
        save_file({"a": torch.ones(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"2\.safetensors holds a, which another shard"):
        read_tensors(sorted(tmp_path.iterdir()))


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read"):
        read_tensors([tmp_path / "gone.pth"])
