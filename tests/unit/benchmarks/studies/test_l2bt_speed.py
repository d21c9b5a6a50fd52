"""L2BT's time and memory by step, made of measurements written by hand; and its random weights."""

from __future__ import annotations

import argparse
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinspect_bench.commands import StudyCommand
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.statistics import ServerTimes, StepTimes
from dinspect_bench.machine.resident_memory import PeakMemory
from dinspect_bench.studies.l2bt_speed import (
    SpeedCase,
    Watched,
    enlarged_png,
    speed_record,
    training_record,
)
from dinspect_bench.studies.l2bt_speed_table import format_l2bt_speed, paper_section
from dinspect_bench.studies.random_weights import write_random_backbone, write_random_students
from dinspect_client.wire import TrainingKey
from dinspect_export.checkpoints import load_checkpoint
from dinspect_export.student_files import load_students
from dinspect_export.students import StudentPair, TrainedStudents

CASE = SpeedCase("dinov2_vits14", 448, num_samples=3, precision="auto", seed=5)


def at_most(mib):
    memory = PeakMemory([])
    memory.peak_bytes = mib * 2**20
    return memory


WATCHED = Watched(
    {"preprocess_448": at_most(40), "dinov2_vits14_448": at_most(300),
     "students_448": at_most(150), "anomaly_map": at_most(60)},
    server=at_most(1400),
)  # fmt: skip


@pytest.fixture
def l2bt_run():
    """Steps in the order of an ensemble of L2BT's: preprocess, backbone, students, map."""
    steps = (
        StepTimes("preprocess_448", 3, 0.5, 1.0, 8.0, 1.0),
        StepTimes("dinov2_vits14_448", 3, 9.0, 1.0, 498.0, 1.0),
        StepTimes("students_448", 3, 0.0, 2.0, 16.0, 2.0),
        StepTimes("anomaly_map", 3, 0.0, 1.0, 3.0, 1.0),
    )
    samples = LatencySamples(tuple(int(ms * 1e6) for ms in (540.0, 560.0, 610.0)))
    return SingleStreamRun(
        samples, summarize(samples), ServerTimes("l2bt_random_448", 3, 550.0, steps)
    )


@pytest.fixture
def page(l2bt_run):
    record = speed_record(CASE, l2bt_run, WATCHED) | {
        "variant_name": CASE.variant_name, "side_px": 448, "num_samples": 3, "layers": [8, 12],
        "backbone_runtime": "openvino 2026.4.1 fp32", "largest_distance_change": 3.04e-7,
        "export_s": 34.6, "export_peak_mib": 5012.3,
    }  # fmt: skip
    return format_l2bt_speed(record)


