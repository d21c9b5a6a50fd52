"""Latency with a clock that only moves when told to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dinspect_bench.errors import LatencyError, NothingSucceededError, StatisticsError
from dinspect_bench.latency.single_stream import (
    LatencySamples,
    SingleStreamRun,
    measure_single_stream,
    run_single_stream,
    server_times,
    summarize,
)
from dinspect_bench.latency.statistics import Duration, ServerTimes, Snapshot

MS = 1_000_000
PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")


class FakeClock:
    """Nanoseconds that pass only inside the work."""

    def __init__(self):
        self.now_ns = 1_000

    def __call__(self):
        return self.now_ns

    def spend(self, ms):
        self.now_ns += int(ms * MS)


class RefusedError(Exception):
    """What the work raises when it fails."""


def run(durations_ms, *, failing=(), on_sample=None):
    clock = FakeClock()

    def send(index):
        clock.spend(durations_ms[index])
        if index in failing:
            raise RefusedError(f"sample {index}")

    return run_single_stream(
        send,
        num_samples=len(durations_ms),
        failure_types=(RefusedError,),
        clock_ns=clock,
        on_sample=on_sample,
    )


def test_each_sample_is_timed_once_in_order():
    assert run([3, 1, 2]).succeeded_ns == (3 * MS, 1 * MS, 2 * MS)


def test_a_failure_is_counted_and_never_timed():
    samples = run([10, 0.001, 20, 30], failing={1})
    assert samples.succeeded_ns == (10 * MS, 20 * MS, 30 * MS)
    assert samples.failures == ("RefusedError: sample 1",)
    summary = summarize(samples)
    assert (summary.count, summary.num_failed) == (3, 1)
    assert summary.min == 10.0


def test_a_bug_in_the_work_is_not_a_failed_sample():
    def send(index):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        run_single_stream(send, num_samples=1, failure_types=(RefusedError,))


def test_progress_is_told_after_every_sample_outside_its_time():
    calls = []
    samples = run([1, 2, 3], failing={1}, on_sample=lambda: calls.append(1))
    assert len(calls) == 3
    assert samples.succeeded_ns == (1 * MS, 3 * MS)


def test_summary_takes_percentiles_of_the_raw_samples_in_milliseconds():
    values_ms = list(range(1, 101))
    summary = summarize(LatencySamples(tuple(value * MS for value in reversed(values_ms))))
    assert summary.p50 == pytest.approx(50.5)
    assert summary.p90 == pytest.approx(90.1)
    assert summary.p99 == pytest.approx(99.01)
    assert summary.mean == pytest.approx(50.5)
    assert summary.std == pytest.approx(np.std(values_ms, ddof=1))
    assert (summary.min, summary.max, summary.count, summary.num_failed) == (1.0, 100.0, 100, 0)


def test_a_single_sample_has_no_spread():
    summary = summarize(LatencySamples((7 * MS,)))
    assert (summary.p50, summary.p99, summary.std) == (7.0, 7.0, 0.0)


def test_when_nothing_succeeded_the_first_reason_is_told():
    with pytest.raises(NothingSucceededError, match="RefusedError: sample 0") as caught:
        summarize(run([1, 1], failing={0, 1}))
    assert caught.value.exit_status == 3


def test_no_sample_to_take_is_refused():
    with pytest.raises(LatencyError, match="at least 1"):
        run([])


def test_measuring_needs_an_image_and_no_negative_warm_up():
    with pytest.raises(LatencyError, match="no image"):
        measure_single_stream(None, "localhost:1", "screw", [], ensemble="e")
    with pytest.raises(LatencyError, match="warm-up"):
        measure_single_stream(None, "localhost:1", "screw", [b""], ensemble="e", num_warmup=-1)


def reading(count, step_count=None):
    counts = {"e": count, "step": count if step_count is None else step_count}
    totals = {
        name: dict.fromkeys(PHASES, Duration(number, number * 5 * MS))
        for name, number in counts.items()
    }
    return Snapshot("e", ("step",), totals)


def test_server_times_are_those_of_the_run():
    times = server_times(reading(10), reading(14), num_succeeded=4)
    assert (times.count, times.total_ms) == (4, pytest.approx(5.0))


def test_server_times_with_other_peoples_requests_are_refused():
    with pytest.raises(StatisticsError, match="6 requests while 4"):
        server_times(reading(10), reading(16), num_succeeded=4)


def test_a_step_that_also_served_others_is_refused():
    with pytest.raises(StatisticsError, match="step ran 5 times while 4 requests"):
        server_times(reading(10), reading(14, step_count=15), num_succeeded=4)


def test_a_step_that_nobody_needed_is_none_of_others():
    times = server_times(reading(10, step_count=3), reading(14, step_count=3), num_succeeded=4)
    assert times.steps[0].count == 0


@pytest.mark.parametrize("index", [0, 1])
def test_a_missing_reading_tells_why(index):
    readings = [reading(1), reading(2)]
    readings[index] = "they are restricted"
    with pytest.raises(StatisticsError, match="restricted"):
        server_times(*readings, num_succeeded=1)


def test_transport_is_what_the_server_does_not_account_for():
    samples = LatencySamples((10 * MS, 14 * MS))
    summary = summarize(samples)
    server = ServerTimes("e", 2, 9.0, ())
    run_with_times = SingleStreamRun(samples, summary, server)
    assert run_with_times.transport_and_client_ms == pytest.approx(3.0)
    assert SingleStreamRun(samples, summary, None, "restricted").transport_and_client_ms is None


def test_warm_up_is_sent_before_the_first_reading_and_timed_by_nobody(monkeypatch):
    events = []

    class Reader:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            events.append("read")
            raise StatisticsError("restricted")

    class Client:
        def inspect(self, product, image, *, method, with_map):
            events.append("inspect")

    monkeypatch.setattr("dinspect_bench.latency.single_stream.StatisticsReader", Reader)
    found = measure_single_stream(
        Client(), "localhost:1", "screw", [b"image"], ensemble="e", num_samples=3, num_warmup=2
    )
    assert events == ["inspect", "inspect", "read", "inspect", "inspect", "inspect", "read"]
    assert found.summary.count == 3
    assert (found.server, found.server_unavailable) == (None, "restricted")


def test_metrics_are_read_around_the_same_samples(monkeypatch):
    parts = [{"decode": 0.0, "resize": 0.0}, {"decode": 4000.0, "resize": 2000.0}]
    readings = [
        replace(one, parts_us=parts_us, parts_unknown="")
        for one, parts_us in zip((reading(10), reading(12)), parts, strict=True)
    ]

    class Reader:
        def __init__(self, *arguments):
            assert arguments == ("localhost:1", "e", "http://localhost:2/metrics")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self):
            return readings.pop(0)

    class Client:
        def inspect(self, product, image, **options):
            pass

    monkeypatch.setattr("dinspect_bench.latency.single_stream.StatisticsReader", Reader)
    found = measure_single_stream(
        Client(), "localhost:1", "screw", [b"part"],
        ensemble="e", num_samples=2, num_warmup=0, metrics_url="http://localhost:2/metrics",
    )  # fmt: skip
    assert found.server.parts_ms == {"decode": 2.0, "resize": 1.0}


@pytest.mark.parametrize(
    ("options", "method"), [({}, "anomaly_dino"), ({"method": "l2bt"}, "l2bt")]
)
def test_every_inspection_is_by_the_method_that_is_measured(options, method):
    asked = []

    class Client:
        def inspect(self, product, image, **options):
            asked.append((product, image, options))

    measure_single_stream(
        Client(), "localhost:1", "screw", [b"a", b"b"],
        ensemble="e", num_samples=2, num_warmup=1, with_map=False, **options,
    )  # fmt: skip
    expected = {"method": method, "with_map": False}
    assert asked == [("screw", image, expected) for image in (b"a", b"a", b"b")]
