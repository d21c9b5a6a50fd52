"""The rows of the latency tables, and what they run, on the CPU at the smallest sizes there are."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.cases import EAGER, GRAPH, PARTS, Case, latency_cases
from dinspect_bench.gpu.chains import Replayed, call_of
from dinspect_bench.gpu.device_map import DeviceMap
from dinspect_bench.gpu.latency import engine_targets, measure_part
from dinspect_bench.gpu.networks import (
    exact_products,
    on_device,
    random_backbone,
    random_bank,
    random_pixels,
    random_students,
    random_tokens,
)
from dinspect_bench.gpu.scope import scope_of
from dinspect_bench.gpu.search import TorchSearch
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.variants import variant_by_name

SMALL = "dinov2_vits14"
RTX = ("tensorrt-rtx",)


def case(part, method=None, **changes):
    bank = 64 if method == "anomaly_dino" else None
    return Case(part, method, SMALL, 28, 2, bank, "fp32", "pytorch", **changes)


def all_cases(scope, targets=RTX):
    return [one for part in PARTS for one in latency_cases(scope, part, targets)]


def test_gpu_rows_are_those_the_issue_asks_for():
    cases = all_cases(scope_of("cuda", quick=False))
    assert len({tuple(one.key().items()) for one in cases}) == len(cases)

    def values(name, **where):
        return {
            getattr(one, name)
            for one in cases
            if all(getattr(one, key) == value for key, value in where.items())
        }

    assert values("batch") == {1, 8}
    assert values("resolution", backbone=SMALL) == {448, 672, 1036}
    ways = {(one.runtime, one.precision) for one in cases if one.part == "backbone"}
    assert ways == {("pytorch", "fp32"), ("pytorch", "fp16"), ("tensorrt-rtx", "fp16")}
    assert values("bank_patches", part="knn") == {1024, 8192, 204_800}
    assert values("runtime", part="knn") == {"pytorch", "cupy"}
    assert values("resolution", part="map") == {448, 672, 1036}
    # The paper's claim: its size and teacher, students only and the whole image, by both runtimes.
    for part in ("after_backbone", "whole_image"):
        where = {"part": part, "method": "l2bt", "backbone": "dinov2_vitb14", "resolution": 1036}
        assert values("runtime", **where) == {"pytorch", "tensorrt-rtx"}
        assert values("bank_patches", part=part, method="anomaly_dino") == {8192}
    assert values("execution", batch=8) == {EAGER}
    assert values("execution", precision="fp32") == {EAGER}
    assert values("execution", part="whole_image", batch=1, precision="fp16") == {EAGER, GRAPH}


def test_search_is_no_engine():
    cases = latency_cases(scope_of("cuda", quick=False), "after_backbone", RTX)
    assert {one.runtime for one in cases if one.method == "anomaly_dino"} == {"pytorch"}


def test_cpu_rows_are_in_fp32_and_as_they_come():
    cases = all_cases(scope_of("cpu", quick=False))
    ways = {(one.runtime, one.precision, one.execution) for one in cases}
    assert ways == {
        ("pytorch", "fp32", EAGER), ("cupy", "fp32", EAGER), ("tensorrt-rtx", "fp16", EAGER),
    }  # fmt: skip


@torch.inference_mode()
def test_parts_give_what_the_next_one_takes(run):
    earlier, later = call_of(case("backbone"), run)(0)
    assert earlier.shape == later.shape == (2, 4, 384)
    assert call_of(case("students", "l2bt"), run)(0).shape == (2, 2, 2)
    assert call_of(case("knn", "anomaly_dino"), run)(0).shape == (2, 4)
    assert call_of(case("map"), run)(0).shape == (2, 28, 28)


@torch.inference_mode()
def test_after_the_backbone_of_anomaly_dino_is_search_and_map(run):
    tokens = random_tokens(SMALL, 28, 2, "cpu")[1]
    search = TorchSearch(random_bank(384, 64, "cpu"), "fp32")
    expected = DeviceMap((2, 2), 28, "cpu")(search(tokens).reshape(2, 2, 2))
    assert torch.equal(call_of(case("after_backbone", "anomaly_dino"), run)(1), expected)


@torch.inference_mode()
def test_whole_image_by_anomaly_dino_searches_the_last_block(run):
    (pixels, *_) = random_pixels(28, 2, "cpu")
    tokens = random_backbone(SMALL, 28, "fp32", "cpu")(pixels)[-1]
    search = TorchSearch(random_bank(384, 64, "cpu"), "fp32")
    expected = DeviceMap((2, 2), 28, "cpu")(search(tokens).reshape(2, 2, 2))
    assert torch.equal(call_of(case("whole_image", "anomaly_dino"), run)(0), expected)


@torch.inference_mode()
def test_whole_image_by_l2bt_compares_both_blocks(run):
    (pixels, *_) = random_pixels(28, 2, "cpu")
    tokens = random_backbone(SMALL, 28, "fp32", "cpu")(pixels)
    expected = DeviceMap((2, 2), 28, "cpu")(random_students(SMALL, 28, "fp32", "cpu")(*tokens))
    assert torch.equal(call_of(case("whole_image", "l2bt"), run)(0), expected)


@torch.inference_mode()
def test_samples_take_different_inputs_in_turn(run):
    call = call_of(case("map"), run)
    maps = [call(index) for index in range(5)]
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[4])


def test_half_precision_leaves_the_original_alone():
    network = VisionTransformer(variant_by_name(SMALL), depth=1)
    model = ExportableBackbone(network, (2, 2), (1,)).eval()
    half, full = (on_device(model, precision, "cpu") for precision in ("fp16", "fp32"))
    assert half.network.blocks[0].mlp.inner.fc1.weight.dtype == torch.float16
    theirs = {parameter.data_ptr() for parameter in network.parameters()}
    for copied in (half, full):
        assert theirs.isdisjoint(parameter.data_ptr() for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_students_in_half_precision_put_out_fp32():
    students = random_students(SMALL, 28, "fp16", "cpu")
    assert students.pair.forward_student.input.weight.dtype == torch.float16
    with torch.inference_mode():
        assert students(*random_tokens(SMALL, 28, 1, "cpu")[:2]).dtype == torch.float32


def test_tf32_is_only_used_when_it_is_asked_for():
    exact_products(False)
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    exact_products(True)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_rows_are_recorded_with_their_settings_and_figures(run):
    measure_part(run, "map")
    first, second = run.all("latency")
    assert (first["batch"], second["batch"]) == (1, 2)
    assert first["scenario"] == "single_stream"
    assert first["with_map"] is True
    assert 0 < first["p50_ms"] <= first["p99_ms"]
    assert first["device_p50_ms"] is None
    assert [one["moment"] for one in run.all("device")] == [
        "before the rows of map", "after the rows of map",
    ]  # fmt: skip
    measure_part(run, "map")
    assert len(run.all("latency")) == 2


def test_engines_and_cupy_are_told_to_be_missing_on_a_cpu(run):
    measure_part(run, "knn")
    measure_part(run, "students")
    reasons = {(one["runtime"], one["reason"]) for one in run.all("not_run")}
    assert reasons == {
        ("cupy", "CuPy runs on an NVIDIA GPU, and this machine has none"),
        ("tensorrt-rtx", "engines run on an NVIDIA GPU, and this machine has none"),
    }
    assert run.failed == 0


def test_row_of_an_engine_that_was_not_built_fails_on_a_gpu(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorrt_rtx" or None)
    engine = replace(case("backbone"), runtime="tensorrt-rtx")
    wanted = "no proven tensorrt-rtx engine of the backbone dinov2_vits14 at 28"
    with pytest.raises(BenchmarkError, match=wanted):
        call_of(engine, run)


def test_native_engines_are_measured_where_tensorrt_is_installed(monkeypatch):
    assert engine_targets() == RTX
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorrt" or None)
    assert engine_targets() == ("tensorrt-rtx", "tensorrt")


def test_recorded_step_is_replayed_on_new_inputs(monkeypatch):
    """CUDA graphs are stood in for: what is checked is which memory is read and written."""
    recorded, calls = [], []

    class FakeGraph:
        def replay(self):
            recorded[0](*recorded[1])

    output = torch.zeros(3)

    def step(x, y):
        calls.append((x.data_ptr(), y.data_ptr()))
        return output.copy_(x - 2 * y)

    @contextlib.contextmanager
    def record(graph, stream):
        assert stream == "the current stream"
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "the current stream")
    example = (torch.ones(3), torch.zeros(3))
    replayed = Replayed(step, example)
    recorded[:] = [step, replayed._inputs]
    assert len(calls) == 4  # three times before it is recorded
    given = (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.5, 1.0]))
    assert replayed(*given).tolist() == [0.0, 1.0, 1.0]
    assert len(set(calls)) == 1
    assert calls[0][0] not in (example[0].data_ptr(), given[0].data_ptr())
    assert example[0].tolist() == [1.0, 1.0, 1.0]
