"""The program around the measurement: options, tables, exit statuses."""

from __future__ import annotations

import json
import socket
from types import SimpleNamespace

import pytest

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.latency import command as latency_command
from dinspect_bench.latency.command import build_parser, format_report, main
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "part.png"
    path.write_bytes(b"bytes")
    return path


def report_of(run):
    return {
        "run": {
            "product": "screw@3",
            "ensemble": "anomaly_dino_448",
            "with_map": True,
            "num_images": 2,
            "server_version": "2.51.0",
        },
        **latency_command._figures(run),
        "environment": {},
    }


def test_defaults_are_a_hundred_samples_with_map():
    args = build_parser().parse_args(["--product", "screw", "a.png", "b.png"])
    assert (args.samples, args.warmup, args.no_map, args.json) == (100, 10, False, False)
    assert len(args.images) == 2
    assert args.method == "anomaly_dino"


class TwoMethods:
    """A server with one product of both methods and one of L2BT's alone."""

    def products(self):
        listed = (("screw", "anomaly_dino", "anomaly_dino_448"), ("screw", "l2bt", "l2bt_screw_448"),
                  ("nut", "l2bt", "l2bt_nut_448"))  # fmt: skip
        return [SimpleNamespace(name=n, method=m, ensemble=e) for n, m, e in listed]


def test_ensemble_is_the_methods_own():
    find = latency_command._ensemble_of
    assert find(TwoMethods(), "screw@3", "anomaly_dino") == "anomaly_dino_448"
    assert find(TwoMethods(), "screw", "l2bt") == "l2bt_screw_448"
    with pytest.raises(BenchmarkError, match="'nut' is inspected by anomaly_dino.* are: screw"):
        find(TwoMethods(), "nut", "anomaly_dino")


def test_tables_hold_every_figure(latency):
    text = format_report(report_of(latency))
    lines = {line[:24].strip(): line[24:].split() for line in text.splitlines() if line}
    assert lines["ms/sample"] == ["100.0", "101.6", "102.0", "100.0", "2.0", "98.0", "102.0"]
    assert lines["mean ms per request"] == ["queue", "input", "infer", "output", "total", "share"]
    assert lines["dinov2_vits14_448"] == ["1.0", "1.0", "68.0", "1.0", "71.0", "71.0", "%"]
    assert lines["transport and client"] == ["5.0", "5.0", "%"]
    assert lines["client's mean"] == ["100.0", "100.0", "%"]


def test_what_is_below_zero_is_explained(latency):
    report = report_of(latency)
    assert "Below zero" not in format_report(report)
    report["latency_by_step_ms"]["transport_and_client"] = -0.01
    assert "-" not in format_report(report).split("transport and client")[1]
    report["latency_by_step_ms"]["transport_and_client"] = -1.2
    assert "Below zero" in format_report(report)


def test_tables_do_without_the_servers_times(latency):
    blind = SingleStreamRun(latency.samples, latency.summary, None, "they are restricted")
    assert "no times by step: they are restricted" in format_report(report_of(blind))


def test_failures_are_shown_and_give_status_3(latency, image, monkeypatch, capsys):
    samples = LatencySamples(latency.samples.succeeded_ns, ("RequestTimeout: late",))
    summary = latency_command.LatencySummary(100, 101, 102, 100, 2, 98, 102, 3, 1)
    failing = report_of(SingleStreamRun(samples, summary, latency.server))
    monkeypatch.setattr(latency_command, "run_benchmark", lambda args: failing)
    assert main(["--product", "screw", str(image)]) == 3
    assert "1 failed, first: RequestTimeout: late" in capsys.readouterr().out


def test_json_is_one_object(latency, image, monkeypatch, capsys):
    report = report_of(latency)
    monkeypatch.setattr(latency_command, "run_benchmark", lambda args: report)
    assert main(["--product", "screw", "--json", str(image)]) == 0
    assert json.loads(capsys.readouterr().out) == report


def test_a_missing_image_is_named_with_status_2(tmp_path, capsys):
    assert main(["--product", "screw", str(tmp_path / "none.png")]) == 2
    captured = capsys.readouterr()
    assert "none.png" in captured.err
    assert captured.out == ""


def test_a_malformed_address_gives_status_2(image, capsys):
    assert main(["--product", "screw", "--url", "nowhere", str(image)]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_malformed_product_gives_status_2(image, capsys):
    assert main(["--product", "a b", "--url", "localhost:1", str(image)]) == 2
    assert "'a b'" in capsys.readouterr().err


def test_an_absent_server_gives_status_3(image, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
    assert main(["--product", "screw", "--url", url, str(image)]) == 3
    assert url in capsys.readouterr().err


def test_wrong_use_exits_with_status_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["image.png"])
    assert caught.value.code == 2
    assert "--product" in capsys.readouterr().err
