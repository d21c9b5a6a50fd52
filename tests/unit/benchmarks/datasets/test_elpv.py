"""The demo's split: exact, reproducible, and loud about what is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dinspect_bench.datasets.elpv import Cell, load_elpv, relative_name, split_cells
from dinspect_bench.errors import DatasetError

HAS_ELPV = importlib.util.find_spec("elpv_dataset") is not None


def write_data_set(folder: Path, lines: list[str]) -> Path:
    (folder / "images").mkdir()
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for line in lines:
        name = line.partition(" ")[0]
        if name.startswith("images/"):
            (folder / name).write_bytes(b"png")
    return folder


def cells_of(folder: Path, num_good: int, num_bad: int) -> list[Cell]:
    return [
        Cell(folder / "images" / f"cell{number:04d}.png", float(number >= num_good), "mono")
        for number in range(num_good + num_bad)
    ]


def test_labels_are_read_with_path_probability_and_kind(tmp_path):
    write_data_set(
        tmp_path,
        [
            "images/cell0001.png  1.0                 mono",
            "",
            "images/cell0002.png  0.3333333333333333  poly",
        ],
    )
    first, second = load_elpv(tmp_path)
    assert (first.name, first.probability, first.kind) == ("images/cell0001.png", 1.0, "mono")
    assert first.path == tmp_path / "images/cell0001.png"
    assert (second.probability, second.kind) == (pytest.approx(1 / 3), "poly")


def test_a_missing_picture_is_named(tmp_path):
    write_data_set(tmp_path, ["images/a.png 0.0 mono", "images/b.png 1.0 mono"])
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 pictures.*images/b\.png"):
        load_elpv(tmp_path)


def test_missing_labels_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"labels\.csv"):
        load_elpv(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["images/a.png 0.0", "images/a.png high mono", "images/a.png 1.5 mono", "images/a.png 0 thin"],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path, line):
    write_data_set(tmp_path, ["images/z.png 0.0 mono", line])
    with pytest.raises(DatasetError, match="line 2"):
        load_elpv(tmp_path)


def test_an_absent_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("dinspect_bench.datasets.elpv.ELPV_PACKAGE", "surely_not_installed")
    with pytest.raises(DatasetError, match=r"pip install elpv-dataset==.*CC BY-NC-SA"):
        load_elpv()


def test_the_split_draws_good_cells_then_bad_ones_from_one_generator(tmp_path):
    cells = cells_of(tmp_path, num_good=100, num_bad=70)
    split = split_cells(reversed(cells), seed=3)

    generator = np.random.default_rng(3)
    good = [cells[i].path for i in generator.permutation(100)]
    bad = [cells[100 + i].path for i in generator.permutation(70)]
    assert split.enrolled == tuple(good[:32])
    assert split.functional == tuple(good[32:92])
    assert split.defective == tuple(bad[:60])
    assert split.held_out == split.functional + split.defective


def test_the_split_leaves_out_doubtful_cells_and_other_kinds(tmp_path):
    doubtful = Cell(tmp_path / "images/doubtful.png", 1 / 3, "mono")
    poly = Cell(tmp_path / "images/poly.png", 0.0, "poly")
    cells = [*cells_of(tmp_path, 4, 2), doubtful, poly]
    split = split_cells(cells, num_enrolled=2, num_functional=2, num_defective=2)
    drawn = {*split.enrolled, *split.held_out}
    assert len(drawn) == 6
    assert not drawn & {doubtful.path, poly.path}


@pytest.mark.parametrize(("num_good", "num_bad", "what"), [(91, 60, "91 func"), (92, 59, "59 def")])
def test_too_few_cells_are_refused(tmp_path, num_good, num_bad, what):
    with pytest.raises(DatasetError, match=what):
        split_cells(cells_of(tmp_path, num_good, num_bad))


@pytest.mark.skipif(not HAS_ELPV, reason="elpv-dataset is not installed")
def test_the_demo_split_of_the_real_data_set_is_the_one_the_figures_stand_for():
    cells = load_elpv()
    assert len(cells) == 2624
    split = split_cells(cells)
    names = [relative_name(path) for path in split.enrolled + split.held_out]
    assert len(set(names)) == 152
    assert names[:2] == ["images/cell0925.png", "images/cell1603.png"]
    assert names[32] == "images/cell1324.png"
    assert names[92] == "images/cell0391.png"
