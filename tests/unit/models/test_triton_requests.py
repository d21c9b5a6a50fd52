from __future__ import annotations

import importlib
import json
import sys
import threading
import time
import types

import numpy as np
import pytest
from triton_stub import MetricFamily


class Tensor:
    """Hands values over like a stub's own tensor, changed by `garble`."""

    garble = staticmethod(lambda values: values)

    def __init__(self, name, values):
        self.values = values

    @classmethod
    def from_dlpack(cls, name, tensor):
        return cls(name, cls.garble(tensor.values))

    def as_numpy(self):
        return self.values


@pytest.fixture
def triton_requests(monkeypatch):
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.MetricFamily = Tensor, MetricFamily
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield importlib.import_module("triton_requests")
    del sys.modules["triton_requests"]


def test_parameters_are_read_from_the_config(triton_requests):
    config = {"parameters": {"precision": {"string_value": "auto"}}}
    assert triton_requests.start({"model_config": json.dumps(config)}) == {"precision": "auto"}


def test_models_refuse_an_interpreter_that_garbles_tensors(triton_requests, monkeypatch):
    """What Triton 2.51's stub does with numpy 2: every element equals the first."""
    first_everywhere = staticmethod(lambda values: np.full_like(values, values.flat[0]))
    monkeypatch.setattr(Tensor, "garble", first_everywhere)
    with pytest.raises(RuntimeError, match="pip install 'numpy<2'"):
        triton_requests.start({"model_config": '{"parameters": {}}'})


ARGS = {"model_name": "preprocess_448", "model_version": "1"}


@pytest.fixture
def durations(triton_requests):
    return triton_requests.DurationCounters(ARGS, {"decode": "decoding", "resize": "resizing"})


def test_parts_are_counted_by_name_in_microseconds(durations):
    families, counters = durations._families, durations._counters
    assert families["decode"].name == "dinspect_decode_duration_us"
    assert counters["resize"].labels == {"model": "preprocess_448", "version": "1"}
    before = time.perf_counter()
    with durations.measure("decode"):
        time.sleep(0.004)
    took_us = (time.perf_counter() - before) * 1e6
    durations.close()
    (counted,) = counters["decode"].increments
    assert 4000 <= counted <= took_us
    assert counters["resize"].increments == []


def test_a_part_that_fails_is_counted_too(durations):
    with pytest.raises(ValueError, match="damaged"), durations.measure("decode"):
        raise ValueError("damaged")
    durations.close()
    assert len(durations._counters["decode"].increments) == 1


def test_no_answer_waits_for_its_report(durations, monkeypatch):
    """Nor for one that never ends, nor is it failed by one that fails."""
    asked, go_on = threading.Event(), threading.Event()

    def stuck(value):
        asked.set()
        go_on.wait(30)
        raise RuntimeError("the server is gone")

    monkeypatch.setattr(durations._counters["decode"], "increment", stuck)
    for _ in range(3):
        with durations.measure("decode"):
            pass
    assert asked.wait(30)
    go_on.set()
    durations.close()
