"""Step ``parity``: every runtime that is present, held against PyTorch in FP32 on the CPU.

The gate is that of every build (`dinspect_export.verification`); engines come in the next step.
Search and map, which no graph holds, are held against NumPy in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from dinspect_bench.gpu.device_map import SIGMA_PX, DeviceMap
from dinspect_bench.gpu.networks import exact_products, grid_of, on_device
from dinspect_bench.gpu.plants import plants, students_files
from dinspect_bench.gpu.runners import (
    OnnxRuntimeGpuRunner,
    TorchBackboneRunner,
    TorchStudentsRunner,
)
from dinspect_bench.gpu.scope import STUDENT_VARIANT
from dinspect_bench.gpu.search import search_by
from dinspect_bench.gpu.session import GpuRun
from dinspect_export.build_items import BackboneItem, StudentsItem
from dinspect_export.build_plan import Plan
from dinspect_export.manifest import read_graph_manifest
from dinspect_export.proof import Proof
from dinspect_export.recipes import TOLERANCES
from dinspect_export.runtimes import OpenVinoRunner, Runner
from dinspect_export.student_files import load_students
from dinspect_export.students import StudentDistance
from dinspect_export.variants import variant_by_name

MAX_DISTANCE_CHANGE = {"fp32": 1e-5, "fp16": 2.0**-10}
"""Of the search, absolute: FP16 may take another row for the nearest, if it is about as near.

