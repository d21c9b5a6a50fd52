from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dinspect_export.errors import CheckpointError, InvalidGeometryError, UnknownVariantError
from dinspect_export.student_files import (
    RECORD_KEY,
    load_students,
    load_students_safetensors,
    save_students,
)
from dinspect_export.students import StudentPair, TrainedStudents
from dinspect_export.variants import variant_by_name

SMALL = "dinov2_vits14"


class FeatureProjection(torch.nn.Module):
    """The names and shapes of the official class, as `models/students.py` trains and saves it."""

    def __init__(self, in_features, out_features):
        super().__init__()
        between = (in_features + out_features) // 2
        self.input = torch.nn.Linear(in_features, between)
        self.projection = torch.nn.Linear(between, between)
        self.output = torch.nn.Linear(between, out_features)

    def forward(self, x):
        hidden = torch.nn.functional.gelu(self.input(x))
        return self.output(torch.nn.functional.gelu(self.projection(hidden)))


def official(folder, dim, label="final_model_candle_50ep_4bs"):
    """Two networks and the files the official training writes."""
    torch.manual_seed(dim)
    networks, paths = [], []
    for direction in ("forward", "backward"):
        networks.append(FeatureProjection(dim, dim).requires_grad_(False))
        paths.append(folder / f"{direction}_net_{label}.pth")
        torch.save(networks[-1].state_dict(), paths[-1])
    return networks, paths


def load_small(forward, backward):
    return load_students(forward, backward, variant_name=SMALL)


def small_students(seed=0):
    torch.manual_seed(seed)
    return TrainedStudents(StudentPair(384), variant_by_name(SMALL), (3, 9))


def same_weights(one, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "students.safetensors"
    save_students(small_students(), path)
    return path


def rewritten(path, change=lambda state: None, record=None):
    """The file with its parameters, or its record, changed."""
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(state)
    if record is not None:
        metadata = {RECORD_KEY: record}
    save_file(state, str(path), metadata=metadata)
    return path


def test_official_files_load_and_compute_the_same(tmp_path):
    (forward, backward), paths = official(tmp_path, 768)
    students = load_students(*paths)
    assert (students.variant.name, students.layers) == ("dinov2_vitb14_reg", (8, 12))
    tokens = torch.randn(1, 5, 768)
    torch.testing.assert_close(students.pair.forward_student(tokens), forward(tokens))
    torch.testing.assert_close(students.pair.backward_student(tokens), backward(tokens))
    assert not students.pair.training
    assert not any(weight.requires_grad for weight in students.pair.parameters())


def test_official_files_of_another_backbone_are_told_so_by_the_caller(tmp_path):
    _, paths = official(tmp_path, 384)
    students = load_students(*paths, variant_name="dinov2_vits14_reg", layers=(4, 8))
    assert (students.variant.name, students.layers) == ("dinov2_vits14_reg", (4, 8))
    assert students.pair.dim == 384


def test_official_weights_in_half_precision_become_float32(tmp_path):
    _, paths = official(tmp_path, 384)
    state = torch.load(paths[0], weights_only=True)
    torch.save({name: tensor.half() for name, tensor in state.items()}, paths[0])
    assert load_small(*paths).pair.forward_student.input.weight.dtype == torch.float32


def test_files_in_the_wrong_order_are_refused(tmp_path):
    _, (forward, backward) = official(tmp_path, 384)
    for paths in ((backward, forward), (forward, forward), (backward, backward)):
        with pytest.raises(CheckpointError, match="other way round, so swap them"):
            load_small(*paths)


@pytest.mark.parametrize("which", [0, 1])
def test_another_width_is_refused_and_named(which, tmp_path):
    _, paths = official(tmp_path, 768)
    _, other = official(tmp_path, 384, label="small")
    paths[which] = other[which]
    with pytest.raises(CheckpointError) as caught:
        load_students(*paths)
    message = str(caught.value)
    assert message.startswith(f"{other[which]} is not a student of dinov2_vitb14_reg")
    assert "as wide as the tokens of dinov2_vits14, dinov2_vits14_reg)" in message
    assert "wrong shape input.weight (384, 384) instead of (768, 768)" in message


@pytest.mark.parametrize("which", [0, 1])
def test_missing_and_left_over_parameters_are_named(which, tmp_path):
    _, paths = official(tmp_path, 384)
    state = torch.load(paths[which], weights_only=True)
    del state["projection.bias"]
    state["extra.weight"] = torch.zeros(2)
    torch.save(state, paths[which])
    with pytest.raises(
        CheckpointError, match=r"missing projection\.bias; left over extra\.weight; wrong shape not"
    ) as caught:
        load_small(*paths)
    assert str(paths[which]) in str(caught.value)


def test_a_backbone_is_no_student(tmp_path):
    _, paths = official(tmp_path, 384)
    torch.save({f"blocks.{number}.x": torch.zeros(1) for number in range(20)}, paths[0])
    with pytest.raises(CheckpointError, match=r"left over blocks\.0\.x.* and 14 more"):
        load_small(*paths)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    (_, backward), paths = official(tmp_path, 384)
    backward.output.weight[3, 4] = value
    torch.save(backward.state_dict(), paths[1])
    with pytest.raises(CheckpointError, match=r"NaN or infinity in output\.weight") as caught:
        load_small(*paths)
    assert str(paths[1]) in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "list"])
