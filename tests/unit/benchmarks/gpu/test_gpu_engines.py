"""Engines for "the GPU at hand" where there is none: the real TensorRT-RTX, which builds without."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from dinspect_bench.errors import BenchmarkError, MissingDependencyError
from dinspect_bench.gpu import engines
from dinspect_bench.gpu.built import BUILT, PROVEN, proven_engine
from dinspect_bench.gpu.engines import attempts, build_engines
from dinspect_bench.gpu.plants import RANDOM, plants
from dinspect_bench.gpu.scope import scope_of
from dinspect_bench.gpu.session import Folders, GpuRun
from dinspect_export.build_plan import Plan
from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.gpu import visible_gpu
from dinspect_export.proof import Proof

RTX = "tensorrt-rtx"
STUDENTS = ("students", "dinov2_vits14", 28, RTX)


def students_alone(run, entries=()):
    """The smallest thing that is built: no backbone, the students of one."""
    found = plants(run, entries)[RANDOM]
    return {RANDOM: found.model_copy(update={"backbone": [], "students": found.students[:1]})}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with the students' graph in it, exported once."""
    folder = tmp_path_factory.mktemp("exported")
    scope = replace(scope_of("cpu", quick=True), sizes=(28,))
    (described,) = students_alone(
        GpuRun(scope, Folders(folder), folder / "page.md"), [{"target": RTX}]
    ).values()
    (_, half) = Plan(described, download=False).students
    assert half.precision == "fp16"
    half.make()
    return folder


@pytest.fixture
def only_students(monkeypatch, exported, run):
    """Nothing but the students, whose graph is there already."""
    shutil.copytree(exported, run.folders.work)
    monkeypatch.setattr(engines, "plants", students_alone)


@pytest.fixture
def without_a_gpu():
    pytest.importorskip("tensorrt_rtx")
    if visible_gpu() is not None:
        pytest.skip("this machine has a GPU")


def test_the_gpu_at_hand_is_asked_for_first():
    current, default = attempts(RTX, "cuda")
    assert current == {"target": RTX, "compute_capabilities": ["current"]}
    assert default == {"target": RTX, "name": "tensorrt-rtx-defaults"}
    assert attempts(RTX, "cpu") == [default]
    assert attempts("tensorrt", "cuda") == [{"target": "tensorrt"}]


def test_what_cannot_be_built_for_this_gpu_is_built_for_the_defaults(
    run, only_students, without_a_gpu
):
    on_gpu = GpuRun(replace(run.scope, device="cuda"), run.folders, run.page)
    build_engines(on_gpu, RTX)
    (missing,) = on_gpu.all("not_run")
    assert missing["artefact"] == "l2bt_random_vits14_28_students_fp16.tensorrt-rtx"
    assert missing["reason"].startswith("tensorrt-rtx cannot build model.onnx")
    (built,) = on_gpu.all("engine")
    assert (built["status"], built["part"], built["resolution"]) == (BUILT, "students", 28)
    assert built["targets"] == ["8.0", "8.6", "8.9", "12.0", "12.1"]
    assert "this machine has none" in built["remark"]
    assert on_gpu.failed == 1
    with pytest.raises(RuntimeUnavailableError, match="this machine has none"):
        proven_engine(on_gpu, *STUDENTS)


def test_engine_that_is_there_is_not_built_again_and_one_that_is_lost_is(
    run, only_students, without_a_gpu, monkeypatch
):
    build_engines(run, RTX)
    (first,) = run.all("engine")
    assert (first["status"], first["remark"]) == (BUILT, "there is no GPU")
    plan = run.folders.work / RANDOM / "engines" / first["artefact"] / "model.plan"
    before = plan.stat().st_mtime_ns
    build_engines(run, RTX)
    assert plan.stat().st_mtime_ns == before
    assert len(run.all("engine")) == 1
    plan.unlink()
    build_engines(run, RTX)
    assert plan.is_file()
    assert len(run.all("engine")) == 2


