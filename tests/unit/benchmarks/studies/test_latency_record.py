"""From inspections to a record, with times made up by hand."""

from __future__ import annotations

import pytest

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.statistics import ServerTimes, StepTimes
from dinspect_bench.studies.latency_record import MeasuredProduct, mean_stages, time_figures


def run_of(*samples_ms, backbone_ms=60.0, total_ms=90.0, failures=(), has_server=True):
    """AnomalyDINO without a map: the map's model is in the ensemble and does not run."""
    steps = (
        StepTimes("preprocess_448", 2, 0.5, 1.0, 8.0, 1.0),
        StepTimes("dinov2_vits14_448", 2, 1.5, 1.0, backbone_ms - 2, 1.0),
        StepTimes("cosine_knn_448", 2, 0.0, 1.0, 3.0, 1.0),
        StepTimes("anomaly_map", 0, 0.0, 0.0, 0.0, 0.0),
    )
    samples = LatencySamples(tuple(int(ms * 1e6) for ms in samples_ms), failures)
    server = ServerTimes("anomaly_dino_448", 2, total_ms, steps) if has_server else None
    return SingleStreamRun(samples, summarize(samples), server, "" if has_server else "restricted")


def test_times_are_over_all_samples_of_all_products():
    figures = time_figures(
        [MeasuredProduct(run_of(100.0, 110.0), 1.0), MeasuredProduct(run_of(120.0, 150.0), 2.0)]
    )
    assert figures["num_samples"] == 4
    assert figures["mean_ms"] == pytest.approx(120.0)
    assert figures["p50_ms"] == pytest.approx(115.0)
    assert figures["std_ms"] == pytest.approx(21.6025, abs=1e-3)
    assert (figures["num_failed"], figures["num_products"]) == (0, 2)
    assert figures["transport"] == "remainder"
    assert figures["memory_bank_s"] == pytest.approx(1.5)
    assert figures["memory_bank_std_s"] == pytest.approx(0.70711, abs=1e-4)


def test_bank_of_a_single_product_has_no_deviation_and_students_have_no_bank():
    one = time_figures([MeasuredProduct(run_of(100.0), 1.0)])
    assert (one["memory_bank_s"], one["memory_bank_std_s"]) == (1.0, None)
    assert (
        not {"memory_bank_s", "memory_bank_std_s"}
        & time_figures([MeasuredProduct(run_of(100.0))]).keys()
    )


def test_stages_add_up_to_the_clients_mean():
    stages = mean_stages([MeasuredProduct(run_of(100.0, 110.0))])
    assert stages == pytest.approx(
        {
            "preprocess": 10.0, "backbone": 60.0, "knn": 5.0, "queue": 2.0,
            "routing": 13.0, "transport": 15.0,
        }
    )  # fmt: skip
    assert sum(stages.values()) == pytest.approx(105.0)


def test_stages_of_products_count_by_their_samples():
    few = run_of(100.0, backbone_ms=60.0)
    many = run_of(100.0, 100.0, 100.0, backbone_ms=80.0, total_ms=110.0)
    stages = mean_stages([MeasuredProduct(few), MeasuredProduct(many)])
    assert stages["backbone"] == pytest.approx((60 + 3 * 80) / 4)
    assert sum(stages.values()) == pytest.approx(100.0)


def test_failed_inspection_is_no_row():
    failed = run_of(100.0, failures=("RequestTimeout: too late",))
    with pytest.raises(BenchmarkError, match="1 inspections failed, the first with: RequestTime"):
        time_figures([MeasuredProduct(run_of(1.0)), MeasuredProduct(failed)])


def test_server_that_hides_its_times_is_said():
    with pytest.raises(BenchmarkError, match="no times by step: restricted"):
        time_figures([MeasuredProduct(run_of(100.0, has_server=False))])
