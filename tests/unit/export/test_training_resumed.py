"""A training that was stopped or killed comes to the same bytes; what is no checkpoint is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest
from small_trainings import (
    OPTIONS,
    StopHereError,
    make_cache,
    numbers_of,
    same,
    stop_after,
    train,
    weights,
)

from dinspect_export import training
from dinspect_export.errors import (
    CheckpointError,
)
from dinspect_export.student_files import save_students

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("interval_s", "steps_redone"), [(1e9, 1), (0.0, 0)])
def test_stopped_training_goes_on_from_its_last_checkpoint(
    cache, tmp_path, monkeypatch, precision, interval_s, steps_redone
):
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", interval_s)
    options = dataclasses.replace(OPTIONS, precision=precision)
    expected, expected_report = train(cache, options)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(StopHereError):  # in the middle of the second of three epochs
        train(cache, options, checkpoint=path, on_step=stop_after(3))
    steps = []
    students, report = train(
        cache, options, checkpoint=path, on_step=lambda step, *_: steps.append(step)
    )
    assert steps == list(range(4 - steps_redone, 7))
    assert same(weights(students), weights(expected))
    assert dataclasses.replace(report, duration_s=0) == dataclasses.replace(
        expected_report, duration_s=0
    )


def test_finished_checkpoint_holds_the_result(cache, tmp_path):
    path = tmp_path / "new" / "checkpoint.safetensors"
    expected, expected_report = train(cache, checkpoint=path)
    written = path.read_bytes()
    students, report = train(cache, checkpoint=path, on_step=stop_after(1))
    assert same(weights(students), weights(expected))
    assert report == expected_report
    assert path.read_bytes() == written
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_checkpoints_of_a_long_epoch_keep_their_distance_in_time(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_INTERVAL_S", 0.5)
    path = tmp_path / "checkpoint"
    written = []

    def on_step(step, num_steps, loss):
        written.append(numbers_of(path)[0] if path.exists() else 0)
        if step == 1:
            time.sleep(0.5)

    options = dataclasses.replace(OPTIONS, epochs=1, batch_images=1)
    train(cache, options, indices=[0, 1, 2, 0], checkpoint=path, on_step=on_step)
    assert written == [0, 2, 2, 4]


def test_checkpoint_is_replaced_and_never_written_over(cache, tmp_path):
    path, kept = tmp_path / "checkpoint", tmp_path / "kept"
    with pytest.raises(StopHereError):
        train(cache, checkpoint=path, on_step=stop_after(2))
    os.link(path, kept)
    before = kept.read_bytes()
    train(cache, checkpoint=path)
    assert kept.read_bytes() == before != path.read_bytes()


# As in test_token_cache.py: each process is killed at a later line than the one before it.
KILLED_EVERYWHERE = """
import dataclasses, itertools, os, signal, sys
from pathlib import Path
import torch
import small_trainings as tests
from dinspect_export import training
from dinspect_export.token_cache import TokenCache, TokenCacheKey
torch.set_num_threads(1)
base = Path(sys.argv[1])
cache = TokenCache.open(base / "cache", TokenCacheKey(**eval(sys.argv[2])), 10**9)
options = training.TrainingOptions(epochs=2, batch_images=2)
path = base / "checkpoint"
training.CHECKPOINT_INTERVAL_S = 0.0

def die_at(number):
    lines = itertools.count(1)
    def trace(frame, event, _):
        if not frame.f_code.co_filename.endswith(("/training.py", "artefact_store.py")):
            return None
        if event == "line" and next(lines) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

def trained():
    students, report = tests.train(cache, options, checkpoint=path)
    return tests.weights(students), dataclasses.replace(report, duration_s=0)

resumed_at = set()
expected, expected_report = trained()
for number in itertools.count(1, 23):
    path.unlink()
    child = os.fork()
    if child == 0:
        die_at(number)
        trained()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    if path.exists():
        resumed_at.add(training._read_checkpoint(path)[1].num_steps)
    found, report = trained()
    assert report == expected_report, number
    assert tests.same(found, expected), number
    if status == 0:
        break
print(number, sorted(resumed_at))
"""


def test_killed_at_any_line_it_comes_to_the_same_bytes(cache, tmp_path):
    key = repr(dataclasses.asdict(cache.key))
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path), key],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    number, resumed_at = done.stdout.split(" ", 1)
    assert int(number) > 300
    assert resumed_at.strip() == "[1, 2, 3, 4]"


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 4},
        {"learning_rate": 0.02},
        {"batch_images": 3},
        {"seed": 116},
        {"precision": "bf16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_checkpoint_of_other_options_is_not_used(cache, tmp_path, caplog, change):
    path = tmp_path / "checkpoint"
    train(cache, dataclasses.replace(OPTIONS, **change), checkpoint=path)
    students, _ = train(cache, checkpoint=path)
    assert "checkpoint is of another training; it is not used, and replaced" in caplog.text
    assert same(weights(students), weights(train(cache)[0]))


def test_checkpoint_of_other_images_is_not_used(cache, tmp_path, caplog):
    path = tmp_path / "checkpoint"
    expected = weights(train(cache)[0])
    for other, indices in ((cache, (2, 1, 0)), (make_cache(tmp_path / "b", seed=1), (0, 1, 2))):
        caplog.clear()
        train(other, indices=indices, checkpoint=path)
        students, _ = train(cache, checkpoint=path)
        assert "is of another training" in caplog.text
        assert same(weights(students), expected)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def write_text(path):
    path.write_text("a list of groceries")


def write_students(path):
    save_students(train(make_cache(path.with_name("other")))[0], path)


def rename_a_weight(path):
    """Same length, so that all else still fits."""
    path.write_bytes(path.read_bytes().replace(b"output.bias", b"output.bios", 1))


def forget_the_progress(path):
    path.write_bytes(path.read_bytes().replace(b"num_steps", b"num_stops", 1))


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, write_text, write_students, rename_a_weight, forget_the_progress],
    ids=lambda damage: damage.__name__,
)
def test_file_that_is_no_checkpoint_is_refused_and_stays(cache, tmp_path, damage):
    path = tmp_path / "checkpoint"
    train(cache, checkpoint=path)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"{path} is .*delete it to train anew"):
        train(cache, checkpoint=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("before", "after"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_that_wait_give_way_unless_told_otherwise(before, after):
    code = (
        "import os, sys; from dinspect_export.threads import share_the_processor as share; share();"
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    clean = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment = clean | before | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == after
