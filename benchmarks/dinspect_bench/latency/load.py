"""Load by several connections at once: queries of many samples, and samples by a schedule.

The rules are MLPerf's: a latency counts from the moment a sample was due, so the time it waited for
a free connection or a late clock is in it, and a server that stalls cannot slow the load down and
look good by that (coordinated omission). A sample that failed has no latency.

MLPerf's own LoadGen does not drive the load, though the tests compare results with its. It knows no
failed sample: each must be completed, and a refusal would be timed as a quick answer. An error
raised below it ends the process with a segmentation fault, and it tells the latency of a single
sample in log files only.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.single_stream import LatencySamples, failure_reason

if TYPE_CHECKING:
    from typing_extensions import Self

Send = Callable[[int], object]
"""Sends the sample with the given index and returns when it is answered."""

_NS_PER_S = 1e9
_LONGEST_SLEEP_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """How a sample ended.

    Attributes:
        completed_ns: When, by the load's clock.
        failure: Why it failed; empty when it succeeded.
    """

    completed_ns: int
    failure: str = ""


class Sender(Protocol):
    """Takes samples and answers later."""

    def submit(self, index: int) -> Future[Outcome]:
        """Send the sample with the given index as soon as a connection is free."""


class SenderPool:
    """Threads that send samples, each by a connection of its own; a context manager.

    Args:
        connect: Makes one thread's connection, a context manager of what sends by it.
        num_senders: Threads, and so the most samples in flight.
        failure_types: Errors of sending that make a failed sample; others are bugs and pass.
        clock_ns: Monotonic clock in nanoseconds.

    Raises:
        LatencyError: If there is no thread.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Send]],
        num_senders: int,
        failure_types: tuple[type[Exception], ...],
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        if num_senders < 1:
            raise LatencyError(f"{num_senders} connections must be at least 1")
        self._connect = connect
        self._num_senders = num_senders
        self._failure_types = failure_types
        self._clock_ns = clock_ns
        self._connections = contextlib.ExitStack()
        self._own = threading.local()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._num_senders, initializer=self._start_thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._connections.close()

    def _start_thread(self) -> None:
        self._own.send = self._connections.enter_context(self._connect())

    def warm_up(self) -> None:
        """Send one untimed sample by each connection, all at once.

        Raises:
            Exception: What a sample fails with.
        """
        # None goes on before all have come, so each sample meets a thread of its own.
        together = threading.Barrier(self._num_senders)

        def send(index: int) -> None:
            together.wait()
            self._own.send(index)

        for done in [self._pool.submit(send, index) for index in range(self._num_senders)]:
            done.result()

    def submit(self, index: int) -> Future[Outcome]:
        """Send the sample with the given index as soon as a connection is free."""
        return self._pool.submit(self._send, index)

    def _send(self, index: int) -> Outcome:
        try:
            self._own.send(index)
        except self._failure_types as error:
            return Outcome(self._clock_ns(), failure_reason(error))
        return Outcome(self._clock_ns())


def run_multi_stream(
    sender: Sender,
    *,
    num_queries: int,
    samples_per_query: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    on_query: Callable[[], object] | None = None,
) -> LatencySamples:
    """Send queries of several samples, the next one when all of the last are answered.

    Args:
        sender: What sends the samples of a query, all at once if it has enough connections.
        num_queries: At least 1.
        samples_per_query: At least 1.
        clock_ns: Monotonic clock in nanoseconds, the sender's too.
        on_query: Called after each query, outside its time.

    Returns:
        For each query the time to its last answer; a query with a failed sample failed.

    Raises:
        LatencyError: If there is nothing to send.
    """
    if num_queries < 1 or samples_per_query < 1:
        raise LatencyError(
            f"{num_queries} queries of {samples_per_query} samples must be at least 1 of 1"
        )
    succeeded_ns: list[int] = []
    failures: list[str] = []
    for query in range(num_queries):
        first = query * samples_per_query
        begin_ns = clock_ns()
        sent = [sender.submit(index) for index in range(first, first + samples_per_query)]
        outcomes = [future.result() for future in sent]
        failed = [outcome.failure for outcome in outcomes if outcome.failure]
        if failed:
            failures.append(failed[0])
        else:
            succeeded_ns.append(max(outcome.completed_ns for outcome in outcomes) - begin_ns)
        if on_query is not None:
            on_query()
    return LatencySamples(tuple(succeeded_ns), tuple(failures))


