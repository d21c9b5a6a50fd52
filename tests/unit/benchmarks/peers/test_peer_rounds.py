"""Samples in turn: their order, who is left out, and who works while it should wait."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from dinspect_bench.errors import LatencyError, PeerError
from dinspect_bench.peers.rounds import Measured, NotRun, Sample, balanced_orders, run_rounds

IMAGES = [Path("a.jpg"), Path("b.jpg")]


class ScriptedSystem:
    """Answers at once with latencies told in advance, and notes when it was asked."""

    def __init__(self, name, asked, latencies_ms=(), fails_at=None):
        self.name = name
        self._asked, self._latencies_ms, self._fails_at = asked, list(latencies_ms), fails_at
        self._count = 0

    def run(self, image):
        self._count += 1
        self._asked.append((self.name, image.name))
        if self._count == self._fails_at:
            raise PeerError(f"{self.name} is out of memory")
        latency_ms = self._latencies_ms.pop(0) if self._latencies_ms else 1.0
        return Sample(int(latency_ms * 1e6), None)

    def processor_s(self):
        return 7.0


def run(systems, **options):
    return run_rounds(systems, IMAGES, **{"num_warmup": 0, "pause_s": 0.0} | options)


def test_every_round_asks_each_system_for_the_same_image_and_the_orders_change():
    asked = []
    run([ScriptedSystem(name, asked) for name in "xyz"], num_rounds=8)
    assert "".join(name for name, _ in asked) == "xyzyzxzxyzyxxzyyxzxyzyzx"
    assert [image for _, image in asked] == [*3 * ["a.jpg"], *3 * ["b.jpg"]] * 4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 7])
def test_orders_are_balanced(size):
    names = "abcdefg"[:size]
    orders = balanced_orders(names)
    assert len(orders) == size * (1 + size % 2)
    assert all(sorted(order) == list(names) for order in orders)
    places = Counter((name, place) for order in orders for place, name in enumerate(order))
    assert set(places.values()) == {len(orders) // size}
    followers = Counter(pair for order in orders for pair in pairwise(order))
    assert len(followers) == size * (size - 1)
    assert len(set(followers.values())) <= 1


def test_warm_up_comes_first_and_does_not_count():
    asked = []
    systems = [ScriptedSystem("x", asked, [900, 800, 3, 4]), ScriptedSystem("y", asked)]
    outcomes = run(systems, num_rounds=2, num_warmup=2)
    assert [name for name, _ in asked] == ["x", "x", "y", "y", "x", "y", "y", "x"]
    assert outcomes["x"].latencies_ms == (3.0, 4.0)


def test_latencies_lie_in_the_order_of_the_rounds():
    systems = [ScriptedSystem("x", [], [5, 6, 7]), ScriptedSystem("y", [], [1, 2, 3])]
    outcomes = run(systems, num_rounds=3)
    assert list(outcomes) == ["x", "y"]
    assert outcomes["x"].latencies_ms == (5.0, 6.0, 7.0)
    assert outcomes["y"].latencies_ms == (1.0, 2.0, 3.0)


def test_system_that_fails_has_no_figures_and_the_others_go_on():
    asked = []
    systems = [ScriptedSystem("x", asked), ScriptedSystem("y", asked, fails_at=2)]
    outcomes = run(systems, num_rounds=4)
    assert outcomes["y"] == NotRun("failed in round 2 of 4: y is out of memory")
    assert len(outcomes["x"].latencies_ms) == 4
    assert [name for name, _ in asked].count("y") == 2


def test_system_that_fails_in_warm_up_is_never_measured():
    asked = []
    systems = [ScriptedSystem("x", asked, fails_at=1), ScriptedSystem("y", asked)]
    outcomes = run(systems, num_rounds=2, num_warmup=1)
    assert outcomes["x"] == NotRun("failed in warm-up: x is out of memory")
    assert isinstance(outcomes["y"], Measured)
    assert [name for name, _ in asked] == ["x", "y", "y", "y"]


def test_errors_that_are_no_peers_pass_through():
    class Wrong(ScriptedSystem):
        def run(self, image):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        run([Wrong("x", [])], num_rounds=1)


@pytest.mark.parametrize(
    ("systems", "images", "num_rounds"),
    [([], IMAGES, 1), ([ScriptedSystem("x", [])], [], 1), ([ScriptedSystem("x", [])], IMAGES, 0)],
)
def test_nothing_to_measure_is_refused(systems, images, num_rounds):
    with pytest.raises(LatencyError, match="must each be at least 1"):
        run_rounds(systems, images, num_rounds=num_rounds)


class WorkingSystem:
    """Uses a core all the time, only while it is asked, or never, by its own account."""

    def __init__(self, name):
        self.name = name
        self._worked_s = 0.0

    def run(self, image):
        time.sleep(0.01)
        self._worked_s += 0.01
        return Sample(10_000_000, None)

    def processor_s(self):
        return {"spins": time.monotonic(), "works": self._worked_s, "sleeps": 0.0}[self.name]


def test_only_a_system_that_works_while_others_are_measured_is_not_idle():
    systems = [WorkingSystem(name) for name in ("spins", "works", "sleeps")]
    outcomes = run(systems, num_rounds=3, pause_s=0.005)
    assert outcomes["spins"].idle_processor_share == pytest.approx(1.0, abs=0.05)
    assert outcomes["works"].idle_processor_share == 0.0
    assert outcomes["sleeps"].idle_processor_share == 0.0


def test_there_is_a_rest_before_every_sample():
    moments = []

    class Noting(ScriptedSystem):
        def run(self, image):
            moments.append(time.monotonic())
            return super().run(image)

    run([Noting("x", []), Noting("y", [])], num_rounds=2, pause_s=0.03)
    gaps = [after - before for before, after in pairwise(moments)]
    assert len(gaps) == 3
    assert min(gaps) >= 0.03


def test_samples_are_told_as_they_come():
    told = []
    run([ScriptedSystem("x", []), ScriptedSystem("y", [])], num_rounds=3,
        on_sample=lambda: told.append(1))  # fmt: skip
    assert len(told) == 6


def test_orders_of_nothing_are_empty():
    assert balanced_orders([]) == [[]]
