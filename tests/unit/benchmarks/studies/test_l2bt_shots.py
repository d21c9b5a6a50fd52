"""L2BT by the number of training images: the draw of the cells, and what the page says of figures."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dinspect_bench.datasets.elpv import Cell, split_cells
from dinspect_bench.errors import DatasetError
from dinspect_bench.studies import l2bt_shots as l2bt_shots_study
from dinspect_bench.studies import shots as shots_study
from dinspect_bench.studies.l2bt_shots import (
    NUM_CALIBRATING,
    draw_cells,
    records_on_same_cells,
    run_l2bt_shots_study,
)
from dinspect_bench.studies.l2bt_shots_table import format_l2bt_shots

CELLS = [
    Cell(Path(f"images/cell{number:04d}.png"), probability, "mono")
    for number, probability in enumerate([0.0] * 70 + [1.0] * 9)
]


def trained(kind, seed, shots, auroc, **changes):
    record = {
        "kind": kind, "seed": seed, "shots": shots, "held_out": 60, "auroc": auroc,
        "num_steps": 50 * -(-shots // 4), "epochs": 50, "batch_images": 4, "learning_rate": 1e-4,
        "num_calibrating": 8, "ensemble": f"l2bt_solar-{kind}_448", "training_precision": "bf16",
        "runtime": "openvino fp32", "onnx_sha256": "ab",
    }  # fmt: skip
    return record | changes


def enrolled(seed, shots, auroc=0.8, **changes):
    record = {
        "kind": "mono", "seed": seed, "shots": shots, "held_out": 60, "auroc": auroc,
        "preprocessing": "informed", "runtime": "openvino fp16", "onnx_sha256": "ab",
    }  # fmt: skip
    return record | changes


def rows(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_cells_held_out_and_first_trained_on_are_those_of_the_shots_study():
    draw = draw_cells(CELLS, "mono", seed=3, num_training=36, num_held_out=9)
    same = split_cells(CELLS, "mono", 3, max(shots_study.SHOTS), 9, 9)
    assert draw.split.held_out == same.held_out
    assert draw.split.enrolled[:32] == same.enrolled
    assert len(draw.split.enrolled) == 36


def test_no_cell_has_two_roles():
    draw = draw_cells(CELLS, "mono", seed=3, num_training=36, num_held_out=9)
    used = draw.split.enrolled + draw.split.held_out + draw.calibrating
    assert len(set(used)) == len(used) == 36 + 9 + 9 + NUM_CALIBRATING
    assert set(draw.calibrating) <= {cell.path for cell in CELLS if cell.probability == 0.0}


@pytest.mark.parametrize("num_training", [5, 32, 40])
def test_fewer_cells_are_the_first_of_more(num_training):
    few = draw_cells(CELLS, "mono", 0, num_training, 9).split
    more = draw_cells(CELLS, "mono", 0, 44, 9).split
    assert few.enrolled == more.enrolled[:num_training]
    assert few.held_out == more.held_out


def test_too_few_cells_are_refused():
    with pytest.raises(DatasetError, match="ask for fewer"):
        draw_cells(CELLS, "mono", 0, num_training=60, num_held_out=9)


def test_figures_are_means_and_deviations_with_the_steps_they_took():
    page = format_l2bt_shots(
        [trained("mono", seed, shots, auroc + 0.1 * seed)
         for seed in (0, 1) for shots, auroc in ((5, 0.6), (50, 0.8))], [],
    )  # fmt: skip
    steps, auroc = rows(page)
    assert steps == ["", "L2BT, steps of Adam", "100", "650"]
    assert auroc == ["solar-mono", "L2BT, AUROC", "0.650 ± 0.071", "0.850 ± 0.071"]
    assert "solar-mono: the mean AUROC rises with every step." in page
    assert "l2bt_solar-mono_448" in page
    assert "AnomalyDINO is left out" in page
    assert "8 other good cells, neither trained on nor held out" in page
    assert "0.879 with 5, 0.897 with 10, 0.927 with 50 images" in page


def test_page_says_where_more_images_do_not_help():
    page = format_l2bt_shots(
        [trained("poly", 0, n, auroc) for n, auroc in ((5, 0.7), (10, 0.7), (50, 0.8))], []
    )
    assert (
        "solar-poly: the mean AUROC does not rise from 5 to 10 images (0.700 to 0.700), "
        "and rises elsewhere." in page
    )


def test_anomaly_dino_has_a_figure_only_where_every_seed_has_one():
    ours = [trained("mono", seed, shots, 0.7) for seed in (0, 1) for shots in (10, 32)]
    theirs = [enrolled(0, 32, 0.8), enrolled(1, 32, 0.9), enrolled(0, 10)]
    page = format_l2bt_shots(ours, theirs)
    assert rows(page)[2] == ["", "AnomalyDINO, AUROC", "", "0.850 ± 0.071"]
    assert "the very images L2BT was trained on" in page
    assert "in openvino fp16." in page


def other_records(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_records_on_the_same_cells_are_found_the_last_of_each(tmp_path):
    path = other_records(
        tmp_path / "shots.jsonl", enrolled(0, 32, 0.1), enrolled(0, 16), enrolled(0, 32, 0.9)
    )
    found = records_on_same_cells(
        path, [trained("mono", 0, 32, 0.7), trained("mono", 0, 5, 0.7), trained("poly", 0, 32, 0.7)]
    )
    assert [(record["shots"], record["auroc"]) for record in found] == [(32, 0.9)]


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"held_out": 3}, {"preprocessing": "agnostic"}, {"onnx_sha256": "cd"}],
)
def test_records_on_other_cells_or_by_another_graph_are_left_out(tmp_path, changes):
    path = other_records(tmp_path / "shots.jsonl", enrolled(0, 32) | changes)
    assert records_on_same_cells(path, [trained("mono", 0, 32, 0.7)]) == []


@pytest.mark.parametrize("largest", [16, 64])
def test_records_of_a_draw_that_held_out_other_cells_are_left_out(tmp_path, largest):
    path = other_records(tmp_path / "shots.jsonl", enrolled(0, 5), enrolled(0, largest))
    assert records_on_same_cells(path, [trained("mono", 0, 5, 0.7)]) == []


def test_without_records_of_anomaly_dino_there_are_none(tmp_path):
    assert records_on_same_cells(tmp_path / "shots.jsonl", [trained("mono", 0, 32, 0.7)]) == []


def test_killed_study_goes_on_where_it_was(monkeypatch, tmp_path):
    measured = []

    def measure(client, url, draw, count):
        if len(measured) == 2:
            raise RuntimeError("killed")
        measured.append((draw.split.seed, count, len(draw.split.enrolled)))
        return trained("mono", draw.split.seed, count, 0.7, held_out=9)

    server = SimpleNamespace(grpc_url="localhost:1")
    monkeypatch.setattr(l2bt_shots_study, "own_server", lambda *_: contextlib.nullcontext(server))
    monkeypatch.setattr(l2bt_shots_study, "load_elpv", lambda: CELLS)
    monkeypatch.setattr(l2bt_shots_study, "_measure", measure)
    asked = {"kinds": ("mono",), "shots": (5, 36), "seeds": (0, 1), "num_held_out": 9}
    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            run_l2bt_shots_study(tmp_path, tmp_path / "page.md", **asked)
    assert not (tmp_path / "page.md").exists()
    measured.clear()
    page = run_l2bt_shots_study(tmp_path, tmp_path / "page.md", **asked)
    assert measured == [(1, 5, 36), (1, 36, 36)]
    assert (tmp_path / "page.md").read_text() == page
    assert run_l2bt_shots_study(tmp_path, tmp_path / "page.md", **asked) == page
    assert len(measured) == 2
    assert len((tmp_path / "page.jsonl").read_text().splitlines()) == 4
