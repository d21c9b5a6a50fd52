"""Milliseconds per sample, as a client sees them.

Single stream: one request at a time, the next one sent when the previous one is answered (MLPerf's
SingleStream). Raw samples are kept in nanoseconds and pooled; percentiles are taken once, at the
end. A request that failed is counted and its duration thrown away: a refusal is quick and would
make the server look fast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dinspect_bench.errors import LatencyError, NothingSucceededError, StatisticsError
from dinspect_bench.latency.statistics import ServerTimes, Snapshot, StatisticsReader, difference
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class LatencySamples:
    """Raw outcome of a load.

    Attributes:
        succeeded_ns: Duration of each request that succeeded, in the order they were sent.
        failures: Reason of each request that failed, in the order they were sent.
    """

    succeeded_ns: tuple[int, ...]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatencySummary:
    """Figures of the requests that succeeded, in milliseconds per sample.

    Attributes:
        p50: Median; percentiles interpolate linearly between samples.
        p90: 90th percentile.
        p99: 99th percentile; of 100 samples it lies between the slowest two.
        mean: Arithmetic mean.
        std: Standard deviation of the sample (n - 1); 0 for a single one.
        min: Fastest.
        max: Slowest.
        count: Requests that succeeded.
        num_failed: Requests that failed; they are in no other figure.
    """

    p50: float
    p90: float
    p99: float
    mean: float
    std: float
    min: float
    max: float
    count: int
    num_failed: int


@dataclass(frozen=True)
class SingleStreamRun:
    """One latency measurement.

    Attributes:
        samples: Raw samples.
        summary: Their figures.
        server: Triton's own times of the same requests; None when the server does not show them.
        server_unavailable: Why there are none, else empty.
    """

    samples: LatencySamples
    summary: LatencySummary
    server: ServerTimes | None
    server_unavailable: str = ""

    @property
    def transport_and_client_ms(self) -> float | None:
        """Mean time outside the server: encoding, network, decoding; None without its times."""
        return None if self.server is None else self.summary.mean - self.server.total_ms


def run_single_stream(
    send: Callable[[int], object],
    *,
    num_samples: int,
    failure_types: tuple[type[Exception], ...],
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    on_sample: Callable[[], object] | None = None,
) -> LatencySamples:
    """Call something one time after the other and time each call.

    Knows nothing of images or servers.

    Args:
        send: Does the work of the sample with the given index and returns when it is done.
        num_samples: Calls to time, at least 1.
        failure_types: Errors of ``send`` that make a failed sample; others are bugs and pass.
        clock_ns: Monotonic clock in nanoseconds.
        on_sample: Called after each sample, outside its time.

    Raises:
        LatencyError: If there is no sample to take.
    """
    if num_samples < 1:
        raise LatencyError(f"{num_samples} samples must be at least 1")
    succeeded_ns: list[int] = []
    failures: list[str] = []
    for index in range(num_samples):
        started_ns = clock_ns()
        try:
            send(index)
        except failure_types as error:
            failures.append(failure_reason(error))
        else:
            succeeded_ns.append(clock_ns() - started_ns)
        if on_sample is not None:
            on_sample()
    return LatencySamples(tuple(succeeded_ns), tuple(failures))


def summarize(samples: LatencySamples) -> LatencySummary:
    """Percentiles, mean and spread of the samples that succeeded.

    Raises:
        NothingSucceededError: If none succeeded.
    """
    if not samples.succeeded_ns:
        reason = samples.failures[0] if samples.failures else "nothing was sent"
        raise NothingSucceededError(f"no sample succeeded; the first failed with: {reason}")
    values_ms = np.asarray(samples.succeeded_ns, dtype=np.float64) / _NS_PER_MS
    p50, p90, p99 = np.percentile(values_ms, [50, 90, 99])
    return LatencySummary(
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        mean=float(values_ms.mean()),
        std=float(values_ms.std(ddof=1)) if len(values_ms) > 1 else 0.0,
        min=float(values_ms.min()),
        max=float(values_ms.max()),
        count=len(values_ms),
        num_failed=len(samples.failures),
    )


def measure_single_stream(
    client: InspectionClient,
    grpc_url: str,
    product: str,
    images: Sequence[bytes],
    *,
    ensemble: str,
    method: str = Method.ANOMALY_DINO,
    num_samples: int = 100,
    num_warmup: int = 10,
    with_map: bool = True,
    metrics_url: str = "",
    on_sample: Callable[[], object] | None = None,
) -> SingleStreamRun:
    """Measure inspections through gRPC, with the server's own times beside the client's.

    Args:
        client: Connected client whose `inspect` is timed: request building, transport, answer.
        grpc_url: The same server, for its statistics.
        product: Product to inspect.
        images: Encoded images, sent in turn; already in memory, so no disk is timed.
        ensemble: Ensemble that inspects the product by the method.
        method: What it is inspected by, ``anomaly_dino`` or ``l2bt``.
        num_samples: Inspections to time.
        num_warmup: Inspections before them.
        with_map: Whether to ask for the full-size anomaly map.
        metrics_url: The server's Prometheus metrics, to tell decoding from resizing.
        on_sample: Called after each timed sample.

    Raises:
        LatencyError: If there is no image or a number makes no sense.
        NothingSucceededError: If every sample failed.
        InspectionError: If a sample of the warm-up fails.
    """
    from dinspect_client.errors import InspectionError

    if not images:
        raise LatencyError("there is no image to send; give at least one")
    if num_warmup < 0:
        raise LatencyError(f"{num_warmup} samples for warm-up must not be negative")

    def send(index: int) -> None:
        client.inspect(product, images[index % len(images)], method=method, with_map=with_map)

    # Before the first reading, so that the server's times are those of the samples alone.
    for index in range(num_warmup):
        send(index)
    with StatisticsReader(grpc_url, ensemble, metrics_url) as statistics:
        before = _read_or_reason(statistics)
        samples = run_single_stream(
            send,
            num_samples=num_samples,
            failure_types=(InspectionError,),
            on_sample=on_sample,
        )
        after = _read_or_reason(statistics)
    summary = summarize(samples)
    try:
        server = server_times(before, after, summary.count)
    except StatisticsError as error:
        return SingleStreamRun(samples, summary, None, str(error))
    return SingleStreamRun(samples, summary, server)


def server_times(before: Snapshot | str, after: Snapshot | str, num_succeeded: int) -> ServerTimes:
    """The server's times of a run, only if they are of that run alone.

    Args:
        before: Reading before the run, or why there is none.
        after: Reading after it, or why there is none.
        num_succeeded: Requests of the run that succeeded.

    Raises:
        StatisticsError: If a reading is missing or the server served other requests meanwhile.
    """
    if isinstance(before, str) or isinstance(after, str):
        raise StatisticsError(before if isinstance(before, str) else str(after))
    times = difference(before, after)
    if times.count != num_succeeded:
        raise StatisticsError(
            f"the server served {times.count} requests while {num_succeeded} of this run "
            "succeeded, so its times are not of this run alone; measure on an idle server"
        )
    for step in times.steps:
        # None where nobody needed the step. Others may share a model, and a request that was
        # refused is counted by the model that did so.
        if step.count not in (0, num_succeeded):
            raise StatisticsError(
                f"{step.name} ran {step.count} times while {num_succeeded} requests of this run "
                "succeeded, so its times are not theirs alone"
            )
    return times


def _read_or_reason(statistics: StatisticsReader) -> Snapshot | str:
    try:
        return statistics.read()
    except StatisticsError as error:
        return str(error)


def failure_reason(error: Exception) -> str:
    """Why a sample failed, as a report tells it."""
    return f"{type(error).__name__}: {error}"
