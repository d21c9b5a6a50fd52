"""Step ``peak``: the highest rates seen of matrix products and copies on the device.

The best of several sizes; no data sheet's figure. On a CPU `dinspect_bench.machine.peak` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dinspect_bench.gpu.device import record_device
from dinspect_bench.gpu.latency import own_stream
from dinspect_bench.gpu.networks import exact_products
from dinspect_bench.gpu.session import GpuRun
from dinspect_bench.gpu.timing import clock_of

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_WARM_UP, _CALLS = 5, 20
_CPU_S = 9.0
_QUICK_CPU_S = 0.5


def measure_peaks(run: GpuRun) -> None:
    """Measure each product and copy on its own, and put the best together as one record."""
    if run.scope.device == "cpu":
        run.row("peak", {"device": "cpu"}, lambda: _cpu_peak(run))
        return
    record_device(run, "before the peaks")
    with torch.inference_mode(), own_stream(run.scope.device):
        for precision in PRECISIONS:
            for side in run.scope.peak_sides:
                key = {"precision": precision, "side": side}
                run.row("product", key, partial(product_rate, precision, side, "cuda"))
        for way in COPIES:
            run.row("copy", {"way": way}, partial(copy_rate, way, run.scope.copy_bytes))
    record_device(run, "after the peaks")
    run.append("peak", device="cuda", **best_of(run.all("product"), run.all("copy")))


def product_rate(precision: str, side: int, device: str) -> dict[str, float]:
    """Operations per second of products of square matrices.

    Args:
        precision: One of `PRECISIONS`.
        side: Edge of the matrices.
        device: ``cuda`` or ``cpu``.
    """
    exact_products(precision != "tf32")
    product = _product(precision, side, device)
    return {"operations_per_s": 2 * side**3 / _mean_s(product, device)}


def copy_rate(way: str, size_bytes: int) -> dict[str, float]:
    """Bytes per second of a large copy.

    Args:
        way: One of `COPIES`.
        size_bytes: Of the buffer. On the device each byte is read and written, and counts twice.
    """
    source_pinned, target_pinned, counted = COPIES[way]
    source, target = (_buffer(size_bytes, pinned) for pinned in (source_pinned, target_pinned))
    seconds = _mean_s(lambda: target.copy_(source, non_blocking=True), "cuda")
    return {"bytes_per_s": counted * size_bytes / seconds}


COPIES = {
    "device": (False, False, 2),
    "host to device": (True, False, 1),
    "device to host": (False, True, 1),
}
"""Ways to copy: whether source and target are pinned memory of the host, and how a byte counts."""


def best_of(products: list[dict[str, Any]], copies: list[dict[str, Any]]) -> dict[str, Any]:
    """The record ``peak``: the best of each precision, None where nothing could be measured."""
    flops: dict[str, float | None] = dict.fromkeys(PRECISIONS)
    reached_by = {}
    for record in products:
        precision, rate = record["precision"], record["operations_per_s"]
        if rate > (flops[precision] or 0.0):
            flops[precision] = rate
            reached_by[precision] = f"torch, {record['side']} x {record['side']}"
    rates = {record["way"]: record["bytes_per_s"] for record in copies}
    return {
        "matrix_product_flops": flops,
        "reached_by": reached_by,
        "copy_bytes_per_s": rates.get("device"),
        "host_to_device_bytes_per_s": rates.get("host to device"),
        "device_to_host_bytes_per_s": rates.get("device to host"),
    }


def _product(precision: str, side: int, device: str) -> Callable[[], Tensor]:
    """One product of two random matrices; on zeros a GPU is faster than on anything real."""
    generator = torch.Generator(device).manual_seed(0)
    if precision == "int8":
        pair = [
            torch.randint(
                -127, 128, (side, side), dtype=torch.int8, device=device, generator=generator
            )
            for _ in range(2)
        ]
        left, right = pair[0], pair[1].t()  # as the integer units want it
        return lambda: torch._int_mm(left, right)
    dtype = _TYPES.get(precision, torch.float32)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    return lambda: a @ b


def _mean_s(call: Callable[[], object], device: str) -> float:
    """Mean seconds of calls queued one behind the other."""
    clock = clock_of(device)
    for _ in range(_WARM_UP):
        call()
    queued_ms = clock.queued(lambda _: call(), _CALLS)
    if queued_ms is None:  # a CPU has no queue
        queued_ms = min(clock.sample(lambda _: call(), 0)[0] for _ in range(_CALLS)) / 1e6
    return queued_ms / 1e3


def _buffer(size_bytes: int, pinned: bool) -> Tensor:
    if pinned:
        return torch.ones(size_bytes, dtype=torch.uint8).pin_memory()
    return torch.ones(size_bytes, dtype=torch.uint8, device="cuda")


def _cpu_peak(run: GpuRun) -> Mapping[str, Any]:
    from dinspect_bench.machine.peak import measure_peak

    record = measure_peak(_QUICK_CPU_S if run.scope.quick else _CPU_S)
    return {
        name: record[name] for name in record if name not in ("record", "created", "environment")
    }
