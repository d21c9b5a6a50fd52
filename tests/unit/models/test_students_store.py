"""Versions of students are whole or not there, and damage is found before it answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bundles import AT
from store_files import hidden, visible
from trainings import GRID, good_distances, graph, publish_trained

from durable_files import sha256_of_file, write_tensors
from refusals import InspectionRefused
from student_thresholds import change_student_thresholds
from students_store import GOOD_PARTS_FILE, STUDENTS_FILE, StudentsStore, read_distances
from version_files import BUNDLE_FILE


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_published_version_is_there_with_all_its_files(store):
    record = publish_trained(store, scale=2.0)
    assert store.products() == {"screw": [1]}
    assert store.resolve("screw") == ("screw", 1)
    assert store.read_bundle("screw", 1) == record
    assert store.students_file(record).read_bytes() == graph(2.0)
    assert np.array_equal(store.read_good_parts(record), good_distances())
    assert visible(store) == [
        "screw/1/bundle.json", "screw/1/good_parts.safetensors", "screw/1/students.onnx",
        "screw/current",
    ]  # fmt: skip
    assert hidden(store) == [".changes.jsonl", ".lock"]
    assert json.loads((store.root / ".changes.jsonl").read_text())["action"] == "published"


def test_next_version_is_in_force_unless_it_waits(store):
    publish_trained(store, activate=False)  # the first always is
    publish_trained(store, scale=2.0)
    publish_trained(store, scale=3.0, activate=False)
    assert store.products() == {"screw": [1, 2, 3]}
    assert store.resolve("screw") == ("screw", 2)
    assert store.activate("screw", 3, "ada", AT).version == 3
    assert store.resolve("screw") == ("screw", 3)


def test_deleted_number_is_not_given_again(store):
    for scale in (1.0, 2.0):
        publish_trained(store, scale=scale)
    with pytest.raises(InspectionRefused, match="version 2 .* is in force"):
        store.delete("screw", 2, "ada", AT)
    assert store.delete("screw", 1, "ada", AT) == [1]
    assert store.delete("screw", None, "ada", AT) == [2]
    with pytest.raises(InspectionRefused, match="unknown product 'screw'; trained for L2BT are"):
        store.resolve("screw")
    assert publish_trained(store).version == 3


def test_changed_thresholds_share_the_files(store):
    base = publish_trained(store)
    made = change_student_thresholds(store, base, {"threshold": 0.5}, "bob")
    for name in (STUDENTS_FILE, GOOD_PARTS_FILE):
        first, second = (store.file("screw", version, name) for version in (1, 2))
        assert first.stat().st_ino == second.stat().st_ino
    assert (made.students_sha256, made.good_parts_sha256) == (
        base.students_sha256, base.good_parts_sha256,
    )  # fmt: skip


@pytest.mark.parametrize("name", [STUDENTS_FILE, GOOD_PARTS_FILE])
def test_damaged_file_is_not_passed_on(store, name):
    base = publish_trained(store)
    flip(store.file("screw", 1, name))
    with pytest.raises(InspectionRefused, match="damaged"):
        change_student_thresholds(store, base, {"threshold": 0.5}, "bob")
    assert store.products() == {"screw": [1]}


@pytest.mark.parametrize("name", [STUDENTS_FILE, GOOD_PARTS_FILE])
def test_missing_file_is_not_passed_on(store, name):
    base = publish_trained(store)
    store.file("screw", 1, name).unlink()
    with pytest.raises(InspectionRefused, match="missing"):
        change_student_thresholds(store, base, {"threshold": 0.5}, "bob")
    assert store.products() == {"screw": [1]}


def test_damaged_students_do_not_come_into_force(store):
    first = publish_trained(store)
    publish_trained(store, scale=2.0)
    flip(store.file("screw", 1, STUDENTS_FILE))
    with pytest.raises(InspectionRefused, match="students of version 1 of product 'screw' are dam"):
        store.activate("screw", 1, "ada", AT)
    store.file("screw", 1, STUDENTS_FILE).unlink()
    with pytest.raises(InspectionRefused, match="cannot be read: No such file"):
        store.students_file(first)
    assert store.resolve("screw") == ("screw", 2)


def test_good_parts_are_not_needed_to_come_into_force(store):
    """They decide nothing any more; a line must not stop for them."""
    publish_trained(store)
    publish_trained(store, scale=2.0)
    flip(store.file("screw", 1, GOOD_PARTS_FILE))
    assert store.activate("screw", 1, "ada", AT).version == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"format_version": 1}'])
def test_damaged_record_is_refused_and_hides_nothing(store, content):
    publish_trained(store)
    publish_trained(store, "nut")
    store.file("screw", 1, BUNDLE_FILE).write_text(content)
    with pytest.raises(InspectionRefused, match="damaged or of another format.*train the product"):
        store.read_bundle("screw", 1)
    assert store.read_bundle("nut", 1).product == "nut"


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "missing"),
        ({"other": np.zeros(3, np.float32)}, "missing"),
        ({"patch_distances": np.zeros((3, 4), np.float32)}, r"float32 \(3, 4\)"),
        ({"patch_distances": np.zeros((3, 2, 3), np.float32)}, r"float32 \(3, 2, 3\)"),
        ({"patch_distances": np.zeros((1, 3, 2, 2), np.float32)}, "1, 3, 2, 2"),
        ({"patch_distances": np.zeros((3, 2, 2))}, "float64"),
        ({"patch_distances": np.zeros((0, 2, 2), np.float32)}, "holds no image"),
        ({"patch_distances": np.full((3, 2, 2), -0.1, np.float32)}, "no distances"),
        ({"patch_distances": np.full((3, 2, 2), np.nan, np.float32)}, "no distances"),
        ({"patch_distances": np.full((3, 2, 2), np.inf, np.float32)}, "no distances"),
    ],
)
def test_good_parts_that_are_none_are_refused(tmp_path, tensors, reason):
    path = tmp_path / "file"
    digest = write_tensors(path, tensors)
    with pytest.raises(InspectionRefused, match=reason):
        read_distances(path, digest, GRID, "the good parts")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"{}", b"\x08" + b"\0" * 7 + b'{"a":1}'])
def test_good_parts_that_are_no_safetensors_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InspectionRefused, match="the good parts cannot be read"):
        read_distances(path, sha256_of_file(path), GRID, "the good parts")
