"""Load from several connections: schedules on a computed server, `SenderPool` on real threads."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Future

import pytest
from computed_server import MS, FakeClock, OneAtATime

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.load import (
    Outcome,
    SenderPool,
    run_multi_stream,
    run_scheduled,
)


def scheduled(due_ms, work_ms, *, failing=(), oversleep_ms=0, **options):
    clock = FakeClock()
    server = OneAtATime(clock, work_ms, failing)
    run = run_scheduled(
        server,
        [due * MS for due in due_ms],
        clock_ns=clock,
        sleep_s=lambda seconds: clock.sleep_s(seconds + oversleep_ms / 1e3),
        **options,
    )
    return run, server


def test_samples_are_sent_when_they_are_due():
    run, server = scheduled([0, 30, 100], work_ms=10)
    assert [(index, at - 5_000) for index, at in server.sent] == [
        (0, 0),
        (1, 30 * MS),
        (2, 100 * MS),
    ]
    assert run.samples.succeeded_ns == (10 * MS,) * 3
    assert run.duration_ns == 110 * MS
    assert run.is_complete


def test_waiting_behind_others_counts():
    """Each is due 5 ms after the last and takes 10: every one waits 5 ms longer."""
    run, _ = scheduled([0, 5, 10, 15], work_ms=10)
    assert run.samples.succeeded_ns == tuple(ms * MS for ms in (10, 15, 20, 25))


def test_a_late_clock_does_not_shorten_a_latency():
    """Every sleep takes 3 ms too long; the latency counts from the moment a sample was due."""
    run, server = scheduled([10, 20], work_ms=4, oversleep_ms=3)
    assert [at - 5_000 for _, at in server.sent] == [13 * MS, 23 * MS]
    assert run.samples.succeeded_ns == (7 * MS, 7 * MS)


def test_all_at_once_is_a_pile():
    run, server = scheduled([0] * 5, work_ms=8)
    assert {at for _, at in server.sent} == {5_000}
    assert run.samples.succeeded_ns == tuple(8 * MS * place for place in (1, 2, 3, 4, 5))
    assert run.duration_ns == 40 * MS


def test_a_failure_has_no_latency_and_is_over_any_bound():
    run, _ = scheduled([0, 50, 100], work_ms=1, failing={1}, bound_ns=1000 * MS)
    assert run.samples.succeeded_ns == (MS, MS)
    assert run.samples.failures == ("RefusedError: full",)
    assert run.num_over_bound == 1
    assert run.is_complete


def test_exactly_the_bound_is_not_over_it():
    assert scheduled([0], work_ms=10, bound_ns=10 * MS)[0].num_over_bound == 0
    assert scheduled([0], work_ms=10, bound_ns=10 * MS - 1)[0].num_over_bound == 1


def test_the_rest_is_dropped_once_too_many_are_over_the_bound():
    due = range(0, 500, 5)
    run, server = scheduled(due, work_ms=10, bound_ns=20 * MS, max_over_bound=2)
    # 10, 15, 20, then 25, 30, 35 ms: with the third over the bound it is decided.
    assert len(server.sent) == 6
    assert run.num_over_bound == 3
    assert not run.is_complete
    assert len(scheduled(due, work_ms=10, bound_ns=20 * MS)[1].sent) == 100


def test_as_many_as_allowed_do_not_stop_it():
    run, server = scheduled(range(0, 30, 5), work_ms=10, bound_ns=20 * MS, max_over_bound=3)
    assert len(server.sent) == 6
    assert (run.num_over_bound, run.is_complete) == (3, True)


def test_samples_that_still_wait_are_cancelled_when_it_is_decided():
    """The first answer comes late and decides; what waits for a connection is not sent any more."""
    clock = FakeClock()
    waiting = [Future() for _ in range(4)]

    class Full:
        def submit(self, index):
            if index == 3:
                clock.sleep_s(1)
                waiting[0].set_running_or_notify_cancel()
                waiting[0].set_result(Outcome(clock.now_ns))
            return waiting[index]

    run = run_scheduled(
        Full(), [0] * 4, bound_ns=MS, max_over_bound=0, clock_ns=clock, sleep_s=clock.sleep_s
    )
    assert [future.cancelled() for future in waiting[1:]] == [True] * 3
    assert (run.num_over_bound, run.is_complete) == (1, False)
    assert run.samples.succeeded_ns == (1000 * MS,)


def test_progress_is_told_of_every_sample():
    calls = []
    scheduled([0, 1, 2], work_ms=1, failing={2}, on_sample=lambda: calls.append(1))
    assert len(calls) == 3


def test_nothing_to_send_is_refused():
    with pytest.raises(LatencyError, match="at least 1"):
        scheduled([], work_ms=1)
    with pytest.raises(LatencyError, match="0 queries of 8 samples"):
        run_multi_stream(None, num_queries=0, samples_per_query=8)
    with pytest.raises(LatencyError, match="5 queries of 0 samples"):
        run_multi_stream(None, num_queries=5, samples_per_query=0)
    with pytest.raises(LatencyError, match="0 connections"):
        SenderPool(None, 0, ())


class Waiting(OneAtATime):
    """As if the one who sends waits: the clock is at the last answer when all are asked for."""

    def submit(self, index):
        future = super().submit(index)
        result, clock = future.result, self.clock

        def wait():
            clock.now_ns = max(clock.now_ns, result().completed_ns)
            return result()

        future.result = wait
        return future


def multi_stream(num_queries, samples_per_query, failing=(), **options):
    clock = FakeClock()
    server = Waiting(clock, 10, failing)
    samples = run_multi_stream(
        server,
        num_queries=num_queries,
        samples_per_query=samples_per_query,
        clock_ns=clock,
        **options,
    )
    return samples, server


def test_a_query_ends_with_its_last_sample():
    samples, server = multi_stream(2, 3)
    assert samples.succeeded_ns == (30 * MS, 30 * MS)
    assert [index for index, _ in server.sent] == [0, 1, 2, 3, 4, 5]


def test_the_next_query_is_sent_when_the_last_is_answered():
    _, server = multi_stream(2, 2)
    assert [at - 5_000 for _, at in server.sent] == [0, 0, 20 * MS, 20 * MS]


def test_a_query_with_a_failed_sample_failed():
    calls = []
    samples, _ = multi_stream(3, 2, failing={3}, on_query=lambda: calls.append(1))
    assert samples.succeeded_ns == (20 * MS, 20 * MS)
    assert samples.failures == ("RefusedError: full",)
    assert len(calls) == 3


class RefusedError(Exception):
    """What sending raises when a sample fails."""


class Connections:
    """Counts connections and who sends by them."""

    def __init__(self, work=lambda index: None):
        self.work, self.opened, self.closed, self.senders = work, 0, 0, []

    @contextlib.contextmanager
    def connect(self):
        self.opened += 1
        connection = self.opened
        try:
            yield lambda index: self.send(connection, index)
        finally:
            self.closed += 1

    def send(self, connection, index):
        self.senders.append((connection, threading.current_thread().name))
        self.work(index)


def test_each_thread_has_a_connection_of_its_own_and_all_are_closed():
    connections = Connections()
    with SenderPool(connections.connect, 5, ()) as pool:
        pool.warm_up()
        assert len(set(connections.senders)) == 5
        for future in [pool.submit(index) for index in range(40)]:
            future.result()
        assert connections.opened == 5
    assert connections.closed == 5
    assert len(set(connections.senders)) == 5


def test_a_failed_sample_is_an_outcome_and_a_bug_is_not():
    def work(index):
        raise RefusedError("full") if index else TypeError("a bug")

    with SenderPool(Connections(work).connect, 1, (RefusedError,), clock_ns=lambda: 7) as pool:
        assert pool.submit(1).result() == Outcome(7, "RefusedError: full")
        with pytest.raises(TypeError, match="a bug"):
            pool.submit(0).result()


def test_a_sample_of_the_warm_up_that_fails_is_told():
    def work(index):
        if index == 2:
            raise RefusedError("not enrolled")

    with (
        SenderPool(Connections(work).connect, 4, (RefusedError,)) as pool,
        pytest.raises(RefusedError, match="not enrolled"),
    ):
        pool.warm_up()


def test_a_bug_in_sending_ends_a_scheduled_run():
    def work(index):
        if index == 1:
            raise TypeError("a bug")

    with (
        SenderPool(Connections(work).connect, 1, (RefusedError,)) as pool,
        pytest.raises(TypeError, match="a bug"),
    ):
        run_scheduled(pool, [0] * 5)


def test_the_pool_answers_a_schedule_and_queries():
    with SenderPool(Connections().connect, 3, ()) as pool:
        run = run_scheduled(pool, [0, MS, 2 * MS])
        samples = run_multi_stream(pool, num_queries=4, samples_per_query=3)
    assert len(run.samples.succeeded_ns) == 3
    assert all(ns > 0 for ns in run.samples.succeeded_ns)
    assert run.duration_ns >= 2 * MS
    assert len(samples.succeeded_ns) == 4
