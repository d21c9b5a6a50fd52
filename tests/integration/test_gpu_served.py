"""The GPU script's step that needs the real server, on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dinspect_bench.errors import StepSkipped
from dinspect_bench.gpu.scope import scope_of
from dinspect_bench.gpu.served import measure_served
from dinspect_bench.gpu.session import Folders, GpuRun


@pytest.fixture
def run(tmp_path):
    scope = replace(scope_of("cpu", quick=True), sizes=(448,))
    return GpuRun(scope, Folders(tmp_path / "work"), tmp_path / "page.md")


def test_requests_are_measured_through_the_server(run, artefacts_dir):
    packaged = run.folders.work / "packaged"
    packaged.mkdir(parents=True)
    (packaged / "artefacts").symlink_to(artefacts_dir)
    measure_served(run)
    (record,) = run.all("latency")
    assert (record["part"], record["served"], record["resolution"]) == ("request", True, 448)
    assert record["bank_patches"] == 8 * 1024
    assert record["runtime"].startswith("triton, openvino")
    assert record["num_samples"] == 5
    assert record["num_failed"] == 0
    assert len(record["stages_ms"]) == 4
    assert 0 < sum(record["stages_ms"].values()) < record["num_samples"] * record["mean_ms"]
    assert run.failed == 0


def test_nothing_exported_is_nothing_to_serve(run):
    with pytest.raises(StepSkipped, match="no backbone with the packaged weights"):
        measure_served(run)


def test_missing_server_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DINSPECT_TRITON", str(tmp_path))
    with pytest.raises(StepSkipped, match="cannot run here: no tritonserver below"):
        measure_served(run)
