"""The steps of a run, each task a process of its own with a time limit.

A process of its own, for a task may take the GPU or the interpreter down with it; what it has
measured by then is recorded. A task that is done is not repeated, one that is not goes on from its
last row, so a run may be stopped at any moment and started again. A task is done for the packages
it had: what is installed later may bring rows that could not be measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dinspect_bench.gpu.packages import installed_versions
from dinspect_bench.gpu.session import GpuRun, without_paths

DONE, INCOMPLETE, SKIPPED, FAILED = "done", "incomplete", "skipped", "failed"
TIMED_OUT, NO_TIME = "timed out", "no time"
EXIT_STATUS = {0: DONE, 4: INCOMPLETE, 5: SKIPPED}
"""What a task's process says of itself by its exit status; any other is a failure."""
PAGE_RESERVE_S = 30.0
"""Kept back of the time for the page, which is written whatever else was not done."""
_SHORTEST_S = 5.0
_GRACE_S = 5.0


@dataclass(frozen=True)
class Task:
    """A part of a step.

    Attributes:
        step: The step.
        name: The step's name, with what tells it from the step's other tasks.
        limit_s: Seconds it may take.
        served: Whether it runs in the embedded server's environment, where there is one.
    """

    step: str
    name: str
    limit_s: float
    served: bool = False


TASKS = (
    Task("install", "install", 180),
    Task("parity", "parity", 300),
    Task("engines", "engines tensorrt-rtx", 420),
    Task("engines", "engines tensorrt", 420),
    Task("latency", "latency backbone", 200),
    Task("latency", "latency knn", 180),
    Task("latency", "latency students,map,after_backbone", 150),
    Task("latency", "latency whole_image", 180),
    Task("peak", "peak", 90),
    Task("served", "served", 150, served=True),
    Task("page", "page", 60),
)
STEPS = tuple(dict.fromkeys(task.step for task in TASKS))


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        status: ``done``; ``incomplete`` when rows of it failed; ``skipped`` when it does not apply
            here; ``failed``; ``timed out``; ``no time`` when it was not begun.
        reason: Why it is not done; empty when it is.
        elapsed_s: Seconds it took.
    """

    status: str
    reason: str
    elapsed_s: float


def run_steps(
    run: GpuRun,
    arguments: Sequence[str],
    *,
    steps: Sequence[str] = STEPS,
    again: Sequence[str] = (),
    limit_s: float,
    tasks: Sequence[Task] = TASKS,
    now_s: Callable[[], float] = time.monotonic,
) -> list[tuple[Task, Outcome]]:
    """Run what is not done yet, within a time for all together.

    Args:
        run: The run.
        arguments: Of Python, to start this program; ``--task`` and a task's name are added.
        steps: Steps to run.
        again: Steps to run although they are done; rows that are there still stay.
        limit_s: Seconds for all together. What there is no time for is told and left for the next
            start.
        tasks: What the steps consist of.
        now_s: Monotonic clock in seconds.

    Returns:
        The tasks that were run or had no time, with their outcomes; those done before are left out.
    """
    ends_s = now_s() + limit_s
    outcomes = []
    for task in (task for task in tasks if task.step in steps):
        if task.step not in again and _is_done(run, task):
            sys.stderr.write(f"{task.name}: done before\n")
            continue
        reserve_s = 0.0 if task.step == "page" else PAGE_RESERVE_S
        left_s = min(task.limit_s, ends_s - reserve_s - now_s())
        if task.step == "page":
            left_s = max(left_s, PAGE_RESERVE_S)
        if left_s < _SHORTEST_S:
            outcome = Outcome(NO_TIME, "the time was up; start again to go on", 0.0)
        else:
            sys.stderr.write(f"{task.name}: at most {left_s:.0f} s\n")
            command = [str(interpreter_of(run, task)), *arguments, "--task", task.name]
            outcome = run_task(command, environment_of(run), left_s)
        if task.step != "page":
            _record(run, task, outcome)
        outcomes.append((task, outcome))
        sys.stderr.write(f"{task.name}: {outcome.status} {outcome.reason}\n")
    return outcomes


def run_task(command: Sequence[str], environment: dict[str, str], limit_s: float) -> Outcome:
    """Run a process until it ends or its time is up, and nothing of it stays.

    Args:
        command: Its last line on standard output may be JSON with a ``reason``.
        environment: Its environment.
        limit_s: Seconds it may take.
    """
    started_s = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # a group of its own, to end it as a whole
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return Outcome(TIMED_OUT, f"after {limit_s:.0f} s", time.monotonic() - started_s)
    finally:
        _end_group(process)
    elapsed_s = time.monotonic() - started_s
    status = EXIT_STATUS.get(process.returncode, FAILED)
    return Outcome(status, "" if status == DONE else _reason_in(output, process), elapsed_s)


def environment_of(run: GpuRun) -> dict[str, str]:
    """The environment of a task: installed wheels in front, the unpacked server where it is."""
    folders = run.folders
    path = [str(folders.site.resolve()), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if folders.triton.is_dir():
        environment["DINSPECT_TRITON"] = str(folders.triton.resolve())
    return environment


def interpreter_of(run: GpuRun, task: Task) -> Path:
    """The Python a task runs in."""
    own = run.folders.server_environment / "bin" / "python"
    return own.absolute() if task.served and own.exists() else Path(sys.executable)


def versions_of(run: GpuRun, task: Task) -> dict[str, str]:
    """Name to version of the packages that decide what a task can measure, as it sees them.

    Those of its Python come last, behind the installed wheels and whatever else is on the path.
    """
    path = environment_of(run)["PYTHONPATH"].split(os.pathsep)
    if interpreter_of(run, task) == Path(sys.executable):
        return installed_versions([*path, *sys.path])
    return installed_versions([*path, str(run.folders.server_site)])


def latest_outcomes(run: GpuRun) -> dict[str, dict[str, object]]:
    """Task to the record of its last outcome, on whatever machine it was."""
    return {record["task"]: record for record in run.all("step")}


def _is_done(run: GpuRun, task: Task) -> bool:
    """Whether it was done in this very folder, with the packages that are there now.

    Another machine has none of its files. A package that came or changed may give rows that could
    not be measured before; those that were measured stay. Installing is never done: it looks for
    itself what is there, and wheels may have come.
    """
    if task.step == "install":
        return False
    last = run.find("step", task=task.name)
    if last is None or (last["status"], last["work"]) != (DONE, run.folders.identity):
        return False
    return bool(last.get("versions") == versions_of(run, task))


def _record(run: GpuRun, task: Task, outcome: Outcome) -> None:
    run.append(
        "step",
        step=task.step,
        task=task.name,
        status=outcome.status,
        reason=without_paths(outcome.reason),
        elapsed_s=outcome.elapsed_s,
        work=run.folders.identity,
        versions=versions_of(run, task),
    )


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a process and all it started: a server, pip."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_S)
    if process.stdout is not None:
        process.stdout.close()


def _reason_in(output: str, process: subprocess.Popen[str]) -> str:
    lines = output.strip().splitlines()
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(lines[-1])["reason"])
    if process.returncode < 0:
        return f"ended by {signal.Signals(-process.returncode).name}"
    return f"exit status {process.returncode}"
