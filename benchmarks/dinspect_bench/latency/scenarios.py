"""MLPerf's MultiStream, Server and Offline; SingleStream has a file of its own.

What is not MLPerf's: the least duration of 600 s (the number of samples counts instead; ask for as
many as a submission needs), and images are sent in turn and not drawn with replacement.

Source: MLPerf Inference Rules, section "Scenarios".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dinspect_bench.errors import NothingSucceededError
from dinspect_bench.latency.early_stopping import estimate_percentile
from dinspect_bench.latency.load import Send, SenderPool, run_multi_stream, run_scheduled
from dinspect_bench.latency.server_rate import (
    ServerSettings,
    TriedRate,
    highest_held,
    search_rate,
    try_rate,
)
from dinspect_bench.latency.settings import (
    MULTI_STREAM_PERCENTILE,
    SINGLE_STREAM_PERCENTILE,
    LoadSettings,
    Scenario,
)
from dinspect_bench.latency.single_stream import (
    LatencySamples,
    LatencySummary,
    run_single_stream,
    summarize,
)

Connect = Callable[[], AbstractContextManager[Send]]
Progress = Callable[[str, int], AbstractContextManager[Callable[[], object]]]
"""Shows that samples with a name, so many, are under way; what it gives is called after each."""

_NS_PER_MS = 1e6
_NS_PER_S = 1e9
_FIRST_SHARE = 0.5
_NUM_FIRST = 5


@dataclass(frozen=True)
class ScenarioResult:
    """What a scenario found.

    Attributes:
        samples: Latencies and failures; of Server those at the highest rate that was held.
        summary: Their figures; None where latencies mean nothing: of Offline, which waits in one
            pile, and of Server if no rate was held.
        figures: The scenario's own, by the name they have in a record.
    """

    samples: LatencySamples
    summary: LatencySummary | None
    figures: dict[str, Any]


def single_stream_figures(samples: LatencySamples) -> dict[str, Any]:
    """MLPerf's figure of SingleStream: the 90th percentile by early stopping.

    Args:
        samples: One per query.
    """
    return _estimate("p90", samples, SINGLE_STREAM_PERCENTILE)


def measure_scenario(
    settings: LoadSettings,
    connect: Connect,
    failure_types: tuple[type[Exception], ...],
    progress: Progress,
) -> ScenarioResult:
    """Run MultiStream, Server or Offline.

    Args:
        settings: Which, and how.
        connect: Makes one connection, a context manager of what sends by it.
        failure_types: Errors of sending that make a failed sample; others are bugs and pass.
        progress: Shows how far it is.

    Raises:
        NothingSucceededError: If every sample failed.
        Exception: What a sample of the warm-up fails with.
    """
    with SenderPool(connect, settings.num_connections, failure_types) as pool:
        for _ in range(max(1, math.ceil(settings.num_warmup / settings.num_connections))):
            pool.warm_up()
        if settings.scenario == Scenario.MULTI_STREAM:
            return _multi_stream(settings, pool, progress)
        if settings.server is None:
            return _offline(settings, pool, progress)
        first = settings.first_rate_per_s or _FIRST_SHARE * _single_stream_rate(connect)
        return _server(settings, settings.server, first, pool, progress)


def _multi_stream(settings: LoadSettings, pool: SenderPool, progress: Progress) -> ScenarioResult:
    with progress("queries", settings.num_samples) as advance:
        samples = run_multi_stream(
            pool,
            num_queries=settings.num_samples,
            samples_per_query=settings.samples_per_query,
            on_query=advance,
        )
    figures = {
        "samples_per_query": settings.samples_per_query,
        **_estimate("p99", samples, MULTI_STREAM_PERCENTILE),
    }
    return ScenarioResult(samples, summarize(samples), figures)


def _offline(settings: LoadSettings, pool: SenderPool, progress: Progress) -> ScenarioResult:
    with progress("samples", settings.num_samples) as advance:
        run = run_scheduled(pool, [0] * settings.num_samples, on_sample=advance)
    count = len(run.samples.succeeded_ns)
    if not count:
        raise NothingSucceededError(
            f"no sample succeeded; the first failed with: {run.samples.failures[0]}"
        )
    duration_s = run.duration_ns / _NS_PER_S
    figures = {
        "samples_per_s": count / duration_s,
        "duration_s": duration_s,
        "concurrency": settings.num_connections,
    }
    return ScenarioResult(run.samples, None, figures)


def _server(
    settings: LoadSettings,
    held_to: ServerSettings,
    first_rate_per_s: float,
    pool: SenderPool,
    progress: Progress,
) -> ScenarioResult:
    def try_one(rate_per_s: float) -> TriedRate:
        with progress(f"{rate_per_s:.2f} samples/s", held_to.num_samples) as advance:
            return try_rate(pool, rate_per_s, held_to, on_sample=advance)

    tried = search_rate(try_one, first_rate_per_s)
    best = highest_held(tried)
    figures = {
        "latency_bound_ms": held_to.latency_bound_ms,
        "percentile": held_to.percentile,
        "samples_per_rate": held_to.num_samples,
        "seed": held_to.seed,
        "concurrency": settings.num_connections,
        "rate_per_s": best.rate_per_s if best else None,
        "tried": [_tried(one) for one in tried],
    }
    if best is None:
        return ScenarioResult(LatencySamples(()), None, figures)
    return ScenarioResult(best.run.samples, summarize(best.run.samples), figures)


def _single_stream_rate(connect: Connect) -> float:
    """Samples per second, one after the other: about where a server's limit lies."""
    with connect() as send:
        samples = run_single_stream(send, num_samples=_NUM_FIRST, failure_types=())
    return 1e3 / summarize(samples).p50


def _tried(one: TriedRate) -> dict[str, Any]:
    samples = one.run.samples
    return {
        "rate_per_s": one.rate_per_s,
        "is_held": one.is_held,
        "num_answered": len(samples.succeeded_ns),
        "num_failed": len(samples.failures),
        "num_over_bound": one.run.num_over_bound,
        "p50_ms": summarize(samples).p50 if samples.succeeded_ns else None,
        "p99_ms": summarize(samples).p99 if samples.succeeded_ns else None,
    }


def _estimate(name: str, samples: LatencySamples, percentile: float) -> dict[str, Any]:
    latencies_ms = [ns / _NS_PER_MS for ns in samples.succeeded_ns]
    # One that failed was never answered, so it is later than any that was.
    latencies_ms += [math.inf] * len(samples.failures)
    estimate = estimate_percentile(latencies_ms, percentile)
    is_known = estimate.value is not None and math.isfinite(estimate.value)
    return {
        f"{name}_early_stopping_ms": estimate.value if is_known else None,
        f"{name}_queries_needed": estimate.num_needed,
    }
