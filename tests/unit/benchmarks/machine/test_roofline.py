"""Floors of the steps, by arithmetic on peaks made up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.operations import (
    Count,
    backbone_operations,
    knn_operations,
    map_operations,
    resize_operations,
    students_operations,
)
from dinspect_bench.machine.roofline import (
    Inspected,
    Peak,
    StepWork,
    anomaly_dino_work,
    floor_by_step,
    l2bt_work,
)
from dinspect_bench.machine.traffic import knn_traffic, preprocess_traffic, students_traffic
from dinspect_export.variants import VARIANTS

MADE_UP_PEAK = Peak({"fp32": 100e9, "bf16": 400e9, "int8": None}, copy_bytes_per_s=10e9)
VARIANT = VARIANTS["dinov2_vits14"]
IMAGE = Inspected(
    VARIANT, (32, 32), (12,), (300, 320), received_bytes=50_000, precision="fp32", with_map=True
)


def work(operations, traffic_bytes, precision="fp32"):
    return StepWork(Count({"all": operations}), Count({"all": traffic_bytes}), precision)


def test_floor_is_the_larger_of_computing_and_moving():
    floors = floor_by_step(
        {"computes": work(200_000_000, 1_000_000), "moves": work(1_000_000, 50_000_000)},
        MADE_UP_PEAK,
    )
    computes, moves = floors["computes"], floors["moves"]
    assert (computes.compute_ms, computes.memory_ms) == pytest.approx((2.0, 0.1))
    assert (computes.floor_ms, computes.bound) == (computes.compute_ms, "compute")
    assert (moves.compute_ms, moves.memory_ms) == pytest.approx((0.01, 5.0))
    assert (moves.floor_ms, moves.bound) == (moves.memory_ms, "memory")


def test_floor_is_that_of_the_steps_own_precision():
    floors = floor_by_step({"a": work(10**9, 1), "b": work(10**9, 1, "bf16")}, MADE_UP_PEAK)
    assert floors["a"].floor_ms == pytest.approx(10.0)
    assert floors["b"].floor_ms == pytest.approx(2.5)


def test_share_is_of_the_measured_time_and_absent_without_one():
    steps = {"a": work(10**9, 1), "b": work(10**9, 1), "c": work(10**9, 1)}
    floors = floor_by_step(steps, MADE_UP_PEAK, {"a": 40.0, "other": 1.0, "c": 0.0})
    assert list(floors) == ["a", "b", "c"]
    assert floors["a"].peak_share == pytest.approx(0.25)
    assert floors["b"].peak_share is None
    assert floors["c"].peak_share is None  # a step that was not needed
    assert floors["a"].to_dict() == {
        "operations": 10**9, "traffic_bytes": 1, "precision": "fp32",
        "floor_ms": pytest.approx(10.0),
        "bound": "compute", "measured_ms": 40.0, "peak_share": pytest.approx(0.25),
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_peak_that_was_not_measured_is_said(precision):
    with pytest.raises(
        BenchmarkError, match=f"no measured peak in {precision}, only in fp32, bf16"
    ):
        floor_by_step({"a": work(1, 1, precision)}, MADE_UP_PEAK)


def test_highest_figures_of_a_machine_count():
    quiet = {"matrix_product_flops": {"fp32": 5.0, "bf16": None}, "copy_bytes_per_s": 2.0}
    busy = {"matrix_product_flops": {"fp32": 3.0, "bf16": 4.0, "fp16": None},
            "copy_bytes_per_s": 3.0}  # fmt: skip
    for records in ([quiet, busy], [busy, quiet]):
        peak = Peak.from_records(records)
        assert peak.matrix_product_flops == {"fp32": 5.0, "bf16": 4.0, "fp16": None}
        assert peak.copy_bytes_per_s == 3.0


def test_anomaly_dino_has_its_steps_with_their_own_counts():
    steps = anomaly_dino_work(replace(IMAGE, precision="int8"), 8192, "bf16", masked=False)
    assert list(steps) == ["preprocess", "backbone", "knn", "map"]
    assert steps["preprocess"].operations == resize_operations((300, 320), (448, 448))
    assert steps["preprocess"].traffic == preprocess_traffic(50_000, (448, 448))
    assert steps["backbone"].operations == backbone_operations(VARIANT, (32, 32), 12)
    assert steps["backbone"].precision == "int8"
    assert steps["backbone"].traffic.parts["weights"] < 23_000_000  # a byte each
    assert steps["knn"].operations == knn_operations(384, (32, 32), 8192)
    assert steps["knn"].traffic == knn_traffic(384, (32, 32), 8192, "bf16")
    assert steps["knn"].precision == "bf16"
    assert steps["map"].operations == map_operations((300, 320), (32, 32))
    assert steps["map"].precision == "fp32"


def test_mask_belongs_to_the_search_step():
    plain = anomaly_dino_work(IMAGE, 8192, "bf16", masked=False)["knn"].operations
    masked = anomaly_dino_work(IMAGE, 8192, "bf16", masked=True)["knn"].operations
    assert masked.total - plain.total == 2 * 1024 * 384 * 384 + 2 * 1024 * 384


def test_step_that_is_not_asked_for_has_no_work():
    without = replace(IMAGE, with_map=False)
    assert list(anomaly_dino_work(without, 1024, "fp32", masked=True))[-1] == "knn"
    assert list(l2bt_work(without)) == ["preprocess", "backbone", "students"]


def test_l2bt_pads_to_a_square_and_draws_the_map_for_its_score():
    steps = l2bt_work(replace(IMAGE, layers=(8, 12)), "fp16")
    assert list(steps) == ["preprocess", "backbone", "students", "map"]
    assert steps["preprocess"].operations == resize_operations((320, 320), (448, 448))
    students = students_operations(384, (32, 32)).total
    assert steps["students"].operations.total == students + steps["map"].operations.total
    assert steps["students"].traffic == students_traffic(384, (32, 32), "fp16")
    assert steps["students"].precision == "fp16"
    assert steps["backbone"].traffic.parts["patch_tokens"] == 2 * 1024 * 384 * 4


def test_backbone_at_448_takes_what_the_roofline_says():
    """49 GFLOP at 100 GFLOP/s; 89 MB of weights would be moved in a fiftieth of that."""
    floors = floor_by_step(anomaly_dino_work(IMAGE, 8192, "fp32", masked=False), MADE_UP_PEAK)
    operations = 12 * (24 * 1025 * 384**2 + 4 * 1025**2 * 384) + 2 * 1024 * 588 * 384
    assert floors["backbone"].compute_ms == pytest.approx(operations / 100e6)
    assert 480 < floors["backbone"].floor_ms < 650
    assert floors["backbone"].bound == "compute"
