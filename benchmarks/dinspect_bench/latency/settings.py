"""MLPerf's four scenarios by name, and how each is run."""

from __future__ import annotations

from dataclasses import dataclass

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.server_rate import ServerSettings


class Scenario:
    """Names of the scenarios."""

    SINGLE_STREAM = "single_stream"
    MULTI_STREAM = "multi_stream"
    SERVER = "server"
    OFFLINE = "offline"


SCENARIOS = (Scenario.SINGLE_STREAM, Scenario.MULTI_STREAM, Scenario.SERVER, Scenario.OFFLINE)
NUM_SAMPLES = {
    Scenario.SINGLE_STREAM: 100,  # MLPerf's estimate of the 90th percentile takes 64
    Scenario.MULTI_STREAM: 662,  # the least for its estimate of the 99th
    Scenario.SERVER: 662,
    Scenario.OFFLINE: 256,
}
"""Samples that are timed by default; queries in MultiStream, samples at each rate in Server."""
SAMPLES_PER_QUERY = 8
CONCURRENCY = 64
SINGLE_STREAM_PERCENTILE = 0.9
MULTI_STREAM_PERCENTILE = 0.99


@dataclass(frozen=True)
class LoadSettings:
    """How a scenario is run.

    Attributes:
        scenario: One of `SCENARIOS`.
        num_samples: Samples, queries or samples at each rate; see `NUM_SAMPLES`.
        num_warmup: Samples before them.
        samples_per_query: Samples of a query, for MultiStream.
        concurrency: Connections, and so the most samples in flight, for Server and Offline.
        server: What the server is held to, for Server and no other.
        first_rate_per_s: Rate that Server's search begins with; None for half of what a single
            stream reaches.

    Raises:
        LatencyError: If a number makes no sense, or Server is not told what it is held to.
    """

    scenario: str = Scenario.SINGLE_STREAM
    num_samples: int = NUM_SAMPLES[Scenario.SINGLE_STREAM]
    num_warmup: int = 10
    samples_per_query: int = SAMPLES_PER_QUERY
    concurrency: int = CONCURRENCY
    server: ServerSettings | None = None
    first_rate_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.num_warmup < 0:
            raise LatencyError(f"{self.num_warmup} samples for warm-up must not be negative")
        if self.num_samples < 1:
            raise LatencyError(f"{self.num_samples} samples must be at least 1")
        if (self.scenario == Scenario.SERVER) != (self.server is not None):
            raise LatencyError(
                "the scenario server needs a latency bound, and no other takes one: "
                "--scenario server --latency-bound-ms 500"
            )

    @property
    def num_connections(self) -> int:
        """Connections that the scenario sends by."""
        if self.scenario == Scenario.SINGLE_STREAM:
            return 1
        if self.scenario == Scenario.MULTI_STREAM:
            return self.samples_per_query
        return min(self.concurrency, self.num_samples)
