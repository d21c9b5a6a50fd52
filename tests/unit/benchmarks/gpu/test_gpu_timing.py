"""How calls are timed. Clocks move when told to; CUDA's events are stand-ins, for there is no GPU."""

from __future__ import annotations

import pytest
import torch

from dinspect_bench.gpu import timing
from dinspect_bench.gpu.timing import CpuClock, CudaClock, time_call


class ScriptedClock:
    """Every call takes as long as its index tells, on the wall and on the device."""

    def __init__(self):
        self.indices = []
        self.now = 0.0

    def sample(self, call, index):
        call(index)
        self.indices.append(index)
        self.now += 0.1
        return (index + 1) * 1_000_000, (index + 1) * 500_000

    def queued(self, call, num_calls):
        return 0.25 * num_calls

    def now_s(self):
        return self.now


def test_samples_are_those_after_the_warm_up():
    clock, called = ScriptedClock(), []
    times = time_call(called.append, clock, max_samples=5, limit_s=100.0, now_s=clock.now_s)
    assert clock.indices == [0, *range(10), *range(5)]
    assert called == clock.indices
    assert (times.wall.count, times.wall.p50, times.wall.max) == (5, 3.0, 5.0)
    assert (times.device.p50, times.first_ms, times.queued_ms) == (1.5, 1.0, 1.25)


def test_time_ends_warm_up_and_samples():
    clock = ScriptedClock()
    times = time_call(lambda index: None, clock, max_samples=200, limit_s=0.95, now_s=clock.now_s)
    assert clock.indices == [0, *range(5), *range(10)]  # the warm-up is half as long
    assert times.wall.count == 10


def test_three_samples_are_taken_however_short_the_time():
    clock = ScriptedClock()
    times = time_call(lambda index: None, clock, max_samples=200, limit_s=0.0, now_s=clock.now_s)
    assert clock.indices == [0, 0, 0, 1, 2]
    assert times.wall.count == 3


def test_figures_are_those_of_the_record():
    clock = ScriptedClock()
    figures = time_call(
        lambda index: None, clock, max_samples=5, limit_s=100.0, now_s=clock.now_s
    ).figures()
    assert (figures["p50_ms"], figures["device_p50_ms"]) == (3.0, 1.5)
    assert figures["num_samples"] == 5
    assert figures["num_failed"] == 0
    assert figures["std_ms"] == pytest.approx(2.5**0.5)
    assert figures["device_std_ms"] == pytest.approx(2.5**0.5 / 2)


def test_cpu_has_no_second_clock_and_no_queue(monkeypatch):
    ticks = iter([1_000, 4_000])
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(ticks))
    assert CpuClock().sample(lambda index: None, 0) == (3_000, None)
    assert CpuClock().queued(lambda index: None, 3) is None
    figures = timing.CallTimes(
        timing.summarize(timing.LatencySamples((1_000_000,))), None, None, 1.0
    ).figures()
    assert figures["device_p50_ms"] is None


@pytest.fixture
def fake_cuda(monkeypatch):
    """Stand-ins for events and synchronisation that note their order; 2 ms between two events."""
    noted = []

    class FakeEvent:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            noted.append("record")

        def synchronize(self):
            noted.append("wait for the event")

        def elapsed_time(self, end):
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: noted.append("wait for the device"))
    return noted


def test_gpu_is_idle_before_and_done_after_a_sample(fake_cuda):
    wall_ns, device_ns = CudaClock().sample(lambda index: fake_cuda.append("call"), 7)
    assert device_ns == 2_000_000
    assert wall_ns > 0
    assert fake_cuda == ["wait for the device", "record", "call", "record", "wait for the event"]


def test_queued_calls_do_not_wait_for_each_other(fake_cuda):
    assert CudaClock().queued(lambda index: fake_cuda.append(index), 4) == 0.5
    assert fake_cuda == [
        "wait for the device", "record", 0, 1, 2, 3, "record", "wait for the event",
    ]  # fmt: skip
