"""Server's arrivals, verdict and search. The server is computed."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from computed_server import FakeClock, OneAtATime

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.load import ScheduledRun, run_scheduled
from dinspect_bench.latency.server_rate import (
    RESOLUTION,
    ServerSettings,
    TriedRate,
    highest_held,
    poisson_arrivals_ns,
    search_rate,
    try_rate,
)
from dinspect_bench.latency.single_stream import LatencySamples


def test_arrivals_are_those_of_the_seed():
    first = poisson_arrivals_ns(10, 50, seed=3)
    assert first == poisson_arrivals_ns(10, 50, seed=3)
    assert first != poisson_arrivals_ns(10, 50, seed=4)
    assert all(0 < a < b for a, b in pairwise(first))


def test_another_rate_moves_the_same_arrivals_together():
    slow, fast = (np.array(poisson_arrivals_ns(rate, 100, seed=0)) for rate in (5, 20))
    np.testing.assert_allclose(slow, 4 * fast, rtol=1e-6)


def test_arrivals_are_a_poisson_process():
    """Numbers of arrivals in seconds have the rate for their mean and for their variance."""
    arrivals_s = np.array(poisson_arrivals_ns(20, 100_000, seed=0)) / 1e9
    counts = np.bincount(arrivals_s.astype(int))[:-1]
    assert counts.mean() == pytest.approx(20, rel=0.02)
    assert counts.var() == pytest.approx(20, rel=0.06)
    between = np.diff(arrivals_s)
    assert np.corrcoef(between[1:], between[:-1])[0, 1] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency_bound_ms": 0}, "0 ms must be more than 0"),
        ({"latency_bound_ms": float("nan")}, "nan ms"),
        ({"percentile": 1.0}, "percentile 100"),
        ({"num_samples": 458}, "458 samples.*99.0% of all.*takes 459"),
        ({"num_samples": 43, "percentile": 0.9}, "takes 44"),
    ],
)
def test_what_cannot_be_told_is_refused(options, said):
    with pytest.raises(LatencyError, match=said):
        ServerSettings(**{"latency_bound_ms": 100, **options})


def outcome(num_over_bound, held_to, is_complete=True):
    """A run in which so many were late."""
    samples = LatencySamples((1,) * held_to.num_samples)
    asked = []

    def run(sender, due_ns, **options):
        asked.append((due_ns, options))
        return ScheduledRun(samples, num_over_bound, 1, is_complete)

    return try_rate(None, 10.0, held_to, run=run), asked[0]


def test_a_rate_is_held_if_no_more_are_late_than_early_stopping_allows():
    held_to = ServerSettings(100, percentile=0.9, num_samples=100, seed=5)
    assert outcome(3, held_to)[0].is_held
    tried, (due_ns, options) = outcome(4, held_to)
    assert not tried.is_held
    assert due_ns == poisson_arrivals_ns(10.0, 100, seed=5)
    assert options["bound_ns"] == 100e6
    assert options["max_over_bound"] == 3


def test_search_finds_what_a_server_of_known_speed_holds():
    """One worker that takes 10 ms for each: queueing theory tells the rate.

    In a queue with Poisson arrivals and constant service the waiting time exceeds 40 ms in 10 % of
    all cases at a load of about 0.78 (Erlang's formula of M/D/1; simulated below by another way).
    """
    held_to = ServerSettings(50, percentile=0.9, num_samples=4000)

    def try_one(rate):
        clock = FakeClock()
        run = partial(run_scheduled, clock_ns=clock, sleep_s=clock.sleep_s)
        return try_rate(OneAtATime(clock, 10), rate, held_to, run=run)

    best = highest_held(search_rate(try_one, first_rate_per_s=10))
    assert best.rate_per_s == pytest.approx(rate_by_recursion(held_to), rel=0.06)
    assert 70 < best.rate_per_s < 85


def rate_by_recursion(held_to, service_s=0.01):
    """Lindley's recursion of the waiting time, at ever higher rates."""
    gaps = np.diff(poisson_arrivals_ns(1.0, held_to.num_samples, held_to.seed), prepend=0) / 1e9
    for rate in np.arange(60, 100, 0.5):
        waiting, late = 0.0, 0
        for gap in gaps[1:] / rate:
            waiting = max(0.0, waiting + service_s - gap)
            late += waiting + service_s > held_to.latency_bound_ms / 1e3
        if late / held_to.num_samples > 0.09:
            return rate
    raise AssertionError("every rate was held")


def limit(highest):
    """Holds every rate up to one."""
    tried = []

    def try_one(rate):
        tried.append(rate)
        return TriedRate(rate, ScheduledRun(LatencySamples(()), 0, 0, True), rate <= highest)

    return try_one, tried


@pytest.mark.parametrize("first", [0.5, 7.9, 8.1, 100.0])
def test_search_ends_between_a_rate_that_is_held_and_one_that_is_not(first):
    try_one, rates = limit(8.0)
    tried = search_rate(try_one, first)
    assert [one.rate_per_s for one in tried] == rates
    best = highest_held(tried).rate_per_s
    not_held = min(one.rate_per_s for one in tried if not one.is_held)
    assert best <= 8.0 < not_held <= best * (1 + RESOLUTION)
    assert len(tried) <= 13


def test_search_gives_up_in_both_directions():
    try_one, rates = limit(0.0)
    assert highest_held(search_rate(try_one, 10.0)) is None
    assert rates == [10.0 / 2**halvings for halvings in range(6)]
    try_one, rates = limit(1e12)
    assert highest_held(search_rate(try_one, 10.0)).rate_per_s == pytest.approx(10 * 2**12)


@pytest.mark.parametrize("first", [0, -1, float("nan"), float("inf")])
def test_search_needs_a_rate_to_begin_with(first):
    with pytest.raises(LatencyError, match="must be more than 0"):
        search_rate(limit(1.0)[0], first)