It has 11 bits, so cosines in [0.5, 1) are 2^-11 apart: two rows that are as far apart may change
places when their products are rounded. As much again is for what is rounded before that, whose
errors cancel each other for the most part.
"""
MAX_MAP_CHANGE = 1e-5
"""Of the map, relative to its largest value."""
_NUM_QUERIES = 1024
# The rows of a cluster are about 0.04 away from a query of it, the nearest of them 1e-4 to 1e-3
# from each other, as patch tokens of alike parts are.
_CLUSTER_ROWS = 32
_ROW_OFFSET, _QUERY_OFFSET = 0.07, 0.3

Start = Callable[[], Runner]


def check_parity(run: GpuRun) -> None:
    """Export what is not current, and hold every runtime to it, row by row.

    Raises:
        ExportError: If nothing can be described: weights or images are missing.
    """
    exact_products(True)
    for plant, description in plants(run).items():
        plan = Plan(description, download=False)
        for item in plan.backbones:
            _check_backbone(run, plant, item)
        for students in plan.students:
            _check_students(run, plant, students)
    for precision in run.scope.precisions:
        for runtime in ("pytorch", "cupy"):
            _check_search(run, runtime, precision)
    for size in run.scope.sizes:
        _check_map(run, size)


def _check_backbone(run: GpuRun, plant: str, item: BackboneItem) -> None:
    key = {"weights": plant, "artefact": item.name}
    run.row("parity", key | {"runtime": "onnxruntime"}, lambda: _exported(item))
    for runtime, precision, start in _backbone_runners(run, item):

        def prove(precision: str = precision, start: Start = start) -> Mapping[str, Any]:
            reference = item.exporter.get().reference(item.recipe)
            return figures_of(reference.prove(start(), TOLERANCES[precision], run.scope.batches))

        run.row("parity", key | {"runtime": runtime}, prove)
    exact_products(True)  # whatever the last of them ran with


def _exported(item: BackboneItem | StudentsItem) -> Mapping[str, Any]:
    """Export if it is not current; either way ONNX Runtime's proof is in the artefact's record."""
    if item.stale_reasons():
        item.make()
    (proof,) = read_graph_manifest(item.path).proof
    return figures_of(Proof("onnxruntime", proof, []))


def _backbone_runners(run: GpuRun, item: BackboneItem) -> Iterator[tuple[str, str, Start]]:
    """Name, the precision whose tolerances apply, and how to start it."""
    device, in_fp32 = run.scope.device, item.precision == "fp32"

    def torch_runner(name: str, exact_fp32: bool = True) -> Runner:
        exact_products(exact_fp32)
        model = on_device(item.exporter.get().exportable(item.recipe), item.precision, device)
        return TorchBackboneRunner(model, item.recipe.layers, device, name)

    name = f"pytorch {device}"
    yield name, item.precision, lambda: torch_runner(name)
    if device == "cuda":
        yield "onnxruntime cuda", item.precision, lambda: OnnxRuntimeGpuRunner(item.model)
    if in_fp32:
        yield "openvino f32", "fp32", lambda: OpenVinoRunner(item.model, "f32")
    if in_fp32 and device == "cuda":
        yield "pytorch cuda, TF32", "fp16", lambda: torch_runner("pytorch cuda, TF32", False)


def _check_students(run: GpuRun, plant: str, item: StudentsItem) -> None:
    key = {"weights": plant, "artefact": item.name}
    run.row("parity", key | {"runtime": "onnxruntime"}, lambda: _exported(item))
    device, recipe = run.scope.device, item.recipe

    def prove() -> Mapping[str, Any]:
        files = students_files(run, recipe.variant)
        students = load_students(*files, variant_name=recipe.variant, layers=recipe.layers)
        dtype = torch.float16 if item.precision == "fp16" else torch.float32
        model = StudentDistance(students.pair.to(dtype), recipe.grid).to(device)
        return figures_of(
            item.prove(TorchStudentsRunner(model, recipe.layers, device, f"pytorch {device}"))
        )

    run.row("parity", key | {"runtime": f"pytorch {device}"}, prove)


def figures_of(proof: Proof) -> dict[str, Any]:
    """A proof as a record has it."""
    figures = {name: value for name, value in proof.figures.items() if name != "runtime"}
    return {**figures, "kept": not proof.failures, "failures": proof.failures}


def _check_search(run: GpuRun, runtime: str, precision: str) -> None:
    key = {
        "weights": None,
        "artefact": f"search of close rows, {precision}",
        "runtime": f"{runtime} {run.scope.device}",
    }

    def compare() -> Mapping[str, Any]:
        bank, queries = close_tokens(run.scope.inspected_bank)
        expected = 1.0 - (queries @ bank.T).max(axis=1)
        rows = torch.from_numpy(bank.astype(np.float32)).to(run.scope.device)
        tokens = torch.from_numpy(queries.astype(np.float32)).to(run.scope.device)[None]
        found = search_by(runtime, rows, precision)(tokens)[0].cpu().numpy()
        change = float(np.abs(found - expected).max())
        allowed = MAX_DISTANCE_CHANGE[precision]
        return _within("a distance", change, allowed)

    run.row("parity", key, compare)


def _check_map(run: GpuRun, size: int) -> None:
    key = {
        "weights": None,
        "artefact": f"map, {size} px",
        "runtime": f"pytorch {run.scope.device}",
    }

    def compare() -> Mapping[str, Any]:
        grid = grid_of(variant_by_name(STUDENT_VARIANT), size)
        distances = np.random.default_rng(0).random(grid)
        expected = _slow_map(distances, size)
        given = torch.from_numpy(distances.astype(np.float32)).to(run.scope.device)[None]
        found = DeviceMap(grid, size, run.scope.device)(given)[0].cpu().numpy()
        change = float(np.abs(found - expected).max() / expected.max())
        return _within("a pixel", change, MAX_MAP_CHANGE)

    run.row("parity", key, compare)


def _within(what: str, change: float, allowed: float) -> dict[str, Any]:
    kept = change <= allowed
    failures = [] if kept else [f"{what} changes by {change:.1e}, allowed is {allowed:.0e}"]
    return {"max_change": change, "kept": kept, "failures": failures}


def close_tokens(num_patches: int) -> tuple[Any, Any]:
    """A bank in clusters and queries near them, so that a coarse search takes a wrong row.

    Args:
        num_patches: Rows of the bank; those of a cluster are spread over all of it.

    Returns:
        ``(num_patches, D)`` and ``(1024, D)`` unit vectors in double precision.
    """
    generator = np.random.default_rng(0)
    dim = variant_by_name(STUDENT_VARIANT).dim
    num_clusters = max(1, num_patches // _CLUSTER_ROWS)
    centres = _unit(generator.standard_normal((num_clusters, dim)))

    def near(clusters: Any, offset: float) -> Any:
        directions = _unit(generator.standard_normal((len(clusters), dim)))
        return _unit(centres[clusters] + offset * directions)

    bank = near(np.arange(num_patches) % num_clusters, _ROW_OFFSET)
    return bank, near(generator.integers(0, num_clusters, _NUM_QUERIES), _QUERY_OFFSET)


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _slow_map(distances: Any, size: int) -> Any:
    """Upsampled by PyTorch and smoothed by SciPy in double precision, one after the other."""
    from scipy.ndimage import gaussian_filter

    given = torch.from_numpy(distances)[None, None]
    upsampled = torch.nn.functional.interpolate(given, size=(size, size), mode="bilinear")
    return gaussian_filter(upsampled[0, 0].numpy(), SIGMA_PX, mode="reflect", truncate=4.0)