@dataclass(frozen=True)
class ScheduledRun:
    """What came of samples that were sent by a schedule.

    Attributes:
        samples: Latencies from the moment each was due, in the order of the schedule.
        num_over_bound: Samples that took longer than the bound, or failed.
        duration_ns: From the begin of the schedule to the last answer.
        is_complete: Whether all were sent; else too many were over the bound.
    """

    samples: LatencySamples
    num_over_bound: int
    duration_ns: int
    is_complete: bool


def run_scheduled(
    sender: Sender,
    due_ns: Sequence[int],
    *,
    bound_ns: float = float("inf"),
    max_over_bound: int | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    sleep_s: Callable[[float], object] = time.sleep,
    on_sample: Callable[[], object] | None = None,
) -> ScheduledRun:
    """Send each sample when it is due, whether earlier ones are answered or not.

    Args:
        sender: What sends them.
        due_ns: When each is due, in nanoseconds from now, ascending; all 0 is MLPerf's Offline.
        bound_ns: The longest latency that is not over the bound.
        max_over_bound: As soon as more samples than this are over the bound, no more are sent; None
            for no such limit.
        clock_ns: Monotonic clock in nanoseconds, the sender's too.
        sleep_s: Waits for some seconds.
        on_sample: Called after each sample, perhaps from another thread.

    Raises:
        LatencyError: If there is nothing to send.
    """
    if not due_ns:
        raise LatencyError("0 samples must be at least 1")
    watch = _Watch(bound_ns, max_over_bound, on_sample)
    sent: list[tuple[int, Future[Outcome]]] = []
    begin_ns = clock_ns()
    for index, offset_ns in enumerate(due_ns):
        due_at_ns = begin_ns + offset_ns
        while not watch.saw_enough() and (early_ns := due_at_ns - clock_ns()) > 0:
            sleep_s(min(early_ns / _NS_PER_S, _LONGEST_SLEEP_S))
        if watch.saw_enough():
            break
        future = sender.submit(index)
        sent.append((due_at_ns, future))
        watch.add(future, due_at_ns)
    return _collect(sent, begin_ns, len(due_ns), watch)


class _Watch:
    """Counts, while they come in, the samples that are over the bound."""

    def __init__(
        self,
        bound_ns: float,
        max_over_bound: int | None,
        on_sample: Callable[[], object] | None,
    ) -> None:
        self._bound_ns = bound_ns
        self._max_over_bound = float("inf") if max_over_bound is None else max_over_bound
        self._on_sample = on_sample
        self._over_bound: list[int] = []  # of any thread: only appended to

    def add(self, future: Future[Outcome], due_at_ns: int) -> None:
        future.add_done_callback(lambda done: self._see(done, due_at_ns))

    def _see(self, done: Future[Outcome], due_at_ns: int) -> None:
        if done.cancelled() or done.exception() is not None:
            return
        if self.is_over(done.result(), due_at_ns):
            self._over_bound.append(due_at_ns)
        if self._on_sample is not None:
            self._on_sample()

    def is_over(self, outcome: Outcome, due_at_ns: int) -> bool:
        return bool(outcome.failure) or outcome.completed_ns - due_at_ns > self._bound_ns

    def saw_enough(self) -> bool:
        return len(self._over_bound) > self._max_over_bound


def _collect(
    sent: Sequence[tuple[int, Future[Outcome]]], begin_ns: int, num_due: int, watch: _Watch
) -> ScheduledRun:
    succeeded_ns: list[int] = []
    failures: list[str] = []
    num_over_bound, end_ns = 0, begin_ns
    for due_at_ns, future in sent:
        if watch.saw_enough():
            future.cancel()  # if it is still waiting for a connection
        try:
            outcome = future.result()
        except CancelledError:
            continue
        end_ns = max(end_ns, outcome.completed_ns)
        num_over_bound += watch.is_over(outcome, due_at_ns)
        if outcome.failure:
            failures.append(outcome.failure)
        else:
            succeeded_ns.append(outcome.completed_ns - due_at_ns)
    samples = LatencySamples(tuple(succeeded_ns), tuple(failures))
    is_complete = len(succeeded_ns) + len(failures) == num_due
    return ScheduledRun(samples, num_over_bound, end_ns - begin_ns, is_complete)