def test_unreadable_files_are_refused(damage, tmp_path):
    _, paths = official(tmp_path, 384)
    content = paths[1].read_bytes()
    paths[1].unlink()
    if damage == "cut":
        paths[1].write_bytes(content[: len(content) // 2])
    elif damage == "text":
        paths[1].write_text("<html>not found</html>")
    elif damage == "list":
        torch.save([torch.zeros(2)], paths[1])
    with pytest.raises(CheckpointError, match=r"backward_net_.*\.pth"):
        load_small(*paths)


def test_pickled_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    _, paths = official(tmp_path, 384)
    torch.save({"input.weight": Bomb()}, paths[0])
    with pytest.raises(CheckpointError):
        load_small(*paths)
    assert not (tmp_path / "ran").exists()


def test_impossible_blocks_and_backbones_are_refused(tmp_path):
    _, paths = official(tmp_path, 384)
    with pytest.raises(InvalidGeometryError, match="within 1..12"):
        load_students(*paths, variant_name=SMALL, layers=(12, 8))
    with pytest.raises(UnknownVariantError):
        load_students(*paths, variant_name="resnet50")


def test_saved_students_come_back(ours):
    written, found = small_students(), load_students_safetensors(ours)
    assert same_weights(written.pair, found.pair)
    assert (found.variant.name, found.layers) == (SMALL, (3, 9))
    assert not found.pair.training
    assert not any(weight.requires_grad for weight in found.pair.parameters())


def test_file_says_what_it_holds(ours):
    with safe_open(str(ours), framework="pt") as file:
        record = json.loads(file.metadata()[RECORD_KEY])
        names = set(file.keys())
        weight = file.get_tensor("forward.input.weight")
    assert record == {"format_version": 1, "variant": SMALL, "dim": 384, "layers": [3, 9]}
    assert names == {
        f"{direction}.{layer}.{kind}"
        for direction in ("forward", "backward")
        for layer in ("input", "projection", "output")
        for kind in ("weight", "bias")
    }
    assert torch.equal(weight, small_students().pair.forward_student.input.weight)


def test_students_in_half_precision_are_written_as_float32(tmp_path):
    students = small_students()
    students.pair.half()
    save_students(students, tmp_path / "s.safetensors")
    with safe_open(str(tmp_path / "s.safetensors"), framework="pt") as file:
        assert file.get_tensor("forward.input.weight").dtype == torch.float32


def test_same_students_give_the_same_bytes(tmp_path):
    contents = set()
    for number in range(5):
        save_students(small_students(), tmp_path / f"{number}")
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1


def test_saving_replaces_and_leaves_nothing_else(ours):
    save_students(small_students(seed=1), ours)
    assert same_weights(load_students_safetensors(ours).pair, small_students(seed=1).pair)
    assert list(ours.parent.iterdir()) == [ours]


def test_failed_write_leaves_the_old_file(ours, monkeypatch):
    def full(descriptor):
        raise OSError("no space left on device")

    before = ours.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_students(small_students(seed=1), ours)
    assert ours.read_bytes() == before
    assert list(ours.parent.iterdir()) == [ours]


def test_diverged_students_are_not_written(ours):
    before = ours.read_bytes()
    students = small_students()
    students.pair.forward_student.input.bias.data[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"NaN or infinity in forward\.input\.bias"):
        save_students(students, ours)
    assert ours.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "cut", "pth"])
def test_unreadable_safetensors_are_refused(damage, ours):
    content = ours.read_bytes()
    ours.unlink()
    if damage == "cut":
        ours.write_bytes(content[:-100])
    elif damage == "pth":
        torch.save(small_students().pair.state_dict(), ours)
    with pytest.raises(CheckpointError, match="missing, truncated, or another format"):
        load_students_safetensors(ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("backward.output.bias"), r"\(backward\) .*missing output\.bias;"),
        (
            lambda state: [state.pop(name) for name in list(state) if name[0] == "f"],
            r"\(forward\) .*missing input\.weight, input\.bias",
        ),
        (
            lambda state: state.update({"forward.x": torch.zeros(1)}),
            r"\(forward\) .*left over x;",
        ),
        (lambda state: state.update({"sideways.input.bias": torch.zeros(1)}), "sideways.input"),
        (
            lambda state: state.update({"forward.input.bias": torch.zeros(768)}),
            r"as wide as .*dinov2_vitb14.*wrong shape input\.bias \(768,\) instead of \(384,\)",
        ),
        (
            lambda state: state["backward.input.bias"].fill_(torch.inf),
            r"\(backward\): NaN or infinity in input\.bias",
        ),
    ],
)
def test_wrong_parameters_are_named(change, message, ours):
    with pytest.raises(CheckpointError, match=message):
        load_students_safetensors(rewritten(ours, change))


GOOD = {"format_version": 1, "variant": SMALL, "dim": 384, "layers": [3, 9]}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{",
        json.dumps(GOOD | {"format_version": 2}),
        json.dumps(GOOD | {"variant": "resnet50"}),
        json.dumps(GOOD | {"variant": ["x"]}),
        json.dumps(GOOD | {"dim": 768}),
        json.dumps(GOOD | {"layers": [3]}),
        json.dumps(GOOD | {"layers": ["3", "9"]}),
        json.dumps(GOOD | {"layers": [3.5, 9]}),
        json.dumps(GOOD | {"layers": None}),
        json.dumps(GOOD | {"more": 1}),
        json.dumps({name: value for name, value in GOOD.items() if name != "dim"}),
    ],
)
def test_damaged_record_is_refused(record, ours):
    with pytest.raises(CheckpointError, match="expected a record of format 1"):
        load_students_safetensors(rewritten(ours, record=record))


def test_file_without_a_record_is_refused(ours):
    with pytest.raises(CheckpointError, match="says of its students nothing"):
        load_students_safetensors(rewritten(ours, record="nothing"))


def test_record_of_impossible_blocks_is_refused(ours):
    record = json.dumps(GOOD | {"layers": [9, 3]})
    with pytest.raises(CheckpointError, match="layers 9 and 3 must be two ascending"):
        load_students_safetensors(rewritten(ours, record=record))
