"""Step ``engines``: an engine of every FP16 graph for this GPU, proven on it.

TensorRT-RTX names no compute capability of some GPUs (9.0 among them), so it is asked for the GPU
at hand first, and then for what it builds by itself. Without a GPU engines are built and not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.built import BUILT, PROVEN, engine_file
from dinspect_bench.gpu.parity import figures_of
from dinspect_bench.gpu.plants import plants
from dinspect_bench.gpu.runners import DeviceEngineRunner
from dinspect_bench.gpu.session import GpuRun, reason_of
from dinspect_export.build_items import BackboneItem, EngineItem, StudentsItem
from dinspect_export.build_plan import Plan
from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.manifest import ENGINE_FILE, EngineManifest, read_manifest
from dinspect_export.proof import Proof
from dinspect_export.runtimes import EngineRunner
from dinspect_export.variants import variant_by_name


def build_engines(run: GpuRun, target: str) -> None:
    """Build, prove and record, engine by engine.

    Args:
        run: The run.
        target: ``tensorrt`` or ``tensorrt-rtx``; one per process, as Polygraphy wants it.

    Raises:
        ExportError: If nothing can be described: weights or images are missing.
    """
    for entry in attempts(target, run.scope.device):
        for plant, description in plants(run, [entry]).items():
            for engine in Plan(description, download=False).engines:
                _build_row(run, plant, engine, target)


def attempts(target: str, device: str) -> list[dict[str, Any]]:
    """``[[engine]]`` entries, the next of which is for what the one before could not prove."""
    if target == "tensorrt":
        return [{"target": target}]
    default = {"target": target, "name": f"{target}-defaults"}
    current = {"target": target, "compute_capabilities": ["current"]}
    return [current, default] if device == "cuda" else [default]


def _build_row(run: GpuRun, plant: str, engine: EngineItem, target: str) -> None:
    graph = engine.graph
    if not isinstance(graph, BackboneItem | StudentsItem):
        raise BenchmarkError(f"{engine.name} is of a graph made elsewhere; none is described here")
    recipe = graph.recipe
    key = {
        "part": "backbone" if isinstance(graph, BackboneItem) else "students",
        "backbone": recipe.variant,
        "resolution": recipe.grid[0] * variant_by_name(recipe.variant).patch_size,
        "graph": graph.name,
        "target": target,
    }
    known = run.find("engine", **key, status=PROVEN)
    if known is not None and engine_file(run, known["plant"], known["artefact"]).is_file():
        return
    own = key | {"plant": plant, "artefact": engine.name}
    # What was only built may run on the GPU by now, for another TensorRT makes the step undone.
    again = run.scope.device == "cuda" or not (engine.path / ENGINE_FILE).is_file()
    run.row("engine", own, lambda: _built(run, engine, graph), again=again)
    if run.find("engine", **own, status=PROVEN) is not None:
        plan = engine.path / ENGINE_FILE
        run.row(
            "parity",
            {"weights": plant, "artefact": engine.name, "runtime": f"{target}, timed"},
            lambda: figures_of(graph.prove(DeviceEngineRunner(plan, target))),
        )


def _built(run: GpuRun, engine: EngineItem, graph: BackboneItem | StudentsItem) -> dict[str, Any]:
    """Build what is not current; the gate is in it where a GPU is known to run the engine."""
    if graph.stale_reasons():
        graph.make()
    manifest = engine.make() if engine.stale_reasons() else read_manifest(engine.path)
    if not isinstance(manifest, EngineManifest):
        raise BenchmarkError(f"{engine.name} is no engine; remove its folder")
    return {**facts_of(manifest), **_proof_of(run, engine, graph, manifest)}


def facts_of(manifest: EngineManifest) -> dict[str, Any]:
    """What the page tells of an engine."""
    inspection = manifest.inspection
    return {
        "compute_capabilities": manifest.compute_capabilities,
        "targets": inspection.get("targets"),
        "size_bytes": inspection["size_bytes"],
        "fused_attention_kernels": inspection["fused_attention_kernels"],
        "fused_attention_layers": inspection.get("fused_attention_layers"),
    }


def _proof_of(
    run: GpuRun,
    engine: EngineItem,
    graph: BackboneItem | StudentsItem,
    manifest: EngineManifest,
) -> Mapping[str, Any]:
    """The build's own proof; else, with a GPU, one made now, whatever the engine says it is for.

    Raises:
        ParityError: If the engine runs and disagrees.
    """
    if manifest.proof:
        (figures,) = manifest.proof
        return {"status": PROVEN, "remark": "", **figures_of(Proof(engine.target, figures, []))}
    if run.scope.device == "cpu":
        return {"status": BUILT, "remark": "there is no GPU"}
    try:
        runner = EngineRunner(engine.path / ENGINE_FILE, engine.target)
    except RuntimeUnavailableError as error:
        return {"status": BUILT, "remark": reason_of(error)}
    proof = graph.prove(runner).demanded_of(engine.name)
    return {"status": PROVEN, "remark": "", **figures_of(proof)}
