"""Step ``served``: the whole inspection through the embedded Triton server, if it starts here.

That server has no backend for GPUs, so these are times of the machine's processor: what a request
costs around the backbone. It is tried, and what is missing is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_bench.errors import StepSkipped
from dinspect_bench.gpu.plants import PACKAGED, plant_folder
from dinspect_bench.gpu.scope import STUDENT_VARIANT
from dinspect_bench.gpu.session import GpuRun

if TYPE_CHECKING:
    from dinspect_bench.latency.single_stream import SingleStreamRun

PRODUCT = "gpu-run"
_NUM_REFERENCES = 8
_NUM_IMAGES = 8
_NUM_WARM_UP = 5
_MAX_SAMPLES = 60
_ENROLL_TIMEOUT_S = 90.0


def measure_served(run: GpuRun) -> None:
    """Enrol solar cells at the smallest size and measure single inspections.

    Raises:
        StepSkipped: If the server, or something it needs, is not installed.
    """
    try:
        from dinspect_server.errors import InstallationError
        from dinspect_server.installation import find_installation

        find_installation()
    except ModuleNotFoundError as error:
        raise StepSkipped(f"the package {error.name} is not installed") from error
    except InstallationError as error:
        raise StepSkipped(f"the embedded server cannot run here: {error}") from error
    if not _artefacts(run).is_dir():
        raise StepSkipped("no backbone with the packaged weights was exported")
    size = run.scope.sizes[0]
    key = {
        "part": "request",
        "served": True,
        "method": "anomaly_dino",
        "backbone": STUDENT_VARIANT,
        "resolution": size,
        "batch": 1,
    }
    run.row("latency", key, lambda: _measure(run, size))


def _measure(run: GpuRun, size: int) -> Mapping[str, Any]:
    from dinspect_bench.datasets.elpv import load_elpv, split_cells
    from dinspect_bench.latency.single_stream import measure_single_stream
    from dinspect_bench.studies.common import own_server
    from dinspect_client import InspectionClient

    split = split_cells(load_elpv())
    images = [path.read_bytes() for path in split.functional[:_NUM_IMAGES]]
    references = list(split.enrolled[:_NUM_REFERENCES])
    with (
        own_server(_artefacts(run), "auto") as server,
        InspectionClient(server.grpc_url, enroll_timeout_s=_ENROLL_TIMEOUT_S) as client,
    ):
        version = client.enroll(PRODUCT, references, resolution=size, preprocessing="informed")
        measured = measure_single_stream(
            client,
            server.grpc_url,
            PRODUCT,
            images,
            ensemble=f"anomaly_dino_{size}",
            num_samples=min(run.scope.max_samples, _MAX_SAMPLES),
            num_warmup=_NUM_WARM_UP,
        )
    return served_figures(
        measured, version.num_patches, version.backbone.runtime, version.backbone.precision
    )


def _artefacts(run: GpuRun) -> Path:
    return plant_folder(run, PACKAGED) / "artefacts"


def served_figures(
    run: SingleStreamRun, num_patches: int, runtime: str, precision: str
) -> dict[str, Any]:
    """Figures of the record.

    Args:
        run: The inspections.
        num_patches: Of the memory bank.
        runtime: Of the backbone, as the server tells.
        precision: Likewise.
    """
    summary = run.summary
    server = run.server
    return {
        "scenario": "single_stream",
        "shots": _NUM_REFERENCES,
        "masking": False,
        "rotation": False,
        "with_map": True,
        "bank_patches": num_patches,
        "runtime": f"triton, {runtime}",
        "precision": precision,
        "p50_ms": summary.p50,
        "p90_ms": summary.p90,
        "p99_ms": summary.p99,
        "mean_ms": summary.mean,
        "std_ms": summary.std,
        "num_samples": summary.count,
        "num_failed": summary.num_failed,
        "stages_ms": {step.name: step.total_ms for step in server.steps} if server else None,
    }
