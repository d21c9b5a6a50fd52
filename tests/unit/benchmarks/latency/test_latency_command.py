"""The program around the measurement: report, record, tables, exit statuses."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from datetime import datetime

import pytest

from dinspect_bench.latency import command as latency_command
from dinspect_bench.latency.command import exit_status, main
from dinspect_bench.latency.report import (
    record_from_report,
    scenario_report,
    single_stream_report,
)
from dinspect_bench.latency.scenarios import ScenarioResult
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.text import format_report
from dinspect_bench.latency.transport import TransportTimes
from dinspect_bench.records import RecordFile

MS = 1_000_000
TRANSPORT = TransportTimes(30, client_ms=5.5, server_ms=0.5)
NULL = {"p50_ms": 0.0001, "p99_ms": 0.0002, "num_samples": 300, "covers": "the loop"}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "part.png"
    path.write_bytes(b"bytes")
    return path


def completed(result, scenario="single_stream"):
    """A whole report, as `measure` puts it together."""
    return {
        "run": {
            "scenario": scenario,
            "product": "screw@3",
            "method": "anomaly_dino",
            "ensemble": "anomaly_dino_448",
            "backbone": "dinov2_vits14",
            "resolution": 448,
            "shots": 4,
            "bank_patches": 4096,
            "masking": False,
            "rotation": "informed",
            "with_map": True,
            "runtime": "openvino 2026.4",
            "precision": "bf16",
            "num_images": 2,
            "image_bytes": [5, 6],
            "server_version": "2.51.0",
        },
        **result,
        "null_system": NULL,
        "environment": {"cpu": {"model": "a processor"}},
    }


def report_of(run, transport=TRANSPORT):
    return completed(single_stream_report(run, transport))


def server_report(rate, tried):
    samples = LatencySamples((100 * MS, 120 * MS) if rate else ())
    figures = {
        "latency_bound_ms": 250.0,
        "percentile": 0.99,
        "rate_per_s": rate,
        "tried": [
            {
                "rate_per_s": at,
                "is_held": held,
                "num_over_bound": over,
                "p50_ms": 1.0,
                "p99_ms": p99,
            }
            for at, held, over, p99 in tried
        ],
    }
    summary = summarize(samples) if rate else None
    return completed(scenario_report(ScenarioResult(samples, summary, figures)), "server")


def rows(text):
    return {line[:24].strip(): line[24:].split() for line in text.splitlines() if line}


def test_tables_hold_every_figure(latency):
    lines = rows(format_report(report_of(latency)))
    assert lines["ms/sample"] == ["100.0", "101.6", "102.0", "100.0", "2.0", "98.0", "102.0"]
    assert lines["Triton's own times"] == ["queue", "input", "infer", "output", "total", "share"]
    assert lines["dinov2_vits14_448"] == ["1.0", "1.0", "68.0", "1.0", "71.0", "71.0", "%"]
    assert lines["transport and client"] == ["5.0", "5.0", "%"]


def test_stages_are_a_table_that_ends_with_the_whole(latency):
    lines = rows(format_report(report_of(latency)))
    assert lines["backbone"] == ["70.0", "70.0", "%"]
    assert lines["queue"] == ["1.5", "1.5", "%"]
    assert lines["transport"] == ["5.0", "5.0", "%"]
    assert lines["sum of the stages"] == ["100.0", "100.0", "%"]
    assert lines["client's mean"] == ["100.0", "100.0", "%"]


def test_transport_that_is_left_over_is_called_so_and_is_no_sum(latency):
    report = report_of(latency, "a model is added only with --serve")
    assert (report["transport"], report["stages_sum_share"]) == ("remainder", None)
    text = format_report(report)
    assert "transport is what is left over: a model is added only with --serve" in text
    assert "sum of the stages" not in text


def test_decoding_and_resizing_are_told_apart_or_said_not_to_be(latency):
    assert "decoding and resizing are one stage: the address" in format_report(report_of(latency))
    server = replace(latency.server, parts_ms={"decode": 1.0, "resize": 2.0}, parts_unknown="")
    text = format_report(report_of(replace(latency, server=server)))
    assert rows(text)["decode"] == ["1.0", "1.0", "%"]
    assert "one stage" not in text


def test_what_is_below_zero_is_explained(latency):
    report = report_of(latency)
    assert "Below zero" not in format_report(report)
    report["latency_by_step_ms"]["transport_and_client"] = -0.01
    assert rows(format_report(report))["transport and client"] == ["0.0", "0.0", "%"]
    report["latency_by_step_ms"]["transport_and_client"] = -1.2
    assert "Below zero" in format_report(report)


def test_tables_do_without_the_servers_times(latency):
    blind = SingleStreamRun(latency.samples, latency.summary, None, "they are restricted")
    report = report_of(blind)
    assert "no times by step: they are restricted" in format_report(report)
    assert report["stages_ms"] is None
    assert record_from_report(report)["stages_ms"] is None


def test_early_stopping_has_its_line(latency):
    text = format_report(report_of(latency))
    assert "p90 by MLPerf's early stopping: takes 64 queries, of which few enough fail" in text
    samples = LatencySamples((100 * MS,) * 64)
    run = SingleStreamRun(samples, summarize(samples), None, "restricted")
    assert "p90 by MLPerf's early stopping: 100.0 ms" in format_report(report_of(run))


def test_multi_streams_times_are_of_queries():
    samples = LatencySamples((50 * MS,) * 3)
    figures = {"samples_per_query": 8, "p99_early_stopping_ms": None, "p99_queries_needed": 662}
    result = scenario_report(ScenarioResult(samples, summarize(samples), figures))
    text = format_report(completed(result, "multi_stream"))
    assert rows(text)["ms/query"][0] == "50.0"
    assert "p99 by MLPerf's early stopping: takes 662 queries, of which few enough fail" in text


def test_offline_is_a_rate_without_latencies():
    figures = {"samples_per_s": 12.345, "duration_s": 20.7, "concurrency": 64}
    result = ScenarioResult(LatencySamples((MS, MS)), None, figures)
    report = completed(scenario_report(result), "offline")
    assert "12.35 samples/s: all at once, 64 in flight, 20.7 s" in format_report(report)
    assert "ms/sample" not in format_report(report)
    record = record_from_report(report)
    assert (record["p50_ms"], record["num_samples"]) == (None, 2)
    assert record["samples_per_s"] == 12.345


def test_servers_rates_are_a_table():
    report = server_report(8.0, [(16.0, False, 3, None), (8.0, True, 0, 99.0)])
    text = format_report(report)
    assert "8.00 samples/s is held (99 % within 250 ms)" in text
    lines = rows(text)
    assert lines["8.00 held"] == ["0", "1.0", "99.0"]
    assert lines["16.00 not held"] == ["3", "1.0", "-"]
    assert text.index("8.00 held") < text.index("16.00 not held")
    assert exit_status(report) == 0


def test_no_rate_held_gives_status_1():
    report = server_report(None, [(8.0, False, 2, 300.0)])
    assert "no rate tried was held" in format_report(report)
    assert exit_status(report) == 1
    assert record_from_report(report)["rate_per_s"] is None


def test_record_is_flat_and_has_the_figures_by_their_names(latency):
    record = record_from_report(report_of(latency))
    assert record["record"] == "latency"
    assert datetime.fromisoformat(record["created"]).tzinfo is not None
    expected = {
        "scenario": "single_stream", "method": "anomaly_dino", "backbone": "dinov2_vits14",
        "resolution": 448, "shots": 4, "bank_patches": 4096, "masking": False,
        "rotation": "informed", "with_map": True, "precision": "bf16", "runtime": "openvino 2026.4",
        "num_samples": 3, "num_failed": 0, "transport": "measured", "null_system": NULL,
        "p90_early_stopping_ms": None, "environment": {"cpu": {"model": "a processor"}},
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    times = [record[f"{name}_ms"] for name in ("p50", "p90", "p99", "mean", "std")]
    assert times == pytest.approx([100.0, 101.6, 101.96, 100.0, 2.0])
    assert record["stages_ms"]["backbone"] == 70.0
    assert record["stages_sum_share"] == pytest.approx(1.0)
    assert "image_bytes" not in record
    json.dumps(record, allow_nan=False)


def test_record_of_the_harness_alone():
    report = {"run": {"scenario": "offline"}, "null_system": NULL, "environment": {"cpu": {}}}
    record = record_from_report(report)
    assert (record["record"], record["scenario"]) == ("null_system", "offline")
    assert (record["p50_ms"], record["covers"]) == (0.0001, "the loop")


@pytest.fixture
def measured(latency, monkeypatch):
    """The program without a server: what it would measure is given."""
    report = report_of(latency)
    monkeypatch.setattr(latency_command, "run_benchmark", lambda args: report)
    return report


def test_json_is_one_object(measured, image, capsys):
    assert main(["--product", "screw", "--json", str(image)]) == 0
    assert json.loads(capsys.readouterr().out) == measured


def test_output_adds_a_record_to_a_file(measured, image, tmp_path, capsys):
    path = tmp_path / "new" / "records.jsonl"
    for _ in range(2):
        assert main(["--product", "screw", "--output", str(path), str(image)]) == 0
    records = RecordFile(path).read()
    assert [record["record"] for record in records] == ["latency", "latency"]
    assert records[0]["p50_ms"] == 100.0
    assert "ms/sample" in capsys.readouterr().out


def test_failures_are_shown_and_give_status_3(latency, image, monkeypatch, capsys):
    samples = LatencySamples(latency.samples.succeeded_ns, ("RequestTimeout: late",))
    failing = report_of(SingleStreamRun(samples, summarize(samples), None, "not all succeeded"))
    monkeypatch.setattr(latency_command, "run_benchmark", lambda args: failing)
    assert main(["--product", "screw", str(image)]) == 3
    assert "1 failed, first: RequestTimeout: late" in capsys.readouterr().out
    assert record_from_report(failing)["num_failed"] == 1


def test_an_interruption_gives_status_130(image, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency_command, "run_benchmark", interrupted)
    assert main(["--product", "screw", str(image)]) == 130


def test_the_harness_alone_needs_neither_product_nor_images(tmp_path, capsys):
    path = tmp_path / "records.jsonl"
    assert main(["--null", "--json", "--output", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["null_system"]["p50_ms"] < 1
    assert RecordFile(path).find(record="null_system")["p50_ms"] == report["null_system"]["p50_ms"]
    assert main(["--null", "--scenario", "multi-stream", "--samples-per-query", "2"]) == 0
    assert capsys.readouterr().out.startswith("null system: p50 ")


def test_a_missing_image_is_named_with_status_2(tmp_path, capsys):
    assert main(["--product", "screw", str(tmp_path / "none.png")]) == 2
    captured = capsys.readouterr()
    assert "none.png" in captured.err
    assert captured.out == ""


def test_a_scenario_without_its_bound_gives_status_2(image, capsys):
    assert main(["--product", "screw", "--scenario", "server", str(image)]) == 2
    assert "--latency-bound-ms" in capsys.readouterr().err


def test_a_malformed_address_gives_status_2(image, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--product", "screw", "--url", "nowhere", str(image)])
    assert caught.value.code == 2
    assert "nowhere" in capsys.readouterr().err


def test_an_absent_server_gives_status_3(image, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
    assert main(["--product", "screw", "--url", url, str(image)]) == 3
    assert url in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["image.png"], ["--product", "screw"], []])
def test_wrong_use_exits_with_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "--product" in capsys.readouterr().err
