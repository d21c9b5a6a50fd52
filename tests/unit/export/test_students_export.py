"""Students in a build: one description, their graphs and their engines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from descriptions import CHECK, ENGINE, dinspect, write_description

from dinspect_export import students_export
from dinspect_export.build import build, check
from dinspect_export.description import read_description
from dinspect_export.errors import CheckpointError, DescriptionError, ParityError
from dinspect_export.manifest import StudentsManifest
from dinspect_export.student_files import save_students
from dinspect_export.students import StudentPair, TrainedStudents
from dinspect_export.students_export import StudentsTolerances
from dinspect_export.variants import variant_by_name

VARIANT = variant_by_name("dinov2_vits14")
STUDENTS = """
[[students]]
product = "screw"
variant = "dinov2_vits14"
sizes = [56, "28x42"]
"""
OURS = STUDENTS + 'weights = "screw.safetensors"\n'
OFFICIAL = STUDENTS + 'forward = "forward_net_screw.pth"\nbackward = "backward_net_screw.pth"\n'
NAMES = [
    "l2bt_screw_56_students",
    "l2bt_screw_56_students_fp16",
    "l2bt_screw_28x42_students",
    "l2bt_screw_28x42_students_fp16",
]


@pytest.fixture
def folder(tmp_path):
    """Students as files of both kinds."""
    torch.manual_seed(0)
    pair = StudentPair(VARIANT.dim).eval().requires_grad_(False)
    save_students(TrainedStudents(pair, VARIANT, (8, 12)), tmp_path / "screw.safetensors")
    torch.save(pair.forward_student.state_dict(), tmp_path / "forward_net_screw.pth")
    torch.save(pair.backward_student.state_dict(), tmp_path / "backward_net_screw.pth")
    return tmp_path


def built(folder, text):
    return list(build(read_description(write_description(folder, CHECK + text))))


def test_both_kinds_of_files_give_the_same_graphs_and_engines(folder):
    pytest.importorskip("tensorrt_rtx")
    first = built(folder, OURS + ENGINE)
    assert [o.name for o in first] == [*NAMES, *(f"{n}.tensorrt-rtx" for n in NAMES if "fp16" in n)]
    assert {o.action for o in first} == {"built"}
    manifest = first[1].manifest
    assert isinstance(manifest, StudentsManifest)
    assert (manifest.product, manifest.layers, manifest.precision) == ("screw", [8, 12], "fp16")
    (proof,) = manifest.proof
    assert 0 < proof["max_score_change"] < manifest.tolerances["max_score_change"] == 0.01
    engine = first[-1].manifest.to_dict()
    assert engine["tolerances"] == manifest.tolerances
    assert set(engine["profile"]) == {"patch_tokens_8", "patch_tokens_12"}

    again = built(folder, OFFICIAL + ENGINE)
    assert [o.action for o in again] == ["built"] * 4 + ["current"] * 2  # same bytes, same engines
    assert [o.action for o in built(folder, OFFICIAL + ENGINE)] == ["current"] * 6


def test_distance_is_part_of_the_recipe(folder):
    built(folder, OURS)
    path = write_description(folder, CHECK + OURS + 'metric = "cosine"\n')
    reasons = [o.reasons for o in check(read_description(path))]
    assert reasons == [["distance metric: euclidean -> cosine"]] * 4


def test_disagreement_writes_nothing(folder, monkeypatch):
    strict = StudentsTolerances(max_distance_change=0.0, max_score_change=1.0)
    monkeypatch.setitem(students_export.TOLERANCES, "fp16", strict)
    with pytest.raises(ParityError, match="a patch distance changes by .* allowed is 0.0000%"):
        built(folder, OURS)
    left = (folder / "build" / "artefacts").glob("[!.]*")
    assert [path.name for path in left] == [NAMES[0]]


def test_figures_that_are_no_numbers_fail():
    class Broken:
        name = "broken"

        def close(self):
            pass

        def run(self, inputs):
            return {"patch_distances": np.full((1, 2, 3), np.nan, np.float32)}

    from dinspect_export.recipes import StudentsRecipe

    distance = {"normalisation": "l2", "metric": "euclidean", "combination": "product"}
    recipe = StudentsRecipe(
        "screw", "dinov2_vits14", "", (2, 3), (8, 12), "fp32", distance, "", {}
    )  # fmt: skip
    pair = StudentPair(VARIANT.dim).requires_grad_(False)
    students = TrainedStudents(pair, VARIANT, (8, 12))
    proof = students_export.StudentsReference(students, recipe).prove(
        Broken(), StudentsTolerances(1.0, 1.0)
    )
    assert len(proof.failures) == 2


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (('"dinov2_vits14"', '"dinov2_vits14_reg"'), CheckpointError, "is described"),
        (("sizes =", "layers = [4, 8]\nsizes ="), CheckpointError, r"blocks \[4, 8\], is described"),
        (('"screw.safetensors"', '"gone.safetensors"'), DescriptionError, "there is no file"),
        (("sizes =", 'forward = "f.pth"\nsizes ='), DescriptionError, "either weights, or forward"),
        (("sizes =", "batch = {max = 4}\nsizes ="), DescriptionError, "batches of 1 to 8"),
        (('"screw"\n', '"Screw 1"\n'), DescriptionError, "String should match"),
    ],
)  # fmt: skip
def test_students_of_something_else_are_refused(folder, change, error, reason):
    text = OURS.replace(*change)
    assert text != OURS
    with pytest.raises(error, match=reason):
        built(folder, text)


def test_command_shows_the_figures(folder):
    done = dinspect("build", write_description(folder, CHECK + OURS))
    assert done.returncode == 0, done.stderr
    assert "l2bt_screw_56_students_fp16 in" in done.stdout
    assert "largest change of a patch distance" in done.stdout
