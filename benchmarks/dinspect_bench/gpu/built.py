"""Which engines were built and proven, by the records; needs no package that builds them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dinspect_bench.errors import BenchmarkError, MissingDependencyError
from dinspect_bench.gpu.session import GpuRun
from dinspect_export.engine import TARGETS
from dinspect_export.errors import RuntimeUnavailableError
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
        RuntimeUnavailableError: If there is one that cannot run here; the message is its remark.
        MissingDependencyError: If there is none, and what builds and runs it is not installed.
        BenchmarkError: If there is none although there might be.
    """
    key = {"part": part, "backbone": backbone, "resolution": resolution, "target": target}
    proven = run.find("engine", **key, status=PROVEN)
    file = None if proven is None else engine_file(run, proven["plant"], proven["artefact"])
    if file is not None and file.is_file():
        return file
    last = run.find("engine", **key)
    if last is not None and last["status"] == BUILT:
        raise RuntimeUnavailableError(last["remark"])
    if importlib.util.find_spec(TARGETS[target]) is None:
        raise MissingDependencyError(f"{target} is not installed")
    raise BenchmarkError(
        f"no proven {target} engine of the {part} {backbone} at {resolution}; run the step engines"
    )
