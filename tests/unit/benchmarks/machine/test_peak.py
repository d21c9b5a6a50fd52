"""The machine's peak: how the best is found, with a clock made up by hand, and once for real."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pytest

from dinspect_bench.errors import MissingDependencyError
from dinspect_bench.machine import peak
from dinspect_bench.machine.peak import (
    Trial,
    best_rates,
    chained_matrices,
    measure_peak,
    product_chain,
)


class HandClock:
    """A clock that only moves when a run takes time."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def run_of(self, *durations_s):
        """A run that takes these times in turn, and the last ever after."""
        left = list(durations_s)

        def run():
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_best_is_the_shortest_run_of_the_fastest_trial():
    clock = HandClock()
    trials = [
        Trial("fp32", "small", 100, clock.run_of(0.01, 0.3, 0.2, 0.4)),
        Trial("fp32", "large", 900, clock.run_of(1.0)),
        Trial("copy", "copied", 50, clock.run_of(0.25)),
    ]
    found = best_rates(trials, 3.0, clock)
    assert found.keys() == {"fp32", "copy"}
    assert found["fp32"].what == "large"
    assert found["fp32"].per_s == pytest.approx(900)
    assert found["copy"].per_s == pytest.approx(200)


def test_first_run_of_a_trial_does_not_count():
    """It compiles, allocates, wakes threads; here it is the quickest by far and must not win."""
    clock = HandClock()
    found = best_rates([Trial("fp32", "a", 100, clock.run_of(0.001, 0.5))], 1.0, clock)
    assert found["fp32"].per_s == pytest.approx(200)


def test_one_undisturbed_run_among_many_is_enough():
    clock = HandClock()
    busy_but_once = clock.run_of(0.04, *[0.04] * 30, 0.01, 0.04)
    found = best_rates([Trial("fp32", "a", 1, busy_but_once)], 2.0, clock)
    assert found["fp32"].per_s == pytest.approx(100)


def test_all_trials_have_a_turn_even_if_the_first_takes_all_the_time():
    clock = HandClock()
    trials = [Trial("fp32", "slow", 1, clock.run_of(9.0)), Trial("bf16", "b", 1, clock.run_of(0.1))]
    assert best_rates(trials, 0.5, clock)["bf16"].per_s == pytest.approx(10)


def test_short_trial_runs_many_times_in_its_turn():
    clock, runs = HandClock(), []
    advance = clock.run_of(0.001)

    def run():
        runs.append(clock())
        advance()

    best_rates([Trial("fp32", "a", 1, run)], 0.01, clock)
    assert len(runs) == 1 + 50


def test_peak_of_this_machine_is_a_record(monkeypatch):
    """For real, small and short: whatever the machine, FP32 products and copies have a rate."""
    monkeypatch.setattr(peak, "SHAPES", ((64, 256),))
    monkeypatch.setattr(peak, "_COPY_BYTES", 1 << 20)
    record = measure_peak(duration_s=0.2)
    json.dumps(record, allow_nan=False)
    assert record["record"] == "peak"
    assert datetime.fromisoformat(record["created"]).tzinfo is not None
    rates = record["matrix_product_flops"]
    assert list(rates) == ["fp32", "fp16", "bf16", "int8"]
    assert 1e8 < rates["fp32"] < 1e16
    assert all(rate is None or rate > 1e8 for rate in rates.values())
    assert 1e7 < record["copy_bytes_per_s"] < 1e13
    assert record["reached_by"].keys() == {name for name in rates if rates[name]} | {"copy"}
    assert record["num_threads"] >= 1
    assert record["environment"]["cpu"]["model"]


def test_copy_moves_every_byte_both_ways(monkeypatch):
    monkeypatch.setattr(peak, "_COPY_BYTES", 1001)
    with peak.ThreadPoolExecutor(3) as pool:
        trial = peak._copy_trial(pool, 3)
        assert trial.amount == 2 * 1001
        target = trial.run.__closure__
        trial.run()
    arrays = [
        np.concatenate([part[0] for part in cell.cell_contents])
        for cell in target
        if isinstance(cell.cell_contents, list)
    ]
    assert len(arrays) == 1
    assert arrays[0].size == 1001
    assert arrays[0].all()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_products_are_products(precision):
    """By NumPy in FP32; a quantised graph is near, and not the same."""
    import openvino

    rows, width = 8, 64
    model = product_chain(rows, width, precision)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = peak._random(rows, width)
    expected = given
    for matrix in chained_matrices(width):
        expected = expected @ matrix.T
    assert 0.8 < expected.std() < 1.25  # within what is quantised
    error = np.abs(compiled([given])[0] - expected.max(axis=1)).max()
    least, most = {"fp32": (0.0, 1e-4), "int8": (1e-4, 0.2)}[precision]
    assert least <= error < most


def test_without_any_runtime_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(peak.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs OpenVINO or PyTorch; install"):
        measure_peak()
