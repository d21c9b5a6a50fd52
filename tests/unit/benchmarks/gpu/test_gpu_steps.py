"""Tasks in processes of their own: done once, ended in time, and none of them stops the others."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from dinspect_bench.gpu.packages import installed_versions
from dinspect_bench.gpu.session import Folders, GpuRun
from dinspect_bench.gpu.steps import (
    STEPS,
    TASKS,
    Task,
    environment_of,
    interpreter_of,
    run_steps,
    run_task,
    versions_of,
)

SCRIPT = """
import json, os, pathlib, signal, subprocess, sys, time
folder, _, task = sys.argv[1:]
with (pathlib.Path(folder) / "began").open("a") as file:
    file.write(task + "\\n")
if task == "rows":
    print("a library's own words")
    print(json.dumps({"reason": "2 rows are missing"}))
    sys.exit(4)
if task == "skipped":
    print(json.dumps({"reason": "no server"}))
    sys.exit(5)
if task == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if task == "silent":
    sys.exit(3)
if task == "slow":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (pathlib.Path(folder) / "child").write_text(str(child.pid))
    time.sleep(60)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(SCRIPT)
    return [str(path), str(tmp_path)]


def tasks(*names, limit_s=30.0):
    return [Task(name, name, limit_s) for name in names]


def began(tmp_path):
    file = tmp_path / "began"
    return file.read_text().split() if file.exists() else []


def go(run, script, names, **options):
    options = {"limit_s": 100.0, **options}
    found = run_steps(run, script, steps=names, tasks=tasks(*names), **options)
    return {task.name: (outcome.status, outcome.reason) for task, outcome in found}


def test_one_failing_task_is_told_and_the_others_go_on(run, script, tmp_path):
    assert go(run, script, ["crash", "rows", "silent", "skipped", "fine", "page"]) == {
        "crash": ("failed", "ended by SIGSEGV"),
        "rows": ("incomplete", "2 rows are missing"),
        "silent": ("failed", "exit status 3"),
        "skipped": ("skipped", "no server"),
        "fine": ("done", ""),
        "page": ("done", ""),
    }
    recorded = {one["task"]: one["status"] for one in run.all("step")}
    assert recorded == {
        "crash": "failed", "rows": "incomplete", "silent": "failed", "skipped": "skipped",
        "fine": "done",
    }  # fmt: skip


def test_done_is_not_repeated_and_all_else_is(run, script, tmp_path):
    go(run, script, ["fine", "rows"])
    assert go(run, script, ["fine", "rows"]).keys() == {"rows"}
    assert go(run, script, ["fine", "rows"], again=["fine"]).keys() == {"fine", "rows"}
    assert began(tmp_path) == ["fine", "rows", "rows", "fine", "rows"]


def test_another_machines_work_is_not_this_ones(run, script, tmp_path):
    go(run, script, ["fine"])
    elsewhere = GpuRun(run.scope, Folders(tmp_path / "elsewhere"), run.page)
    assert go(elsewhere, script, ["fine"]).keys() == {"fine"}


def install(folder, name, version):
    """What pip leaves of a package: its name and version."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_package_that_comes_later_makes_a_task_undone(run, script, tmp_path):
    """Its rows are no longer "not run because it is not installed"."""
    go(run, script, ["fine"])
    install(run.folders.site, "tensorrt", "10.13.0")
    assert go(run, script, ["fine"]).keys() == {"fine"}
    assert run.find("step", task="fine")["versions"]["tensorrt"] == "10.13.0"
    install(run.folders.site, "little_part", "1.0")  # decides nothing
    assert go(run, script, ["fine"]) == {}
    (run.folders.site / "tensorrt-10.13.0.dist-info").rename(tmp_path / "old")
    install(run.folders.site, "tensorrt", "10.14.0")
    assert go(run, script, ["fine"]).keys() == {"fine"}
    assert began(tmp_path) == ["fine"] * 3


def test_task_recorded_without_its_packages_is_looked_at_again(run, script):
    run.append(
        "step", step="fine", task="fine", status="done", reason="", elapsed_s=1.0,
        work=run.folders.identity, versions=None,
    )  # fmt: skip
    assert go(run, script, ["fine"]).keys() == {"fine"}


def test_each_task_has_the_packages_of_its_own_python(run):
    install(run.folders.site, "openvino", "2026.4.1")
    install(run.folders.server_site, "onnxruntime", "1.0.0")
    python = run.folders.server_environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    found = {task.name: versions_of(run, task) for task in TASKS}
    assert found["served"] == {"onnxruntime": "1.0.0", "openvino": "2026.4.1"}
    assert found["parity"] == installed_versions() | {"openvino": "2026.4.1"}


def test_wheels_and_page_are_looked_at_every_time(run, script, tmp_path):
    for _ in range(2):
        go(run, script, ["install", "page"])
    assert began(tmp_path) == ["install", "page"] * 2


def test_task_is_ended_in_time_with_all_it_started(script, tmp_path):
    started = time.monotonic()
    outcome = run_task([sys.executable, *script, "--task", "slow"], dict(os.environ), 4.0)
    assert (outcome.status, outcome.reason) == ("timed out", "after 4 s")
    assert time.monotonic() - started < 30
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}/status")
    while child.exists() and "State:\tZ" not in child.read_text():
        assert time.monotonic() - started < 30  # a busy machine takes a moment to end the killed
        time.sleep(0.1)


def test_what_there_is_no_time_for_is_left_and_the_page_is_written(run, script, tmp_path):
    now = iter([0.0, 0.0, 72.0, 90.0])
    found = go(run, script, ["fine", "late", "page"], limit_s=100.0, now_s=lambda: next(now))
    assert found["late"] == ("no time", "the time was up; start again to go on")
    assert began(tmp_path) == ["fine", "page"]
    assert go(run, script, ["fine", "late", "page"]).keys() == {"late", "page"}


def test_task_gets_no_more_time_than_is_left(run, script, monkeypatch):
    limits = []

    def note(command, environment, limit_s):
        limits.append(limit_s)
        return run_task(command, environment, 30.0)

    monkeypatch.setattr("dinspect_bench.gpu.steps.run_task", note)
    now = iter([0.0, 50.0, 95.0])
    run_steps(
        run, script, steps=["fine", "page"], tasks=tasks("fine", "page"), limit_s=100.0,
        now_s=lambda: next(now),
    )  # fmt: skip
    assert limits == [20.0, 30.0]  # 100 - 50 - what the page may need; and the page in any case


def test_installed_wheels_come_first_on_the_path(run, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = environment_of(run)
    assert environment["PYTHONPATH"] == f"{run.folders.site.resolve()}:/elsewhere"
    assert environment.get("DINSPECT_TRITON") == os.environ.get("DINSPECT_TRITON")
    run.folders.triton.mkdir(parents=True)
    assert environment_of(run)["DINSPECT_TRITON"] == str(run.folders.triton.resolve())


def test_only_the_server_runs_in_its_environment(run):
    python = run.folders.server_environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    found = {task.name: interpreter_of(run, task) for task in TASKS}
    assert found.pop("served") == python.absolute()
    assert set(found.values()) == {Path(sys.executable)}


def test_steps_are_those_of_the_issue_in_their_order():
    wanted = ["install", "parity", "engines", "latency", "peak", "page"]
    assert [step for step in STEPS if step != "served"] == wanted
    # All of it fits the device's twenty minutes in the end, each task one command of ten.
    assert max(task.limit_s for task in TASKS) < 570
