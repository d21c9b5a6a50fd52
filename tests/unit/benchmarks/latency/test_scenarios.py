"""The scenarios on real threads, with a system in this process."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from dinspect_bench.errors import LatencyError, NothingSucceededError
from dinspect_bench.latency.null_system import measure_null_system
from dinspect_bench.latency.scenarios import measure_scenario, single_stream_figures
from dinspect_bench.latency.server_rate import ServerSettings
from dinspect_bench.latency.settings import SCENARIOS, LoadSettings, Scenario
from dinspect_bench.latency.single_stream import LatencySamples

MS = 1_000_000


class RefusedError(Exception):
    """What a sample fails with."""


class System:
    """Counts samples, and how many are in flight at once."""

    def __init__(self, work_s=0.0, fails=lambda count: False):
        self.work_s, self.fails = work_s, fails
        self.lock = threading.Lock()
        self.count = self.in_flight = self.most_in_flight = 0
        self.indices = []

    @contextlib.contextmanager
    def connect(self):
        yield self.send

    def send(self, index):
        with self.lock:
            self.count += 1
            self.indices.append(index)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            fails = self.fails(self.count)
        time.sleep(self.work_s)
        with self.lock:
            self.in_flight -= 1
        if fails:
            raise RefusedError(f"sample {index}")


class Bars:
    """Records what progress is told."""

    def __init__(self):
        self.shown = []

    @contextlib.contextmanager
    def __call__(self, what, total):
        self.shown.append([what, total, 0])

        def advance():
            self.shown[-1][2] += 1

        yield advance


def measured(system, bars=None, **options):
    settings = LoadSettings(**options)
    return measure_scenario(settings, system.connect, (RefusedError,), bars or Bars())


def test_multi_stream_sends_every_sample_of_a_query_at_once():
    system, bars = System(work_s=0.005), Bars()
    result = measured(
        system,
        bars,
        scenario=Scenario.MULTI_STREAM,
        num_samples=6,
        samples_per_query=4,
        num_warmup=8,
    )
    assert system.most_in_flight == 4
    assert system.count == 8 + 6 * 4
    assert sorted(system.indices[8:]) == list(range(24))
    assert result.summary.count == 6
    assert result.summary.min >= 5
    assert result.figures == {
        "samples_per_query": 4,
        "p99_early_stopping_ms": None,
        "p99_queries_needed": 662,
    }
    assert bars.shown == [["queries", 6, 6]]


def test_offline_counts_what_succeeded_over_the_whole_time():
    system, bars = System(work_s=0.002, fails=lambda count: count == 20), Bars()
    began = time.perf_counter()
    result = measured(
        system, bars, scenario=Scenario.OFFLINE, num_samples=40, concurrency=4, num_warmup=0
    )
    took = time.perf_counter() - began
    figures = result.figures
    assert system.most_in_flight == 4
    assert len(result.samples.failures) == 1
    assert figures["samples_per_s"] == pytest.approx(39 / figures["duration_s"])
    assert 40 / 4 * 0.002 <= figures["duration_s"] <= took
    assert figures["concurrency"] == 4
    assert result.summary is None
    assert bars.shown == [["samples", 40, 40]]


def test_no_more_connections_than_samples():
    system = System()
    result = measured(
        system, scenario=Scenario.OFFLINE, num_samples=3, concurrency=64, num_warmup=0
    )
    assert result.figures["concurrency"] == 3
    assert system.count == 3 + 3


def test_offline_without_a_success_is_an_error():
    system = System(fails=lambda count: count > 2)
    with pytest.raises(NothingSucceededError, match="RefusedError: sample 0"):
        measured(system, scenario=Scenario.OFFLINE, num_samples=4, concurrency=2, num_warmup=0)


def held_to(bound_ms):
    return ServerSettings(bound_ms, percentile=0.5, num_samples=12, seed=1)


def test_server_reports_the_highest_rate_held_and_all_that_were_tried():
    """After a warm-up of 4 and two rates of 12 samples the system refuses everything."""
    system, bars = System(fails=lambda count: count > 4 + 2 * 12), Bars()
    result = measured(
        system, bars, scenario=Scenario.SERVER, num_samples=12, num_warmup=0, concurrency=4,
        server=held_to(60_000), first_rate_per_s=1000.0,
    )  # fmt: skip
    figures = result.figures
    rates = [one["rate_per_s"] for one in figures["tried"]]
    assert rates[:4] == [1000.0, 2000.0, 4000.0, pytest.approx(2000 * 2**0.5)]
    assert [one["is_held"] for one in figures["tried"]] == [True, True, *[False] * (len(rates) - 2)]
    assert figures["rate_per_s"] == 2000.0
    assert figures["latency_bound_ms"] == 60_000
    assert (figures["percentile"], figures["samples_per_rate"], figures["seed"]) == (0.5, 12, 1)
    assert bars.shown[0] == ["1000.00 samples/s", 12, 12]
    assert len(bars.shown) == len(rates)
    assert (result.summary.count, len(result.samples.failures)) == (12, 0)


def test_server_begins_at_half_of_what_a_single_stream_reaches():
    system = System(work_s=0.004)
    result = measured(
        system, scenario=Scenario.SERVER, num_samples=12, num_warmup=0, concurrency=2,
        server=held_to(0.001),
    )  # fmt: skip
    first = result.figures["tried"][0]["rate_per_s"]
    assert 10 < first <= 125  # half of one per 4 ms, or less on a busy machine


def test_server_without_a_rate_that_is_held_says_so():
    result = measured(
        System(work_s=0.001), scenario=Scenario.SERVER, num_samples=12, num_warmup=0,
        concurrency=2, server=held_to(0.001), first_rate_per_s=1e5,
    )  # fmt: skip
    assert result.figures["rate_per_s"] is None
    assert not any(one["is_held"] for one in result.figures["tried"])
    assert result.summary is None
    assert result.samples == LatencySamples(())


def test_a_failed_sample_at_a_rate_is_as_bad_as_a_late_one():
    system = System(fails=lambda count: count > 2)
    result = measured(
        system, scenario=Scenario.SERVER, num_samples=12, num_warmup=0, concurrency=2,
        server=held_to(10_000), first_rate_per_s=1e6,
    )  # fmt: skip
    assert result.figures["rate_per_s"] is None
    tried = result.figures["tried"][0]
    assert tried["num_failed"] == tried["num_over_bound"] > 0
    assert tried["p99_ms"] is None


def test_single_stream_has_mlperfs_estimate():
    figures = single_stream_figures(LatencySamples(tuple(ms * MS for ms in range(100, 0, -1))))
    assert figures == {"p90_early_stopping_ms": 98.0, "p90_queries_needed": 64}
    few = single_stream_figures(LatencySamples((MS,) * 63))
    assert few["p90_early_stopping_ms"] is None


@pytest.mark.parametrize(("num_failed", "expected"), [(0, 98.0), (1, 99.0), (2, 100.0), (3, None)])
def test_failed_queries_are_later_than_any_answer(num_failed, expected):
    """Of 100 queries 2 may be later than the estimate; one that failed never came."""
    answered = tuple(ms * MS for ms in range(1, 101))
    samples = LatencySamples(answered[num_failed:], ("no answer",) * num_failed)
    assert single_stream_figures(samples)["p90_early_stopping_ms"] == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_warmup": -1}, "-1 samples for warm-up"),
        ({"num_samples": 0}, "0 samples must be at least 1"),
        ({"scenario": Scenario.SERVER}, "needs a latency bound"),
        ({"server": held_to(1)}, "no other takes one"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(LatencyError, match=said):
        LoadSettings(**options)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_null_system_is_measured_by_the_scenario_itself(scenario):
    """The time is not held to 1 ms here but for the loop without threads: a busy machine is slow."""
    server = ServerSettings(100) if scenario == Scenario.SERVER else None
    found = measure_null_system(LoadSettings(scenario=scenario, concurrency=4, server=server))
    assert 0 < found["p50_ms"] <= found["p99_ms"]
    assert found["num_samples"] == (30 if scenario == Scenario.OFFLINE else 300)
    assert found["covers"].endswith("not the client library, gRPC or the server")
    if scenario == Scenario.SINGLE_STREAM:
        assert found["p50_ms"] < 1
