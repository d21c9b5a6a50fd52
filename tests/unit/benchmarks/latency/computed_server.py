"""A server that is computed, and a clock that only moves when told to.

They stand in for connections and a server where a schedule is tested to the nanosecond.
"""

from __future__ import annotations

from concurrent.futures import Future

from dinspect_bench.latency.load import Outcome

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass when somebody sleeps."""

    def __init__(self):
        self.now_ns = 5_000

    def __call__(self):
        return self.now_ns

    def sleep_s(self, seconds):
        self.now_ns += round(seconds * 1e9)


class OneAtATime:
    """Answers samples in turn, each after some work; an answer is known as soon as it is sent."""

    def __init__(self, clock, work_ms, failing=()):
        self.clock, self.work_ms, self.failing = clock, work_ms, failing
        self.free_ns, self.sent = 0, []

    def submit(self, index):
        self.sent.append((index, self.clock.now_ns))
        self.free_ns = max(self.free_ns, self.clock.now_ns) + self.work_ms * MS
        future = Future()
        failure = "RefusedError: full" if index in self.failing else ""
        future.set_result(Outcome(self.free_ns, failure))
        return future
