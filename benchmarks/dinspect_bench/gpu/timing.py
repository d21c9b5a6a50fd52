"""Time of a call on a GPU or a CPU: as the program sees it, and by the GPU's own clock.

A GPU works through a queue, so a call returns before its work is done. Per sample the device is
synchronised before and after; between two CUDA events lies what the GPU itself spent, waiting for
the program included: at batch 1 an eager network is bounded by the program's launches, and only a
CUDA graph shows what the GPU needs. A last figure is that of calls queued without waiting, which
is what is left when the program runs ahead of the GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dinspect_bench.latency.single_stream import LatencySamples, LatencySummary, summarize

Call = Callable[[int], object]
"""Does the work of the sample with the given index; on a GPU it may return before it is done."""

_NS_PER_MS = 1e6
_MIN_SAMPLES = 3
_WARM_UP_CALLS = 10
_WARM_UP_SHARE = 0.5


class Clock(Protocol):
    """Times calls on one device."""

    def sample(self, call: Call, index: int) -> tuple[int, int | None]:
        """Nanoseconds until the device is done, and those between two events; None without."""

    def queued(self, call: Call, num_calls: int) -> float | None:
        """Mean milliseconds of calls that do not wait for each other; None without a queue."""


class CpuClock:
    """For a device that is done when the call returns."""

    def sample(self, call: Call, index: int) -> tuple[int, int | None]:
        """See `Clock`."""
        started_ns = time.perf_counter_ns()
        call(index)
        return time.perf_counter_ns() - started_ns, None

    def queued(self, call: Call, num_calls: int) -> float | None:
        """See `Clock`."""
        return None


class CudaClock:
    """For the GPU, on PyTorch's current stream."""

    def __init__(self) -> None:
        import torch

        self._cuda: Any = torch.cuda
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def sample(self, call: Call, index: int) -> tuple[int, int | None]:
        """See `Clock`."""
        self._cuda.synchronize()
        started_ns = time.perf_counter_ns()
        self._begin.record()
        call(index)
        self._end.record()
        self._end.synchronize()
        elapsed_ns = time.perf_counter_ns() - started_ns
        return elapsed_ns, round(self._begin.elapsed_time(self._end) * _NS_PER_MS)

    def queued(self, call: Call, num_calls: int) -> float | None:
        """See `Clock`."""
        self._cuda.synchronize()
        self._begin.record()
        for index in range(num_calls):
            call(index)
        self._end.record()
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / num_calls


def clock_of(device: str) -> Clock:
    """The clock of ``cuda`` or ``cpu``."""
    return CudaClock() if device == "cuda" else CpuClock()


@dataclass(frozen=True)
class CallTimes:
    """Times of one call.

    Attributes:
        wall: Until the device is done, by the program's clock.
        device: Between two events, by the GPU's clock; None on a CPU.
        queued_ms: Mean of calls queued without waiting; None on a CPU.
        first_ms: The very first call, with whatever is compiled and loaded then.
    """

    wall: LatencySummary
    device: LatencySummary | None
    queued_ms: float | None
    first_ms: float

    def figures(self) -> dict[str, Any]:
        """As a record has them."""
        figures: dict[str, Any] = {
            "p50_ms": self.wall.p50,
            "p90_ms": self.wall.p90,
            "p99_ms": self.wall.p99,
            "mean_ms": self.wall.mean,
            "std_ms": self.wall.std,
            "num_samples": self.wall.count,
            "num_failed": 0,
            "queued_ms": self.queued_ms,
            "first_ms": self.first_ms,
        }
        for name in ("p50", "p90", "p99", "mean", "std"):
            value = None if self.device is None else getattr(self.device, name)
            figures[f"device_{name}_ms"] = value
        return figures


def time_call(
    call: Call,
    clock: Clock,
    *,
    max_samples: int,
    limit_s: float,
    now_s: Callable[[], float] = time.monotonic,
) -> CallTimes:
    """Warm up, then time a call until there are enough samples or the time is up.

    Args:
        call: What is timed.
        clock: Times it.
        max_samples: Samples at most; at least 3 are taken, whatever the limit.
        limit_s: Seconds the samples may take; half as many more go to the warm-up.
        now_s: Monotonic clock in seconds.
    """
    first_ns, _ = clock.sample(call, 0)
    until_s = now_s() + _WARM_UP_SHARE * limit_s
    for index in range(_WARM_UP_CALLS):
        clock.sample(call, index)
        if now_s() >= until_s:
            break
    samples: list[tuple[int, int | None]] = []
    until_s = now_s() + limit_s
    while len(samples) < max_samples and (len(samples) < _MIN_SAMPLES or now_s() < until_s):
        samples.append(clock.sample(call, len(samples)))
    wall_ns = tuple(wall for wall, _ in samples)
    device_ns = tuple(device for _, device in samples if device is not None)
    return CallTimes(
        wall=summarize(LatencySamples(wall_ns)),
        device=summarize(LatencySamples(device_ns)) if device_ns else None,
        queued_ms=clock.queued(call, len(samples)),
        first_ms=first_ns / _NS_PER_MS,
    )
