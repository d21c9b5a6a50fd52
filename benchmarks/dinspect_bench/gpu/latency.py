"""Step ``latency``: every row of every part, in this process, on the device."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from dinspect_bench.gpu.cases import Case, latency_cases
from dinspect_bench.gpu.chains import call_of
from dinspect_bench.gpu.device import record_device
from dinspect_bench.gpu.networks import exact_products
from dinspect_bench.gpu.session import GpuRun
from dinspect_bench.gpu.timing import clock_of, time_call
from dinspect_export.engine import TARGETS
from dinspect_export.errors import RuntimeUnavailableError

_RTX = "tensorrt-rtx"


def measure_part(run: GpuRun, part: str) -> None:
    """Measure the rows of one part; see `GpuRun.row` for those that fail.

    Args:
        run: The run.
        part: One of `cases.PARTS`.
    """
    exact_products(True)
    record_device(run, f"before the rows of {part}")
    with torch.inference_mode(), own_stream(run.scope.device):
        for case in latency_cases(run.scope, part, engine_targets()):
            run.row("latency", case.key(), partial(_figures, case, run))
    record_device(run, f"after the rows of {part}")


def engine_targets() -> tuple[str, ...]:
    """TensorRT-RTX, which is asked for in any case, and native TensorRT where it is installed."""
    others = (target for target in TARGETS if target != _RTX)
    return _RTX, *(one for one in others if importlib.util.find_spec(TARGETS[one]) is not None)


@contextlib.contextmanager
def own_stream(device: str) -> Iterator[None]:
    """A stream of its own on the GPU: on the default one TensorRT waits more than it must."""
    if device != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        yield


def _figures(case: Case, run: GpuRun) -> Mapping[str, Any]:
    scope = run.scope
    if case.runtime in TARGETS and scope.device == "cpu":
        raise RuntimeUnavailableError("engines run on an NVIDIA GPU, and this machine has none")
    times = time_call(
        call_of(case, run),
        clock_of(scope.device),
        max_samples=scope.max_samples,
        limit_s=scope.row_s,
    )
    settings = {
        "scenario": "single_stream",
        "served": False,
        "shots": None,
        "masking": False,
        "rotation": False,
        "with_map": case.part in ("map", "after_backbone", "whole_image"),
    }
    return settings | times.figures()
