"""Floors of a request's stages, with work and peak made up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.client.fake_products import version_report

from dinspect_bench.latency import command as latency_command
from dinspect_bench.latency import floor as latency_floor
from dinspect_bench.latency.floor import (
    compared_rows,
    floor_figures,
    floor_report,
    step_times,
    work_of,
)
from dinspect_bench.latency.report import record_from_report, single_stream_report
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.statistics import ServerTimes, StepTimes
from dinspect_bench.latency.subject import Subject
from dinspect_bench.latency.text import format_report
from dinspect_bench.machine.operations import Count, knn_operations
from dinspect_bench.machine.roofline import Peak, StepWork
from dinspect_bench.records import RecordFile
from dinspect_client.versions import ProductVersion

PEAK = Peak({"fp32": 1e11}, 1e9)


def test_parts_of_preprocessing_are_one_step():
    stages = {"decode": 4.0, "resize": 2.0, "preprocess_other": 1.0, "backbone": 40.0, "queue": 1.0}
    assert step_times(stages) == {"preprocess": 7.0, "backbone": 40.0, "queue": 1.0}


def test_preprocessing_that_is_one_stage_stays_one():
    assert step_times({"preprocess": 7.0, "backbone": 40.0}) == {
        "preprocess": 7.0,
        "backbone": 40.0,
    }
    assert step_times({"backbone": 40.0}) == {"backbone": 40.0}


def test_floor_is_of_all_steps_and_each_has_its_share():
    work = {
        "preprocess": StepWork(Count({"a": 10**7}), Count({"a": 1})),
        "backbone": StepWork(Count({"a": 10**9}), Count({"a": 1})),
        "knn": StepWork(Count({"a": 10**8}), Count({"a": 1})),
    }
    stages = {"decode": 0.25, "resize": 0.75, "backbone": 40.0, "transport": 1.0}
    figures = floor_figures(work, PEAK, stages)
    assert figures["floor_ms"] == pytest.approx(11.1)
    shares = {name: one["peak_share"] for name, one in figures["floor_by_step"].items()}
    assert shares == {
        "preprocess": pytest.approx(0.1),
        "backbone": pytest.approx(0.25),
        "knn": None,
    }


def version(**scoring):
    known = version_report("screw", 1)
    return ProductVersion.from_report(
        known
        | {
            "backbone": known["backbone"] | {"name": "dinov2_vits14"},
            "scoring": known["scoring"] | scoring,
        }
    )


def test_exact_search_compares_with_the_whole_bank():
    assert compared_rows(version()) == 2048


def test_inverted_lists_are_the_centroids_and_the_lists_that_are_searched():
    """Of 2,048 rows in 32 lists 8 are searched, a quarter."""
    listed = version(search="ivf", num_lists=32, num_probes=8)
    assert compared_rows(listed) == 32 + 512
    work = work_of(listed, "fp32", 1000, with_map=False)
    assert work["knn"].operations.parts["similarities"] == knn_operations(384, (4, 5), 544).total


def test_work_is_that_of_the_version_and_the_request():
    work = work_of(version(), "bf16", 1234, with_map=True)
    assert list(work) == ["preprocess", "backbone", "knn", "map"]
    assert work["preprocess"].traffic.parts["image"] == 1234
    assert (work["backbone"].precision, work["knn"].precision) == ("bf16", "fp16")
    assert "covariance" in work["knn"].operations.parts  # the version is masked
    assert work["map"].traffic.parts["map"] == 300 * 400 * 4
    assert "map" not in work_of(version(), "bf16", 1234, with_map=False)


# In the report of bench-latency

PEAK_RECORD = {
    "record": "peak", "matrix_product_flops": {"fp32": 5e11, "fp16": 1e12, "int8": None},
    "copy_bytes_per_s": 2e10,
}  # fmt: skip
STAGES = {"decode": 3.0, "resize": 1.0, "preprocess_other": 0.5, "backbone": 4.0, "knn": 0.25,
          "map": 2.0, "queue": 0.1, "routing": 0.1, "transport": 1.0}  # fmt: skip
SUBJECT = Subject("screw@1", "anomaly_dino", True, "anomaly_dino_56", version())


@pytest.fixture
def peaks(monkeypatch):
    """How often the peak was measured; a fake, for the real one takes ten seconds."""
    measured = []
    monkeypatch.setattr(latency_floor, "measure_peak", lambda: measured.append(1) or PEAK_RECORD)
    return measured


def test_floor_is_told_of_every_step_that_ran(peaks):
    report = floor_report({"stages_ms": STAGES}, "fp32", SUBJECT, [b"12", b"1234"])
    assert (report["peak"], report["floor_unavailable"]) == (PEAK_RECORD, "")
    by_step = report["floor_by_step"]
    assert list(by_step) == ["preprocess", "backbone", "knn", "map"]
    expected = floor_figures(
        work_of(SUBJECT.version, "fp32", 3, with_map=True), Peak.from_records([PEAK_RECORD]), STAGES
    )
    assert by_step == expected["floor_by_step"]
    assert by_step["preprocess"]["measured_ms"] == 4.5


@pytest.mark.parametrize("result", [{}, {"stages_ms": None}])
def test_without_stages_no_peak_is_measured(peaks, result):
    report = floor_report(result, "fp32", SUBJECT, [b"1"])
    assert (report["peak"], report["floor_by_step"], peaks) == (None, None, [])
    assert "no times by step" in report["floor_unavailable"]


def test_peak_that_is_not_known_in_the_precision_is_said(peaks):
    report = floor_report({"stages_ms": STAGES}, "int8", SUBJECT, [b"1"])
    assert (report["floor_ms"], report["floor_by_step"]) == (None, None)
    assert "no measured peak in int8" in report["floor_unavailable"]


def whole_report(precision="fp32"):
    samples = LatencySamples((11_950_000,))
    steps = (StepTimes("preprocess_56", 1, 0.1, 0.0, 4.5, 0.0),
             StepTimes("dinov2_vits14_56", 1, 0.0, 0.0, 4.0, 0.0),
             StepTimes("cosine_knn_56", 1, 0.0, 0.0, 0.25, 0.0))  # fmt: skip
    run = SingleStreamRun(
        samples, summarize(samples), ServerTimes("anomaly_dino_56", 1, 10.95, steps)
    )
    result = single_stream_report(run, "not asked for")
    about = {
        "scenario": "single_stream", "product": "screw", "ensemble": "anomaly_dino_56",
        "server_version": "2.51", "runtime": "openvino", "precision": precision, "num_images": 1,
        "with_map": False,
    }  # fmt: skip
    null_system = {"p50_ms": 0.1, "p99_ms": 0.2, "covers": "the loop"}
    floor = floor_report(result, precision, replace(SUBJECT, with_map=False), [b"1"])
    return {"run": about, **result, **floor, "null_system": null_system, "environment": {}}


def test_text_shows_floor_share_and_peak(peaks):
    lines = format_report(whole_report()).splitlines()
    (head,) = [index for index, line in enumerate(lines) if line.startswith("the floor")]
    backbone = lines[head + 2].split()
    assert backbone[0] == "backbone"
    assert backbone[2] == "4.0"
    assert backbone[-1] == "memory"  # twenty patches are fewer operations than weights
    assert lines[head + 4] == "peak seen, GFLOP/s: fp32 500, fp16 1,000; copy 20.0 GB/s"
    assert "no floor: there is no measured peak in int8" in format_report(whole_report("int8"))


def test_record_has_the_floor_only_where_there_is_one(peaks):
    report = whole_report()
    assert record_from_report(report)["floor_by_step"] == report["floor_by_step"]
    assert record_from_report(report)["floor_ms"] == report["floor_ms"]
    assert (
        not {"floor_ms", "floor_by_step", "peak"} & record_from_report(whole_report("int8")).keys()
    )


def test_peak_is_a_record_of_its_own(peaks, monkeypatch, tmp_path, capsys):
    image, output = tmp_path / "part.png", tmp_path / "records.jsonl"
    image.write_bytes(b"1")
    asked = []

    def run_benchmark(args):
        asked.append(args.floor)
        report = whole_report()
        return report if args.floor else {
            key: value for key, value in report.items() if "floor" not in key and key != "peak"
        }  # fmt: skip

    monkeypatch.setattr(latency_command, "run_benchmark", run_benchmark)
    words = [str(image), "--product", "screw", "--output", str(output)]
    assert latency_command.main(words) == 0
    assert latency_command.main([*words, "--floor"]) == 0
    assert asked == [False, True]
    assert "the floor" in capsys.readouterr().out.split("null system")[1]
    assert [one["record"] for one in RecordFile(output).read()] == ["latency", "latency", "peak"]
