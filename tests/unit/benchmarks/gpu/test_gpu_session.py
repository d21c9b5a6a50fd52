"""Rows that are measured once, rows that fail, and what a published reason may hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dinspect_bench.errors import BenchmarkError, DeviceLostError, MissingDependencyError
from dinspect_bench.gpu.scope import page_name, scope_of
from dinspect_bench.gpu.session import GpuRun, reason_of, without_paths
from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.gpu import Gpu

KEY = {"part": "map", "batch": 1}


def raising(error):
    def measure():
        raise error

    return measure


def test_row_is_measured_once(run):
    run.row("latency", KEY, lambda: {"p50_ms": 1.0})
    run.row("latency", KEY, raising(ValueError("measured again")))
    assert run.failed == 0
    assert run.all("not_run") == []
    (record,) = run.all("latency")
    assert (record["part"], record["batch"], record["p50_ms"]) == ("map", 1, 1.0)
    assert record["quick"] is True
    assert record["created"].endswith("+00:00")
    assert record["environment"]["cpu"]["model"]
    run.row("latency", KEY, lambda: {"p50_ms": 2.0}, again=True)
    assert run.find("latency", **KEY)["p50_ms"] == 2.0


def test_records_of_a_quick_run_are_no_others(run):
    run.row("latency", KEY, lambda: {"p50_ms": 1.0})
    full = GpuRun(replace(run.scope, quick=False), run.folders, run.page)
    assert full.find("latency", **KEY) is None
    assert full.all("latency") == []


def test_failed_row_is_told_counted_and_tried_again(run):
    for _ in range(2):
        run.row("latency", KEY, raising(ValueError("too\n  odd")))
    assert run.failed == 2
    (missing,) = run.all("not_run")
    assert (missing["of"], missing["part"], missing["reason"]) == (
        "latency", "map", "ValueError: too odd",
    )  # fmt: skip
    run.row("latency", KEY, lambda: {"p50_ms": 1.0})
    assert run.find("latency", **KEY) is not None


@pytest.mark.parametrize(
    "error", [MissingDependencyError("no CuPy"), RuntimeUnavailableError("no GPU")]
)
def test_runtime_that_is_not_there_is_no_failure(run, error):
    run.row("latency", KEY, raising(error))
    assert run.failed == 0
    assert run.all("not_run")[0]["reason"] == str(error)


@pytest.mark.parametrize(
    "text",
    ["CUDA error: an illegal memory access was encountered", "cudaErrorIllegalAddress: bad",
     "CUDA_ERROR_LAUNCH_FAILED: it failed"],
)  # fmt: skip
def test_lost_device_ends_the_task(run, text):
    with pytest.raises(DeviceLostError, match="RuntimeError: "):
        run.row("latency", KEY, raising(RuntimeError(text)))
    assert run.failed == 1
    assert len(run.all("not_run")) == 1


@pytest.mark.parametrize(
    "text",
    ["CUDA out of memory. Tried to allocate 20.00 GiB", "cudaErrorMemoryAllocation: out of memory",
     "CUDA_ERROR_OUT_OF_MEMORY: out of memory"],
)  # fmt: skip
def test_memory_that_ran_out_is_a_row_alone(run, text):
    run.row("latency", KEY, raising(RuntimeError(text)))
    assert run.failed == 1


def test_reasons_name_no_path_of_the_machine():
    error = BenchmarkError("cannot parse /home/me/build/model.onnx: node 3")
    assert reason_of(error) == "cannot parse model.onnx: node 3"
    assert without_paths("see file:///a/b, https://host/a/b and 3 MB/s, 1/2") == (
        "see file:///a/b, https://host/a/b and 3 MB/s, 1/2"
    )
    assert without_paths("'/usr/lib/libcuda.so.1' (/tmp/x)") == "'libcuda.so.1' (x)"


def test_long_reasons_are_cut():
    assert len(without_paths("word " * 1000)) == 600


def test_page_is_named_after_the_gpu():
    gpu = Gpu("NVIDIA H100 80GB HBM3", "9.0")
    assert page_name(scope_of("cuda", quick=False), gpu) == "nvidia_h100_80gb_hbm3.md"
    assert page_name(scope_of("cpu", quick=False), gpu) == "gpu_run_on_a_cpu.md"


def test_folder_knows_itself_again(run, tmp_path):
    identity = run.folders.identity
    assert run.folders.identity == identity
    assert replace(run.folders, work=tmp_path / "other").identity != identity
