"""MLPerf's Server scenario: the highest rate of arrivals at which a latency bound is held.

Samples arrive as a Poisson process, as parts of many lines do that know nothing of each other. A
rate is held if the bound is kept by the percentile asked for, with the confidence of early
stopping; a sample that failed did not keep it. MLPerf leaves the search to the submitter and
suggests bisection; so it is here.

Source: MLPerf Inference Rules, sections "Scenarios" and "Benchmarks", appendix "Early Stopping
Criterion"; LoadGen draws the times between arrivals as here, from an exponential distribution by a
Mersenne Twister.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.early_stopping import allowed_over_latency, queries_needed
from dinspect_bench.latency.load import ScheduledRun, Sender, run_scheduled

_NS_PER_S = 1e9
_NS_PER_MS = 1e6
_MAX_DOUBLINGS = 12
_MAX_HALVINGS = 5  # by then samples hardly ever meet, and a lower rate would help no more
RESOLUTION = 0.05
"""Between the highest rate held and the lowest one not held, as a share."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server is held to.

    Attributes:
        latency_bound_ms: Latency that must be kept.
        percentile: Share of the samples that must keep it, in (0, 1).
        num_samples: Samples sent at each rate.
        seed: Of the arrivals.

    Raises:
        LatencyError: If a number makes no sense or the samples are too few to tell.
    """

    latency_bound_ms: float
    percentile: float = 0.99
    num_samples: int = 662
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.latency_bound_ms > 0:
            raise LatencyError(f"a latency bound of {self.latency_bound_ms} ms must be more than 0")
        if not 0 < self.percentile < 1:
            raise LatencyError(f"percentile {100 * self.percentile:g} must be between 0 and 100")
        needed = queries_needed(0, self.percentile)
        if self.num_samples < needed:
            raise LatencyError(
                f"{self.num_samples} samples at each rate cannot show that {self.percentile:.1%} "
                f"of all keep a bound; that takes {needed}, or a lower percentile"
            )


@dataclass(frozen=True)
class TriedRate:
    """What happened at one rate.

    Attributes:
        rate_per_s: Mean arrivals per second.
        run: What came of them.
        is_held: Whether the bound was kept.
    """

    rate_per_s: float
    run: ScheduledRun
    is_held: bool


def poisson_arrivals_ns(rate_per_s: float, num_arrivals: int, seed: int) -> list[int]:
    """When samples arrive, in nanoseconds from the begin.

    One seed gives the same arrivals at every rate, only closer together.
    """
    generator = np.random.Generator(np.random.MT19937(seed))
    between_s = generator.standard_exponential(num_arrivals) / rate_per_s
    return [int(due_ns) for due_ns in np.cumsum(between_s) * _NS_PER_S]


def try_rate(
    sender: Sender,
    rate_per_s: float,
    settings: ServerSettings,
    *,
    on_sample: Callable[[], object] | None = None,
    run: Callable[..., ScheduledRun] = run_scheduled,
) -> TriedRate:
    """Send samples at one rate; the rest is dropped once so many were late that it is not held.

    Args:
        sender: What sends them.
        rate_per_s: Mean arrivals per second.
        settings: What the server is held to.
        on_sample: Called after each sample, perhaps from another thread.
        run: Sends by a schedule, as `run_scheduled` does.
    """
    allowed = allowed_over_latency(settings.num_samples, settings.percentile)
    result = run(
        sender,
        poisson_arrivals_ns(rate_per_s, settings.num_samples, settings.seed),
        bound_ns=settings.latency_bound_ms * _NS_PER_MS,
        max_over_bound=allowed,
        on_sample=on_sample,
    )
    return TriedRate(rate_per_s, result, result.num_over_bound <= allowed)


def search_rate(try_one: Callable[[float], TriedRate], first_rate_per_s: float) -> list[TriedRate]:
    """Double or halve the rate until held and not held are known, then bisect between them.

    Args:
        try_one: Tries a rate.
        first_rate_per_s: Where to begin.

    Returns:
        Every rate that was tried, in that order; `highest_held` finds the result among them.

    Raises:
        LatencyError: If the first rate is not above 0.
    """
    if not (first_rate_per_s > 0 and math.isfinite(first_rate_per_s)):
        raise LatencyError(f"a rate of {first_rate_per_s} samples/s must be more than 0")
    tried = [try_one(first_rate_per_s)]
    factor, most = (2.0, _MAX_DOUBLINGS) if tried[0].is_held else (0.5, _MAX_HALVINGS)
    while tried[-1].is_held == tried[0].is_held:
        if len(tried) > most:
            return tried
        tried.append(try_one(tried[-1].rate_per_s * factor))
    held, not_held = sorted(one.rate_per_s for one in tried[-2:])
    while not_held > held * (1 + RESOLUTION):
        tried.append(try_one(math.sqrt(held * not_held)))
        if tried[-1].is_held:
            held = tried[-1].rate_per_s
        else:
            not_held = tried[-1].rate_per_s
    return tried


def highest_held(tried: list[TriedRate]) -> TriedRate | None:
    """The highest rate that was held; None if none was."""
    held = [one for one in tried if one.is_held]
    return max(held, key=lambda one: one.rate_per_s, default=None)
