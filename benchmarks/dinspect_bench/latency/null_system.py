"""The harness itself, measured: the same load on a system that answers at once.

What a latency holds of the harness cannot be seen in the latency; so each report has this beside
it. As in MLPerf's LoadGen, the null system lies in this process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from dinspect_bench.latency.load import Send, SenderPool, run_multi_stream, run_scheduled
from dinspect_bench.latency.server_rate import poisson_arrivals_ns
from dinspect_bench.latency.settings import LoadSettings, Scenario
from dinspect_bench.latency.single_stream import LatencySamples, run_single_stream, summarize

NUM_SAMPLES = 300
_RATE_PER_S = 500.0
_NUM_PILES = 30
_COVERS = {
    Scenario.SINGLE_STREAM: "the loop that sends one sample after the other, and its clock",
    Scenario.MULTI_STREAM: "handing a query's samples to threads and waiting for the last",
    Scenario.SERVER: f"a schedule of {_RATE_PER_S:.0f} samples/s and handing each to a thread",
    Scenario.OFFLINE: "handing a pile of samples to threads, over their number",
}
_NOT_COVERED = "not the client library, gRPC or the server"


def measure_null_system(settings: LoadSettings) -> dict[str, Any]:
    """Run a scenario on a system that answers at once.

    Args:
        settings: The scenario, and how it is run; the number of samples is another one.

    Returns:
        ``p50_ms`` and ``p99_ms`` per sample (in MultiStream per query), ``num_samples`` (or
        queries, or piles) and ``covers``, in words.
    """
    if settings.scenario == Scenario.SINGLE_STREAM:
        samples = run_single_stream(_answer_at_once, num_samples=NUM_SAMPLES, failure_types=())
    else:
        with SenderPool(_connect, settings.num_connections, ()) as pool:
            pool.warm_up()
            samples = _load(settings, pool)
    summary = summarize(samples)
    return {
        "p50_ms": summary.p50,
        "p99_ms": summary.p99,
        "num_samples": summary.count,
        "covers": f"{_COVERS[settings.scenario]}; {_NOT_COVERED}",
    }


def _load(settings: LoadSettings, pool: SenderPool) -> LatencySamples:
    if settings.scenario == Scenario.MULTI_STREAM:
        size = settings.samples_per_query
        return run_multi_stream(pool, num_queries=NUM_SAMPLES, samples_per_query=size)
    if settings.server is not None:
        arrivals_ns = poisson_arrivals_ns(_RATE_PER_S, NUM_SAMPLES, settings.server.seed)
        return run_scheduled(pool, arrivals_ns).samples
    # The latency of a sample in a pile grows with the pile, so its share of the time is taken.
    size = settings.num_connections
    piles = [run_scheduled(pool, [0] * size) for _ in range(_NUM_PILES)]
    return LatencySamples(tuple(pile.duration_ns // size for pile in piles))


@contextlib.contextmanager
def _connect() -> Iterator[Send]:
    yield _answer_at_once


def _answer_at_once(index: int) -> None:
    """Do the work of no system."""