def test_engine_that_ran_is_proven_and_found(run, only_students, without_a_gpu, monkeypatch):
    """A stand-in for the engine's run, by the students' own PyTorch; the engine itself is built."""
    proofs = []

    def prove(self, runner):
        proofs.append(runner)
        return Proof(RTX, {"max_distance_change": 1e-3, "max_score_change": 1e-3}, [])

    monkeypatch.setattr(engines, "EngineRunner", lambda plan, target: "the engine")
    monkeypatch.setattr(engines, "DeviceEngineRunner", lambda plan, target: "the timed engine")
    monkeypatch.setattr("dinspect_export.build_items.StudentsItem.prove", prove)
    monkeypatch.setattr(engines, "attempts", lambda target, device: attempts(target, "cpu"))
    on_gpu = GpuRun(replace(run.scope, device="cuda"), run.folders, run.page)
    build_engines(on_gpu, RTX)
    assert proofs == ["the engine", "the timed engine"]
    assert on_gpu.find("engine", status=PROVEN)["max_distance_change"] == 1e-3
    (timed,) = on_gpu.all("parity")
    assert (timed["runtime"], timed["weights"], timed["kept"]) == (
        "tensorrt-rtx, timed", RANDOM, True,
    )  # fmt: skip
    plan = proven_engine(on_gpu, *STUDENTS)
    assert plan.is_file()
    build_engines(on_gpu, RTX)
    assert len(proofs) == 2
    plan.unlink()
    with pytest.raises(BenchmarkError, match="no proven"):
        proven_engine(on_gpu, *STUDENTS)


def test_engine_that_disagrees_is_no_engine(run, only_students, without_a_gpu, monkeypatch):
    monkeypatch.setattr(engines, "EngineRunner", lambda plan, target: "the engine")
    monkeypatch.setattr(
        "dinspect_export.build_items.StudentsItem.prove",
        lambda self, runner: Proof(RTX, {}, ["a patch distance changes by 90 %"]),
    )
    on_gpu = GpuRun(replace(run.scope, device="cuda"), run.folders, run.page)
    monkeypatch.setattr(engines, "attempts", lambda target, device: attempts(target, "cpu"))
    build_engines(on_gpu, RTX)
    assert on_gpu.all("engine") == []
    assert "a patch distance changes by 90 %" in on_gpu.all("not_run")[0]["reason"]
    assert on_gpu.failed == 1


def record_engine(run, status, remark):
    key = dict(zip(("part", "backbone", "resolution", "target"), STUDENTS, strict=True))
    run.append("engine", **key, status=status, remark=remark, plant=RANDOM, artefact="students")


def time_students(run):
    run.row("latency", {"part": "students"}, lambda: proven_engine(run, *STUDENTS))


def test_engine_that_cannot_run_here_is_no_failure(run):
    record_engine(run, BUILT, "The engine cannot run on this GPU.")
    time_students(run)
    assert run.failed == 0
    assert run.all("not_run")[0]["reason"] == "The engine cannot run on this GPU."


def test_engine_that_ran_and_is_lost_is_a_failure(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorrt_rtx" or None)
    record_engine(run, BUILT, "The engine cannot run on this GPU.")
    record_engine(run, PROVEN, "")  # with another TensorRT
    time_students(run)
    assert run.failed == 1
    assert run.all("not_run")[0]["reason"].endswith("at 28; run the step engines")


def test_engine_of_what_is_not_installed_is_no_failure(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    time_students(run)
    assert run.failed == 0
    with pytest.raises(MissingDependencyError, match="tensorrt-rtx is not installed"):
        proven_engine(run, *STUDENTS)


def test_engine_that_was_only_built_is_tried_again_on_a_gpu(
    run, only_students, without_a_gpu, monkeypatch
):
    monkeypatch.setattr(engines, "attempts", lambda target, device: attempts(target, "cpu"))
    on_gpu = GpuRun(replace(run.scope, device="cuda"), run.folders, run.page)
    for _ in range(2):
        build_engines(on_gpu, RTX)
    assert [one["status"] for one in on_gpu.all("engine")] == [BUILT, BUILT]
