"""What a row runs: a part of an inspection, or several in a row, on tensors on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.built import proven_engine
from dinspect_bench.gpu.cases import GRAPH, Case
from dinspect_bench.gpu.device_map import DeviceMap
from dinspect_bench.gpu.networks import (
    grid_of,
    random_backbone,
    random_bank,
    random_pixels,
    random_students,
    random_tokens,
)
from dinspect_bench.gpu.search import search_by
from dinspect_bench.gpu.session import GpuRun
from dinspect_bench.gpu.timing import Call
from dinspect_export.variants import variant_by_name

Step = Callable[..., Any]
_CAPTURE_WARM_UP = 3


def call_of(case: Case, run: GpuRun) -> Call:
    """Everything a row needs, on the device, behind one call per sample.

    Args:
        case: The row.
        run: Gives the device, and the engines.

    Raises:
        BenchmarkError: If an engine is not there.
        RuntimeUnavailableError: If it cannot run here.
        MissingDependencyError: If CuPy or TensorRT is not installed.
    """
    device = run.scope.device
    inputs = _inputs(case, device)
    step = _STEPS[case.part](case, run)
    if case.execution == GRAPH:
        step = Replayed(step, inputs[0])
    return lambda index: step(*inputs[index % len(inputs)])


class Replayed:
    """A step recorded as a CUDA graph and replayed, which leaves out the program's own time.

    Args:
        step: What is recorded; it must not wait for the GPU.
        example: Inputs; later ones must have the same shapes.
    """

    def __init__(self, step: Step, example: Sequence[Tensor]) -> None:
        self._inputs = [tensor.clone() for tensor in example]
        # What is compiled or allocated at first must be over before anything is recorded.
        for _ in range(_CAPTURE_WARM_UP):
            step(*self._inputs)
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
            self._outputs = step(*self._inputs)

    def __call__(self, *tensors: Tensor) -> Any:
        """Copy the inputs and replay; the outputs are written again by the next call."""
        for own, given in zip(self._inputs, tensors, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._outputs


def _inputs(case: Case, device: str) -> list[tuple[Tensor, ...]]:
    size, batch = case.resolution, case.batch
    if case.part in ("backbone", "whole_image"):
        return [(pixels,) for pixels in random_pixels(size, batch, device)]
    if case.part == "map":
        rows, columns = grid_of(variant_by_name(case.backbone), size)
        tokens = random_tokens(case.backbone, size, batch, device)
        return [(one[..., 0].abs().unflatten(1, (rows, columns)).contiguous(),) for one in tokens]
    tokens = random_tokens(case.backbone, size, batch, device)
    if case.method == "anomaly_dino":
        return [(one,) for one in tokens]
    return [(one, other) for one, other in zip(tokens, tokens[::-1], strict=True)]


def _backbone(case: Case, run: GpuRun) -> Step:
    if case.runtime == "pytorch":
        return random_backbone(case.backbone, case.resolution, case.precision, run.scope.device)
    return _engine(case, run, "backbone")


def _students(case: Case, run: GpuRun) -> Step:
    """Patch tokens of two blocks to ``(B, rows, columns)`` distances."""
    if case.runtime == "pytorch":
        return random_students(case.backbone, case.resolution, case.precision, run.scope.device)
    engine = _engine(case, run, "students")
    return lambda *tokens: engine(*tokens)[0]


def _search(case: Case, run: GpuRun) -> Step:
    """Patch tokens to ``(B, N)`` distances; whole inspections search by PyTorch."""
    if case.bank_patches is None:
        raise BenchmarkError(f"a search needs a bank, this row has none: {case}")
    bank = random_bank(variant_by_name(case.backbone).dim, case.bank_patches, run.scope.device)
    return search_by(case.runtime if case.part == "knn" else "pytorch", bank, case.precision)


def _map(case: Case, run: GpuRun) -> Step:
    grid = grid_of(variant_by_name(case.backbone), case.resolution)
    return DeviceMap(grid, case.resolution, run.scope.device)


def _after_backbone(case: Case, run: GpuRun) -> Step:
    """Patch tokens to the map: of the last block by AnomalyDINO, of two blocks by L2BT."""
    to_map = _map(case, run)
    if case.method == "l2bt":
        students = _students(case, run)
        return lambda *tokens: to_map(students(*tokens))
    search = _search(case, run)
    grid = grid_of(variant_by_name(case.backbone), case.resolution)
    return lambda tokens: to_map(search(tokens).unflatten(1, grid))


def _whole_image(case: Case, run: GpuRun) -> Step:
    """Pixels to the map."""
    backbone, after = _backbone(case, run), _after_backbone(case, run)
    if case.method == "l2bt":
        return lambda pixels: after(*backbone(pixels))
    return lambda pixels: after(backbone(pixels)[-1])


def _engine(case: Case, run: GpuRun, part: str) -> Step:
    from dinspect_bench.gpu.device_engine import loaded_engine

    plan = proven_engine(run, part, case.backbone, case.resolution, case.runtime)
    return loaded_engine(plan, case.runtime)


_STEPS: dict[str, Callable[[Case, GpuRun], Step]] = {
    "backbone": _backbone,
    "students": _students,
    "knn": _search,
    "map": _map,
    "after_backbone": _after_backbone,
    "whole_image": _whole_image,
}
