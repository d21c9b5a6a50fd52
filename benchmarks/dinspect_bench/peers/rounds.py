"""Samples of several systems in turn, so that what the machine does meanwhile hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dinspect_bench.errors import LatencyError, PeerError

PAUSE_S = 0.05
"""Before each sample, for the threads of the one before to fall asleep. OpenBLAS's, which NumPy
brings along, wait for more work for 2**26 cycles, which is 20 to 30 ms."""
ORDERS = "balanced"
"""Of the systems in the rounds, for the record: each follows every other equally often."""
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Sample:
    """One image inspected by one system.

    Attributes:
        latency_ns: Time the system took, in nanoseconds.
        score: Its image score; None from a system that makes none.
    """

    latency_ns: int
    score: float | None


class System(Protocol):
    """Something that inspects images.

    Attributes:
        name: What it is called in results.
    """

    name: str

    def run(self, image: Path) -> Sample:
        """Inspect one image.

        Raises:
            PeerError: If it cannot, and the others are to go on without it.
        """

    def processor_s(self) -> float:
        """Processor time its processes have used so far, in seconds."""


@dataclass(frozen=True)
class Measured:
    """A system that answered in every round.

    Attributes:
        latencies_ms: One per round.
        idle_processor_share: Processor time its processes used while another system was measured,
            as a share of that time; 1 is one core busy all the time.
    """

    latencies_ms: tuple[float, ...]
    idle_processor_share: float


@dataclass(frozen=True)
class NotRun:
    """A system that has no figures.

    Attributes:
        reason: Why.
    """

    reason: str


class _Watched:
    """A system in a run, with what it used while it was not asked anything."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.latencies_ms: list[float] = []
        self.idle_processor_s = self.idle_s = 0.0
        self._rests()

    def sample(self, image: Path) -> None:
        self.idle_processor_s += self.system.processor_s() - self._processor_s
        self.idle_s += time.monotonic() - self._since_s
        self.latencies_ms.append(self.system.run(image).latency_ns / _NS_PER_MS)
        self._rests()

    def measured(self) -> Measured:
        share = self.idle_processor_s / self.idle_s if self.idle_s else 0.0
        return Measured(tuple(self.latencies_ms), share)

    def _rests(self) -> None:
        self._processor_s = self.system.processor_s()
        self._since_s = time.monotonic()


def run_rounds(
    systems: Sequence[System],
    images: Sequence[Path],
    *,
    num_rounds: int,
    num_warmup: int = 2,
    pause_s: float = PAUSE_S,
    on_sample: Callable[[], object] | None = None,
) -> dict[str, Measured | NotRun]:
    """One sample of each system in every round, all of the same image, in balanced orders.

    A system that fails once has no figures at all and is asked nothing more.

    Args:
        systems: Ready to run, their names all different.
        images: Inspected in turn, one per round.
        num_rounds: Samples of each system.
        num_warmup: Samples of each before the first round, which do not count.
        pause_s: Rest before each sample, in seconds.
        on_sample: Called after each sample of a round, outside its time.

    Returns:
        Name to outcome, in the order of ``systems``.

    Raises:
        LatencyError: If there is no system, no image or no round.
    """
    if not systems or not images or num_rounds < 1:
        raise LatencyError(
            f"{len(systems)} systems, {len(images)} images and {num_rounds} rounds must each be "
            "at least 1"
        )
    failures: dict[str, str] = {}
    for system in systems:
        try:
            for index in range(num_warmup):
                system.run(images[index % len(images)])
        except PeerError as error:
            failures[system.name] = f"failed in warm-up: {error}"
    watched = {one.name: _Watched(one) for one in systems if one.name not in failures}
    orders = balanced_orders(list(watched))
    for number in range(num_rounds):
        for name in orders[number % len(orders)]:
            if name in failures:
                continue
            time.sleep(pause_s)
            try:
                watched[name].sample(images[number % len(images)])
            except PeerError as error:
                failures[name] = f"failed in round {number + 1} of {num_rounds}: {error}"
            if on_sample is not None:
                on_sample()
    return _outcomes(systems, watched, failures)


def balanced_orders(names: Sequence[str]) -> list[list[str]]:
    """Orders in which each comes equally often at each place, and equally often after each other.

    What runs before leaves its mark on caches and threads, so no two must always be neighbours.

    Source: E. J. Williams, "Experimental Designs Balanced for the Estimation of Residual Effects of
    Treatments", Australian Journal of Scientific Research A 2 (1949), 149-168.

    Args:
        names: All, different from each other.

    Returns:
        As many orders as there are names, twice as many if that number is odd; one empty order for
        no names.
    """
    size = len(names)
    # 0, 1, last, 2, last but one, ...: neighbours differ by every step once.
    zigzag = [(place + 1) // 2 if place % 2 else -(place // 2) % size for place in range(size)]
    orders = [[names[(start + step) % size] for step in zigzag] for start in range(size)]
    if size % 2:
        orders += [order[::-1] for order in orders]
    return orders or [[]]


def _outcomes(
    systems: Sequence[System], watched: Mapping[str, _Watched], failures: Mapping[str, str]
) -> dict[str, Measured | NotRun]:
    return {
        one.name: NotRun(failures[one.name])
        if one.name in failures
        else watched[one.name].measured()
        for one in systems
    }
