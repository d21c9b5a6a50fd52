"""The result's object: what programs read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from dinspect_bench.demo.result import build_result
from dinspect_bench.errors import DemoError
from dinspect_bench.files import json_text, write_text_atomically
from dinspect_bench.latency.single_stream import SingleStreamRun


def test_result_holds_what_is_promised_and_survives_json(result):
    read = json.loads(json_text(result))
    method = read["methods"]["anomaly_dino"]
    # Of 100 pairs the bad ones at 0.40 to 0.55 lose 3.5, 2.5, 1.5 and 0.5, ties counting half.
    assert method["image_auroc"] == pytest.approx(0.92)
    low, high = method["image_auroc_ci95"]
    assert low < method["image_auroc"] <= high
    assert method["num_images"] == 20
    assert (method["threshold"], method["bundle_version"]) == (0.5, 3)
    assert method["at_threshold"]["num_false_alarms"] == 2
    assert method["at_threshold"]["num_misses"] == 2
    assert method["at_threshold"]["num_undecided"] == 0
    assert method["images"][0] == {
        "file": "images/good0.png",
        "label": "functional",
        "score": 0.1,
        "verdict": "normal",
    }
    assert read["split"]["seed"] == 0
    assert read["split"]["enrolled"][0] == "images/ref0.png"
    assert read["latency_ms"]["p50"] == pytest.approx(100.0)
    assert read["server"]["version"] == "2.51.0"
    assert read["weights_sha256"] == "ab" * 32
    assert read["onnx_sha256"] == "cd" * 32
    assert read["precision"] == "bf16"
    assert read["created"] == "2025-03-01T12:30:00+00:00"
    assert read["seconds"]["export"] == 12.5


def test_no_absolute_path_of_the_data_is_recorded(result):
    assert "/data/" not in json_text(result)


def test_times_by_step_add_up_to_the_clients_mean(result):
    by_step = result["latency_by_step_ms"]
    steps = sum(step["total"] for step in by_step["steps"].values())
    parts = steps + by_step["between_steps"] + by_step["transport_and_client"]
    assert parts == pytest.approx(by_step["client_mean"]) == pytest.approx(100.0)
    assert by_step["transport_and_client"] == pytest.approx(5.0)
    assert by_step["between_steps"] == pytest.approx(3.0)
    assert by_step["steps"]["preprocess_448"]["total"] == pytest.approx(5.0)


def test_everything_but_the_backbone_counts_all_waiting_against_the_rest(result):
    checks = result["checks"]
    assert checks["backbone_ms"] == pytest.approx(70.0)
    assert checks["everything_but_backbone_ms"] == pytest.approx(30.0)
    assert checks["everything_but_backbone_is_less"] is True


def test_overlapping_steps_count_by_the_table_when_that_is_worse(
    split, enrolled, images, latency, l2bt, provenance
):
    # The steps come to 92 ms of a request that took the server 90: they overlap.
    summary = replace(latency.summary, mean=92.0)
    server = replace(latency.server, total_ms=90.0)
    run = SingleStreamRun(latency.samples, summary, server)
    result = build_result(split, enrolled, images, run, l2bt, provenance)
    assert result["latency_by_step_ms"]["between_steps"] == pytest.approx(-2.0)
    # Other steps 21, the backbone's queue 1, transport 2; the client's mean would say 22.
    assert result["checks"]["everything_but_backbone_ms"] == pytest.approx(24.0)


def test_a_slow_rest_is_admitted(split, enrolled, images, latency, l2bt, provenance):
    slow = tuple(3 * ns for ns in latency.samples.succeeded_ns)
    samples = replace(latency.samples, succeeded_ns=slow)
    summary = replace(latency.summary, mean=300.0)
    run = SingleStreamRun(samples, summary, latency.server)
    checks = build_result(split, enrolled, images, run, l2bt, provenance)["checks"]
    assert checks["everything_but_backbone_is_less"] is False


def test_without_the_servers_times_there_is_no_result(
    split, enrolled, images, latency, l2bt, provenance
):
    blind = replace(latency, server=None, server_unavailable="restricted")
    with pytest.raises(DemoError, match="restricted"):
        build_result(split, enrolled, images, blind, l2bt, provenance)


def test_a_threshold_that_is_no_number_is_refused(
    split, enrolled, images, latency, l2bt, provenance
):
    broken = replace(enrolled, threshold=float("inf"))
    with pytest.raises(DemoError, match="threshold"):
        build_result(split, broken, images, latency, l2bt, provenance)


def test_both_methods_are_counted_on_the_same_cells(result):
    methods = result["methods"]
    assert set(methods) == {"anomaly_dino", "l2bt"}
    assert methods["l2bt"]["image_auroc"] == methods["anomaly_dino"]["image_auroc"]
    assert methods["l2bt"]["threshold"] == 2 * methods["anomaly_dino"]["threshold"]
    assert methods["l2bt"]["ensemble"] == "l2bt_solar-mono_448"
    assert methods["l2bt"]["training"]["final_loss"] == 0.25


def test_json_refuses_what_it_cannot_say():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"p50": float("nan")})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_text_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]