def row(page, first):
    """Cells of the row that begins with a text, without its first."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_record_has_every_step_with_its_own_time_and_memory(l2bt_run):
    record = speed_record(CASE, l2bt_run, WATCHED)
    assert list(record["steps"]) == ["preprocess", "backbone", "students", "map"]
    backbone = record["steps"]["backbone"]
    assert backbone == {"model": "dinov2_vits14_448", "compute_ms": 500.0, "peak_mib": 300.0}
    assert (record["server_ms"], record["server_peak_mib"]) == (550.0, 1400.0)
    assert (record["client_p50_ms"], record["client_min_ms"]) == (560.0, 540.0)


def test_operations_of_the_record_are_of_the_measured_size(l2bt_run):
    counted = speed_record(CASE, l2bt_run, WATCHED)["operations"]
    assert counted["students"]["forward_student"] == 3 * 2 * 1024 * 384**2
    assert counted["backbone"]["attention_scores"] == 12 * 2 * 1025**2 * 384


def test_record_without_the_servers_times_is_refused(l2bt_run):
    blind = replace(l2bt_run, server=None, server_unavailable="they are restricted")
    with pytest.raises(BenchmarkError, match="no times by step: they are restricted"):
        speed_record(CASE, blind, WATCHED)


def test_students_alone_and_the_whole_image_are_told_apart(page):
    assert row(page, "students only: patch tokens in, score out") == ["20.0", "1.8", "91"]
    assert row(page, "whole image, in the server") == ["550.0", "65.2", "118"]
    assert row(page, "whole image, as the client sees it (median)") == ["560.0", "65.2", "116"]
    assert "within 540 to 610 ms" in page


def test_steps_have_time_rate_share_and_memory(page):
    assert row(page, "preprocessing: decode, pad, resize") == ["10.0", "", "", "1.9 %", "40"]
    assert row(page, "backbone") == ["500.0", "63.4", "127", "93.5 %", "300"]
    assert row(page, "students: distances, score, verdict")[2:] == ["91", "3.7 %", "150"]
    assert row(page, "map and defect regions") == ["5.0", "", "", "0.9 %", "60"]
    assert "together took 1,400 MiB at most" in page
    assert "took 35 s and 5,012 MiB at most" in page


def test_parts_add_up(page):
    shares = [
        float(line.split("|")[3].removesuffix(" % "))
        for line in page.splitlines()
        if line.startswith(("| backbone: ", "| students: f", "| students: b"))
    ]
    assert len(shares) == 8
    assert sum(shares) == pytest.approx(100.0, abs=0.4)
    assert row(page, "together") == ["65.2", "100.0 %"]


def test_page_says_that_the_weights_are_random_and_where_it_was_measured(page):
    assert "**The weights of backbone and students are random**" in page
    assert "within 3.0e-07 of PyTorch" in page
    assert "Measured by `dinspect study l2bt-1036` on " in page


def test_papers_figure_cannot_include_the_teacher(page):
    section = paper_section()
    assert "cannot include the teacher" in section
    assert "2.04 TFLOP / 165 TFLOP/s = 12.4 ms at the very least" in section
    assert "still be 6.2 ms" in section
    assert "students alone are 0.039 TFLOP, 0.23 ms at the least" in section
    assert section in page  # whatever size was measured


def test_published_record_says_that_nothing_was_trained():
    pair = StudentPair(CASE.variant.dim)
    students = TrainedStudents(pair, CASE.variant, CASE.variant.default_layers)
    record = training_record(CASE, students, "ab" * 32, b"an image")
    keys = {value for key, value in vars(TrainingKey).items() if not key.startswith("_")}
    assert record.keys() == keys
    assert (record["image_size"], record["grid"], record["layers"]) == (
        [448, 448],
        [32, 32],
        [8, 12],
    )
    assert (record["dim"], record["backbone_sha256"]) == (384, "ab" * 32)
    assert record["training"] == {"epochs": 0, "seed": 5}
    assert record["references"] == []
    assert [image["name"] for image in record["good_images"]] == ["enlarged.png"]


def test_size_that_is_no_multiple_of_a_patch_is_refused():
    with pytest.raises(Exception, match="1030 px is no multiple of the 14 px patch"):
        _ = replace(CASE, side_px=1030).grid


def test_image_is_enlarged_not_invented(tmp_path):
    gradient = np.tile(np.arange(0, 240, 8, dtype=np.uint8), (30, 1))
    Image.fromarray(gradient).save(tmp_path / "cell.png")
    with Image.open(io.BytesIO(enlarged_png(tmp_path / "cell.png", 90))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (90, 90))
        pixels = np.asarray(image)
    assert np.abs(pixels[::3, 1::3, 0].astype(int) - gradient).max() <= 2


def test_random_backbone_is_one_that_the_exporter_reads(tmp_path):
    path = tmp_path / "random.pth"
    write_random_backbone(path, "dinov2_vits14", seed=3)
    first = load_checkpoint(str(path), "dinov2_vits14", tmp_path)
    write_random_backbone(path, "dinov2_vits14", seed=3)
    assert load_checkpoint(str(path), "dinov2_vits14", tmp_path).sha256 == first.sha256
    write_random_backbone(path, "dinov2_vits14", seed=4)
    assert load_checkpoint(str(path), "dinov2_vits14", tmp_path).sha256 != first.sha256


def test_random_students_are_two_different_ones_in_the_official_format(tmp_path):
    state = torch.get_rng_state()
    forward, backward = write_random_students(tmp_path, 384, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert forward.name.startswith("forward_net_")
    assert backward.name.startswith("backward_net_")
    students = load_students(forward, backward, variant_name="dinov2_vits14", layers=(8, 12))
    pair = students.pair
    assert not torch.equal(pair.forward_student.input.weight, pair.backward_student.input.weight)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (Path("docs/results/l2bt_1036.md"), {})),
        (
            ["--quick", "--output", "page.md"],
            (Path("page.md"), {"variant_name": "dinov2_vits14", "side_px": 448, "num_samples": 2}),
        ),
    ],
)
def test_command_measures_the_papers_size_unless_it_is_to_be_quick(
    monkeypatch, capsys, arguments, expected
):
    asked = []

    def run(output, **options):
        asked.append((output, options))
        return "the page"

    monkeypatch.setattr("dinspect_bench.studies.l2bt_speed.run_l2bt_speed_study", run)
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["l2bt-1036", *arguments])) == 0
    assert asked == [expected]
    assert capsys.readouterr().out == "the page\n"
