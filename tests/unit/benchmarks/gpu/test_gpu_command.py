"""The command as a person starts it: once through on the CPU, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from test_gpu_wheels import make_wheel

from dinspect_bench.gpu.command import main
from dinspect_bench.records import RecordFile
from dinspect_export.gpu import visible_gpu

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "benchmarks" / "gpu_run.py"
STEPS = "install,parity,engines,latency,peak"  # the server is started by an integration test


def start(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--steps", STEPS,
         "--output", str(folder / "results"), "--work", str(folder / "work"), *arguments],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """All of it once, with a wheel to install; then once more."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("gpu_run")
    make_wheel(folder / "wheels", "little_part")
    runs = [start(folder, "--wheels", str(folder / "wheels")) for _ in range(2)]
    return folder, *runs


@pytest.fixture
def page(tried):
    return (tried[0] / "results" / "gpu_run_on_a_cpu.md").read_text()


@pytest.fixture
def records(tried):
    return RecordFile(tried[0] / "results" / "gpu_run_on_a_cpu.jsonl").read()


@pytest.mark.timeout(900)  # under a minute on a machine that does nothing else
def test_run_ends_well_and_says_where_the_page_is(tried):
    folder, first, _ = tried
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{folder / 'results' / 'gpu_run_on_a_cpu.md'}\n"


@pytest.mark.timeout(900)
def test_second_run_repeats_nothing(tried, records):
    _, _, second = tried
    assert second.returncode == 0, second.stderr
    lines = second.stderr.splitlines()
    assert [line for line in lines if line.endswith("done before")] == [
        "parity: done before", "engines tensorrt-rtx: done before",
        "latency backbone: done before", "latency knn: done before",
        "latency students,map,after_backbone: done before", "latency whole_image: done before",
        "peak: done before",
    ]  # fmt: skip
    assert not [line for line in lines if line.startswith("  ")]  # no row
    assert len([one for one in records if one["record"] == "wheel"]) == 1


@pytest.mark.timeout(900)
def test_every_runtime_of_this_machine_was_held_to_pytorch(records):
    parity = [one for one in records if one["record"] == "parity"]
    assert all(one["kept"] for one in parity)
    backbone = {
        (one["runtime"], one["artefact"]) for one in parity if one["artefact"].startswith("dino")
    }
    assert backbone == {
        ("onnxruntime", "dinov2_vits14_112"), ("pytorch cpu", "dinov2_vits14_112"),
        ("openvino f32", "dinov2_vits14_112"), ("onnxruntime", "dinov2_vits14_112_fp16"),
        ("pytorch cpu", "dinov2_vits14_112_fp16"),
    }  # fmt: skip
    cosines = [one["min_patch_cosine"] for one in parity if "min_patch_cosine" in one]
    assert min(cosines) > 0.999
    assert {one["images"] for one in parity if "images" in one} == {4}


@pytest.mark.timeout(900)
def test_page_has_every_part_and_what_takes_a_gpu_is_not_run(page):
    for title in (
        "Steps", "The device", "Parity", "Engines", "Latency", "Peaks", "Not run",
    ):  # fmt: skip
        assert f"## {title}\n" in page
    for part in ("Backbone", "L2BT's students", "AnomalyDINO's search", "Map", "Whole image"):
        assert f"### {part}" in page
    assert "| engines tensorrt | skipped |" in page
    assert "dinov2_vits14_112_fp16.tensorrt-rtx-defaults | 8.0, 8.6, 8.9, 12.0, 12.1" in page
    if visible_gpu() is None:
        assert "built, not run | there is no GPU" in page
    assert "engines run on an NVIDIA GPU, and this machine has none" in page
    assert "tensorrt-rtx fp16 |" not in page  # no figure of a run that was none


@pytest.mark.timeout(900)
def test_nothing_that_is_published_names_the_machine(tried, page):
    records = (tried[0] / "results" / "gpu_run_on_a_cpu.jsonl").read_text()
    for text in (page, records):
        assert str(tried[0]) not in text
        assert str(ROOT) not in text
        assert sys.prefix not in text
        assert not re.search(r"(?<![\w.:/<])/(home|root|tmp|usr|opt|work)/", text)


def test_machine_without_a_gpu_is_told_what_can_be_done(capsys, tmp_path):
    if visible_gpu() is not None:
        pytest.skip("this machine has a GPU")
    assert main(SCRIPT, ["--output", str(tmp_path)]) == 2
    assert "with --device cpu the script is tried" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_step_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(SCRIPT, ["--steps", "parity,paint"])
    assert "no step paint; there are install, parity" in capsys.readouterr().err


def go(tmp_path, *arguments):
    folders = ["--output", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    return main(SCRIPT, ["--device", "cpu", "--quick", *folders, *arguments])


def test_task_that_fails_says_why_on_its_last_line(tmp_path, capsys):
    assert go(tmp_path, "--task", "install", "--wheels", str(tmp_path / "nowhere")) == 1
    assert '{"reason": "there is no folder of wheels at nowhere"}' in capsys.readouterr().out
    assert go(tmp_path, "--task", "install") == 5
    assert "no folder of wheels was given" in capsys.readouterr().out


def test_missing_rows_make_a_task_incomplete(tmp_path, monkeypatch, capsys):
    def measure(run, part):
        run.row("latency", {"part": part}, lambda: 1 / 0)

    monkeypatch.setattr("dinspect_bench.gpu.latency.measure_part", measure)
    assert go(tmp_path, "--task", "latency students,map,after_backbone") == 4
    assert "3 rows are missing" in capsys.readouterr().out


def test_disagreement_and_missing_time_are_the_answer_no(tmp_path, capsys):
    assert go(tmp_path, "--steps", "install") == 0
    assert go(tmp_path, "--steps", "install,peak", "--time-limit-s", "0") == 1
    file = RecordFile(tmp_path / "results" / "gpu_run_on_a_cpu.jsonl")
    assert file.find(record="step", task="peak")["status"] == "no time"
    assert go(tmp_path, "--steps", "page") == 0
    file.append({"record": "parity", "quick": True, "artefact": "a", "weights": None,
                 "runtime": "x", "kept": False, "failures": ["far off"]})  # fmt: skip
    assert go(tmp_path, "--steps", "page") == 1


def test_bare_interpreter_can_start_it():
    """Before anything is installed there is nothing but the standard library."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--time-limit-s" in done.stdout


def test_command_that_is_ended_leaves_no_task_behind(tmp_path):
    folders = ["--output", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--steps", "parity"]
    with subprocess.Popen([*command, *folders], stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("  parity: "):  # the task is at work
                break
        (task,) = psutil.Process(process.pid).children()
        process.terminate()
        process.stderr.read()
        assert process.wait() == 128 + signal.SIGTERM
    psutil.wait_procs([task], timeout=10)
    assert not task.is_running()


@pytest.mark.parametrize("module", ["latency", "peak"])
def test_pytorch_is_timed_without_any_wheel(module):
    """What only graphs and engines need is not there before wheels are installed."""
    missing = ("pydantic", "onnx", "onnxruntime", "onnxscript", "openvino", "tritonclient")
    code = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
import dinspect_bench.gpu.{module}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
