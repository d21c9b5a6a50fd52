"""An engine as an artefact: its recipe, its proof where a GPU is present, its record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from dinspect_export.artefact_store import staged_folder
from dinspect_export.engine import (
    RTX_DEFAULT_TARGETS,
    TARGETS,
    EngineOptions,
    build_engine,
    fused_attention_layers,
    inspect_plan,
)
from dinspect_export.gpu import Gpu, visible_gpu
from dinspect_export.manifest import (
    ENGINE_FILE,
    EngineManifest,
    installed_versions,
    sha256_of_file,
    write_manifest,
)
from dinspect_export.proof import Proof
from dinspect_export.recipes import code_sha256
from dinspect_export.runtimes import EngineRunner, Runner


@dataclass(frozen=True)
class GraphFile:
    """A graph to build engines of.

    Attributes:
        name: Name of its artefact.
        path: The ONNX file.
        onnx_sha256: Its digest.
        weights_sha256: Digest of the weights it was made from; empty when unknown.
        precision: ``fp32`` or ``fp16``.
        tolerances: What is demanded of whatever runs it.
    """

    name: str
    path: Path
    onnx_sha256: str
    weights_sha256: str
    precision: str
    tolerances: dict[str, float]


@dataclass(frozen=True)
class EngineRecipe:
    """One engine.

    Attributes:
        name: Name of the artefact, e.g. ``dinov2_vits14_448_fp16.tensorrt-rtx``.
        graph: Name of the graph.
        onnx_sha256: Digest of the graph.
        options: How it is built.
        code_sha256: Digest of our own code that builds it.
        versions: Versions of the packages that build it, and of CUDA.
        gpu: The GPU it is built on and for: a native one, or TensorRT-RTX's ``current``.
        proven_on: The GPU that can run and prove it here; None if there is none.
    """

    name: str
    graph: str
    onnx_sha256: str
    options: EngineOptions
    code_sha256: str
    versions: dict[str, str]
    gpu: Gpu | None
    proven_on: Gpu | None

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON-ready values; the timing cache is a help and no ingredient."""
        options = asdict(self.options)
        del options["timing_cache"]
        options |= {key: list(options[key]) for key in ("batch", "compute_capabilities")}
        return asdict(self) | {"options": options}


def engine_recipe(name: str, graph: GraphFile, options: EngineOptions) -> EngineRecipe:
    """Today's recipe of an engine."""
    package = TARGETS[options.target].replace("_", "-")
    gpu = visible_gpu()
    built_for_it = options.target == "tensorrt" or "current" in options.compute_capabilities
    return EngineRecipe(
        name=name,
        graph=graph.name,
        onnx_sha256=graph.onnx_sha256,
        options=options,
        code_sha256=code_sha256("engine_build"),
        versions=installed_versions(("dinspect", package)) | {"cuda": _cuda_of(package)},
        gpu=gpu if built_for_it else None,
        proven_on=gpu if built_for_it or (gpu and _targets(options, gpu)) else None,
    )


def write_engine(
    folder: Path,
    recipe: EngineRecipe,
    graph: GraphFile,
    prove: Callable[[Runner], Proof] | None,
) -> EngineManifest:
    """Build an engine, prove it if a GPU is present, and give it its name.

    Args:
        folder: Folder of engines.
        recipe: The recipe.
        graph: The graph it is built of.
        prove: Holds a runner against PyTorch; None for a graph PyTorch knows nothing of.

    Raises:
        EngineError: If TensorRT refuses the graph.
        MissingDependencyError: If TensorRT is not installed.
        ParityError: If the engine disagrees with PyTorch; nothing is written.
        StorageError: If it cannot be written; nothing of it stays.
    """
    engine = build_engine(graph.path, recipe.options)
    with staged_folder(folder / recipe.name) as staged:
        plan = staged / ENGINE_FILE
        plan.write_bytes(engine.plan)
        inspection = inspect_plan(engine)
        proofs = []
        target = recipe.options.target
        # Native TensorRT has built on a GPU, so there is one to prove it on.
        if recipe.proven_on is not None or target == "tensorrt":
            inspection["fused_attention_layers"] = fused_attention_layers(plan, target)
            if prove is not None:
                proofs.append(prove(EngineRunner(plan, target)).demanded_of(recipe.name))
        manifest = EngineManifest(
            name=recipe.name,
            recipe=recipe.to_dict(),
            files={ENGINE_FILE: sha256_of_file(plan)},
            versions=recipe.versions,
            graph=graph.name,
            onnx_sha256=graph.onnx_sha256,
            weights_sha256=graph.weights_sha256,
            target=recipe.options.target,
            precision=graph.precision,
            compute_capabilities=list(recipe.options.compute_capabilities),
            profile=engine.profile,
            inspection=inspection,
            proof=[proof.figures for proof in proofs],
            tolerances=graph.tolerances,
        )
        write_manifest(staged, manifest)
    return manifest


def _targets(options: EngineOptions, gpu: Gpu) -> bool:
    """Whether a TensorRT-RTX engine is built for a GPU."""
    return gpu.compute_capability in (options.compute_capabilities or RTX_DEFAULT_TARGETS)


def _cuda_of(package: str) -> str:
    """Major version of CUDA a TensorRT package is made for, as its requirements name it."""
    try:
        needed = " ".join(requires(package) or ())
    except PackageNotFoundError:
        return "none"
    found = re.search(r"[-_]cu(\d+)", needed)
    return found[1] if found else "unknown"
