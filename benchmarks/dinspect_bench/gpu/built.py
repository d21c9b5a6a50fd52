"""Which engines were built and proven, by the records; needs no package that builds them."""

from __future__ import annotations

from pathlib import Path

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.session import GpuRun
from dinspect_export.manifest import ENGINE_FILE

PROVEN, BUILT = "proven", "built, not run"
"""Status of an engine: it ran here and kept to the gate, or it is only there."""


def engine_file(run: GpuRun, plant: str, artefact: str) -> Path:
    """The file of an engine of a plant, there or not."""
    return run.folders.work.resolve() / plant / "engines" / artefact / ENGINE_FILE


def proven_engine(run: GpuRun, part: str, backbone: str, resolution: int, target: str) -> Path:
    """The file of an engine that agrees with PyTorch on this GPU.

    Args:
        run: The run.
        part: ``backbone`` or ``students``.
        backbone: Variant.
        resolution: Edge of its square input in pixels.
        target: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        BenchmarkError: If there is none.
    """
    key = {"part": part, "backbone": backbone, "resolution": resolution, "target": target}
    record = run.find("engine", **key, status=PROVEN)
    file = None if record is None else engine_file(run, record["plant"], record["artefact"])
    if file is None or not file.is_file():
        raise BenchmarkError(f"no proven {target} engine of the {part} {backbone} at {resolution}")
    return file
