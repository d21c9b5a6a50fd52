"""Peaks and the device's state: rates from times, the best of several, what the driver says."""

from __future__ import annotations

import subprocess

import pytest
import torch

from dinspect_bench.gpu import device, peak
from dinspect_bench.gpu.device import gpu_state, record_device, state_from_csv
from dinspect_bench.gpu.peak import (
    COPIES,
    PRECISIONS,
    best_of,
    copy_rate,
    measure_peaks,
    product_rate,
)

LINE = "NVIDIA H100 80GB HBM3, 580.159.04, 9.0, 81559, 1980, 1980, 2619, 118.42, 700.00, 31\n"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_product_runs(precision):
    assert product_rate(precision, 64, "cpu")["operations_per_s"] > 0


def test_products_are_what_they_are_called():
    types = {name: peak._product(name, 64, "cpu")().dtype for name in PRECISIONS}
    assert types == {
        "fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16,
        "bf16": torch.bfloat16, "int8": torch.int32,
    }  # fmt: skip


def test_tf32_is_on_for_its_own_product_alone(monkeypatch):
    seen = []

    def note(call, device):
        seen.append(torch.get_float32_matmul_precision())
        return 1.0

    monkeypatch.setattr(peak, "_mean_s", note)
    for precision in ("fp32", "tf32", "fp16"):
        product_rate(precision, 64, "cpu")
    assert seen == ["highest", "high", "highest"]


def test_rates_count_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(peak, "_mean_s", lambda call, device: 2.0)
    assert product_rate("fp32", 100, "cpu") == {"operations_per_s": 1e6}
    monkeypatch.setattr(peak, "_buffer", lambda size, pinned: None)
    assert copy_rate("device", 1000) == {"bytes_per_s": 1000.0}  # read and written in two seconds
    assert copy_rate("host to device", 1000) == {"bytes_per_s": 500.0}
    assert copy_rate("device to host", 1000) == {"bytes_per_s": 500.0}


def test_copies_go_the_way_they_say(monkeypatch):
    def buffer(size, pinned):
        return FakeBuffer("host" if pinned else "device")

    class FakeBuffer:
        def __init__(self, where):
            self.where = where

        def copy_(self, source, non_blocking):
            assert non_blocking
            return f"{source.where} to {self.where}"

    ways = {}
    monkeypatch.setattr(peak, "_buffer", buffer)
    for way in COPIES:
        monkeypatch.setattr(
            peak, "_mean_s", lambda call, device, way=way: ways.setdefault(way, call()) and 1.0
        )
        copy_rate(way, 8)
    assert ways == {
        "device": "device to device",
        "host to device": "host to device",
        "device to host": "device to host",
    }


def test_the_best_of_each_counts():
    products = [
        {"precision": "fp16", "side": 4096, "operations_per_s": 5e14},
        {"precision": "fp16", "side": 8192, "operations_per_s": 7e14},
        {"precision": "fp16", "side": 16384, "operations_per_s": 6e14},
        {"precision": "fp32", "side": 4096, "operations_per_s": 5e13},
    ]
    found = best_of(products, [{"way": "device", "bytes_per_s": 3e12}])
    assert found["matrix_product_flops"] == {
        "fp32": 5e13, "tf32": None, "fp16": 7e14, "bf16": None, "int8": None,
    }  # fmt: skip
    assert found["reached_by"]["fp16"] == "torch, 8192 x 8192"
    assert found["copy_bytes_per_s"] == 3e12
    assert found["host_to_device_bytes_per_s"] is None


def test_on_a_cpu_the_machines_own_peak_is_recorded(run, monkeypatch):
    durations = []

    def measure(duration_s):
        durations.append(duration_s)
        return {"record": "peak", "created": "", "environment": {}, "copy_bytes_per_s": 1.0}

    monkeypatch.setattr("dinspect_bench.machine.peak.measure_peak", measure)
    measure_peaks(run)
    measure_peaks(run)
    assert len(durations) == 1
    (record,) = run.all("peak")
    assert (record["device"], record["copy_bytes_per_s"]) == ("cpu", 1.0)
    assert record["environment"]["cpu"]


def test_state_of_the_gpu_is_read():
    state = state_from_csv(LINE)
    assert (state["name"], state["driver"], state["compute_capability"]) == (
        "NVIDIA H100 80GB HBM3", "580.159.04", "9.0",
    )  # fmt: skip
    assert (state["memory_mib"], state["power_w"], state["temperature_c"]) == (
        81559.0,
        118.42,
        31.0,
    )
    assert state["max_sm_clock_mhz"] == 1980.0


def test_what_the_driver_does_not_tell_stays_text():
    state = state_from_csv(LINE.replace("118.42", "[N/A]"))
    assert state["power_w"] == "[N/A]"
    assert state_from_csv("No devices were found\n") == {}
    assert state_from_csv("") == {}


def test_driver_is_asked_for_what_is_read(monkeypatch):
    def answer(command, **options):
        assert command[0] == "nvidia-smi"
        assert command[1].count(",") == LINE.count(",")
        return subprocess.CompletedProcess(command, 0, LINE, "")

    monkeypatch.setattr(device.subprocess, "run", answer)
    assert gpu_state()["sm_clock_mhz"] == 1980.0


def test_machine_without_a_driver_has_no_state(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert gpu_state() == {}
    record_device(run, "now")
    (record,) = run.all("device")
    assert record["moment"] == "now"
    assert record["versions"]["torch"] == torch.__version__
    assert "sm_clock_mhz" not in record
