"""Files are whole or not there, and are known by their digest."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from durable_files import (
    flush,
    read_tensors,
    replace_durably,
    sha256_of_file,
    write_durably,
    write_tensors,
)
from memory_bank import MemoryBank
from refusals import InspectionRefused

WHAT = "the memory bank of version 3 of product 'screw'"


@pytest.fixture
def flushed(monkeypatch):
    """Names of the files and folders that were waited for, in order."""
    names = []
    fsync = os.fsync

    def noted(descriptor):
        names.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_digest_is_that_of_the_whole_file(tmp_path):
    content = os.urandom(3 * 2**20 + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").write_bytes(b"")
    assert sha256_of_file(tmp_path / "empty") == hashlib.sha256(b"").hexdigest()


def test_tensors_come_back_by_their_digest(tmp_path, flushed):
    tensors = {
        "rows": np.arange(6, dtype=np.float32).reshape(3, 2).T,  # not contiguous
        "index": np.array([3, 1], np.int32),
        "mask": np.array([[1, 0]], np.uint8),
    }
    digest = write_tensors(tmp_path / "file", tensors)
    assert flushed == ["file"]
    assert digest == sha256_of_file(tmp_path / "file")
    read = read_tensors(tmp_path / "file", digest, WHAT)
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert np.array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_same_tensors_make_the_same_file(tmp_path):
    tensors = {"b": np.zeros(3, np.float32), "a": np.ones(2, np.int32)}
    first = write_tensors(tmp_path / "1", tensors)
    assert write_tensors(tmp_path / "2", tensors) == first
    assert write_tensors(tmp_path / "3", tensors | {"a": np.zeros(2, np.int32)}) != first


@pytest.mark.parametrize("position", [0, 8, -1])
def test_one_changed_bit_is_noticed(tmp_path, position):
    digest = write_tensors(tmp_path / "file", {"rows": np.ones((4, 4), np.float32)})
    content = bytearray((tmp_path / "file").read_bytes())
    content[position] ^= 1
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InspectionRefused, match=f"{WHAT} is damaged; enrol the product again"):
        read_tensors(tmp_path / "file", digest, WHAT)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InspectionRefused, match=f"{WHAT} is missing"):
        read_tensors(tmp_path / "file", "0" * 64, WHAT)


def test_folder_in_the_place_of_a_file_is_refused_without_its_path(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(
        InspectionRefused, match=f"{WHAT} cannot be read: Is a directory"
    ) as refused:
        read_tensors(tmp_path / "file", "0" * 64, WHAT)
    assert str(tmp_path) not in str(refused.value)


def _with_header(header, data=b""):
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tensors at all",
        struct.pack("<Q", 2**60) + b"{}",
        _with_header({"rows": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 8),
        _with_header({"rows": {"dtype": "F7", "shape": [2], "data_offsets": [0, 2]}}, b"\0\0"),
    ],
    ids=["empty", "text", "endless header", "too short", "unknown type"],
)
def test_file_with_the_right_digest_that_holds_no_tensors_is_refused(tmp_path, content):
    """Whoever sends a product also says which digest its files have."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InspectionRefused, match=f"{WHAT} cannot be read"):
        read_tensors(tmp_path / "file", hashlib.sha256(content).hexdigest(), WHAT)


@pytest.mark.parametrize(("dtype", "item_bytes"), [("BF16", 2), ("F8_E4M3", 1)])
def test_type_that_numpy_may_not_have_makes_no_bank(tmp_path, dtype, item_bytes):
    """It has them once something imports ml_dtypes; then the bank's own check refuses them."""
    entry = {"dtype": dtype, "shape": [1, 2], "data_offsets": [0, 2 * item_bytes]}
    content = _with_header({"memory_bank": entry}, bytes(2 * item_bytes))
    (tmp_path / "file").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        InspectionRefused, match=f"{WHAT} cannot be read|'memory_bank' is .*float8?"
    ):
        MemoryBank.from_tensors(read_tensors(tmp_path / "file", digest, WHAT))


def test_file_that_goes_away_while_it_is_read_is_refused(tmp_path, monkeypatch):
    digest = write_tensors(tmp_path / "file", {"rows": np.ones(4, np.float32)})

    def then_deleted(path):
        found = sha256_of_file(path)
        path.unlink()
        return found

    monkeypatch.setattr("durable_files.sha256_of_file", then_deleted)
    with pytest.raises(InspectionRefused, match=f"{WHAT} cannot be read"):
        read_tensors(tmp_path / "file", digest, WHAT)


def test_write_waits_for_the_disk(tmp_path, flushed):
    write_durably(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert flushed == ["file"]
    flush(tmp_path)
    assert flushed == ["file", tmp_path.name]


def test_replaced_file_is_the_old_or_the_new_one_whenever_it_fails(tmp_path, monkeypatch, flushed):
    replace_durably(tmp_path / "current", "1\n")
    replace_durably(tmp_path / "current", "12\n")
    assert (tmp_path / "current").read_text() == "12\n"
    assert [name.partition("current")[0] for name in flushed] == [".", tmp_path.name] * 2
    assert os.listdir(tmp_path) == ["current"]

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    for owner, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, full_disk)
            with pytest.raises(OSError, match="No space left"):
                replace_durably(tmp_path / "current", "345\n")
        assert (tmp_path / "current").read_text() == "12\n"
    assert all(name == "current" or name.startswith(".current.") for name in os.listdir(tmp_path))
