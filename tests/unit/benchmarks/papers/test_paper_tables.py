"""Figures spot-checked by hand against the papers' printed tables, and every one by their text."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from dinspect_bench.papers.tables import PaperFigure, default_preprocessing, paper_tables, papers
from dinspect_export.variants import VARIANTS

TEXTS = Path(__file__).parents[5] / "shared" / "papers"
_SETTINGS = {field.name for field in fields(PaperFigure)}

# Read off the papers by eye: table, setting, metric, value as printed, its deviation.
ANOMALY_DINO = [
    ("5", {"dataset": "mvtec_ad", "resolution": 448}, "image_auroc", "99.3 %", None),
    ("5", {"dataset": "mvtec_ad", "resolution": 672}, "aupro_30", "95.0 %", None),
    ("5", {"dataset": "visa", "resolution": 448}, "pixel_f1_max", "50.5 %", None),
    ("5", {"dataset": "visa", "resolution": 672}, "image_average_precision", "98.0 %", None),
    ("6", {"category": "capsule", "shots": 2}, "image_auroc", "89.2 %", "7.9 %"),
    ("6", {"category": "capsule", "shots": 2}, "aupro_30", "97.3 %", "0.6 %"),
    ("6", {"category": "bottle", "shots": 1}, "image_auroc", "99.7 %", "0.2 %"),
    ("6", {"category": "metal_nut", "shots": 16}, "aupro_30", "95.7 %", "0.1 %"),
    ("6", {"category": "transistor", "shots": 8}, "aupro_30", "75.3 %", "1.9 %"),
    ("6", {"category": "zipper", "shots": 4}, "image_auroc", "99.0 %", "0.4 %"),
    ("6", {"category": None, "shots": 1}, "image_auroc", "96.6 %", "0.4 %"),
    ("6", {"category": None, "shots": 16}, "aupro_30", "94.0 %", "0.1 %"),
    ("7", {"category": "candle", "shots": 1}, "image_auroc", "87.9 %", "0.3 %"),
    ("7", {"category": "macaroni2", "shots": 1}, "image_auroc", "62.2 %", "4.3 %"),
    ("7", {"category": "pcb4", "shots": 2}, "image_auroc", "87.4 %", "11.3 %"),
    ("7", {"category": "pcb4", "shots": 4}, "aupro_30", "84.1 %", "1.5 %"),
    ("7", {"category": "pipe_fryum", "shots": 16}, "image_auroc", "97.2 %", "0.9 %"),
    ("7", {"category": None, "shots": 4}, "image_auroc", "92.6 %", "0.9 %"),
    ("9a", {"shots": 16, "preprocessing": "agnostic"}, "mean_ms", "0.063 s", "0.012 s"),
    ("9a", {"shots": None, "preprocessing": "masking_only"}, "mean_ms", "0.067 s", "0.010 s"),
    ("9a", {"shots": None, "preprocessing": "agnostic"}, "memory_bank_s", "93.72 s", "20.56 s"),
    ("9b", {"preprocessing": "no_mask_no_rotation"}, "memory_bank_s", "0.17 s", "0.03 s"),
    ("9b", {"preprocessing": "no_mask_rotation"}, "mean_ms", "0.055 s", "0.012 s"),
    ("9b", {"preprocessing": "mask_no_rotation"}, "mean_ms", "0.068 s", "0.012 s"),
    ("9b", {"preprocessing": "informed"}, "memory_bank_s", "0.22 s", "0.11 s"),
    ("9c", {"resolution": 224}, "mean_ms", "0.043 s", "0.010 s"),
    ("9c", {"resolution": 896}, "memory_bank_s", "1.26 s", "0.05 s"),
    ("9d", {"backbone": "dinov2_vitb14"}, "mean_ms", "0.084 s", "0.021 s"),
    ("9d", {"backbone": "dinov2_vitg14"}, "memory_bank_s", "2.67 s", "0.14 s"),
    ("10", {"dataset": "mvtec_ad", "shots": 8, "variant": None}, "image_average_precision", "99.0 %", "0.2 %"),
    ("10", {"dataset": "visa", "shots": 1, "variant": None}, "image_auroc", "85.6 %", "1.5 %"),
    ("10", {"dataset": "visa", "shots": 4, "variant": "score: max of D"}, "image_f1_max", "84.9 %", "0.6 %"),
    ("10", {"dataset": "mvtec_ad", "shots": 2, "variant": "score: max of A"}, "image_auroc", "95.0 %", "1.3 %"),
]  # fmt: skip
L2BT = [
    ("1", {"method": "l2bt", "dataset": "mvtec_ad"}, "image_auroc", "0.988", None),
    ("1", {"method": "RD++", "dataset": "visa"}, "aupro_05", "0.758", None),
    ("1", {"method": "PatchCore", "dataset": "mvtec_ad"}, "aupro_30", "0.937", None),
    ("2", {"method": "l2bt", "resolution": 1036}, "mean_ms", "1.786 ms", None),
    ("2", {"method": "l2bt", "resolution": 224}, "mean_ms", "1.321 ms", None),
    ("2", {"method": "SimpleNet", "resolution": 512}, "mean_ms", "560.17 ms", None),
    ("2", {"method": "l2bt", "resolution": 1036, "dataset": "mvtec_ad"}, "robustness_30", "0.986", None),
    ("2", {"method": "l2bt", "resolution": 224, "dataset": "visa"}, "aupro_05_q3", "0.667", None),
    ("2", {"method": "EfficientAD", "resolution": 256, "dataset": "visa"}, "robustness_05", "0.603", None),
    ("2", {"method": "RD++", "resolution": 1036, "dataset": "mvtec_ad"}, "aupro_30_q1", "0.946", None),
    ("3", {"method": "l2bt", "shots": 10}, "aupro_30", "0.910", None),
    ("3", {"method": "l2bt", "shots": 5}, "image_auroc", "0.879", None),
    ("3", {"method": "EfficientAD", "shots": 50}, "aupro_05", "0.569", None),
    ("4", {"method": "l2bt", "dataset": "visa"}, "pixel_auroc", "0.991", None),
    ("4", {"method": "PatchCore", "dataset": "mvtec_ad"}, "pixel_auroc", "0.980", None),
    ("5", {"backbone": "vit_base_patch16_224"}, "aupro_30", "0.868", None),
    ("5", {"backbone": "dinov2_vitb14", "resolution": 224}, "aupro_05", "0.688", None),
    ("6", {"method": "SPADE", "resolution": 1036}, "aupro_05", "0.462", None),
    ("7", {"variant": "layers [1 ← 4]"}, "aupro_05", "0.378", None),
    ("7", {"variant": "layers [10, 12]"}, "aupro_30", "0.950", None),
    ("7", {"variant": "layers [12 ← 11]"}, "image_auroc", "0.888", None),
    ("8", {"variant": "training by cosine, inference by cosine distance"}, "aupro_05", "0.790", None),
    ("8", {"variant": "training by l2, inference by cosine distance"}, "aupro_30", "0.938", None),
    ("9", {"variant": "map: Δ_k + Δ_j"}, "image_auroc", "0.944", None),
    ("9", {"variant": None}, "aupro_05", "0.787", None),
    ("10", {"method": "l2bt"}, "training_hours", "2.361 h", None),
    ("10", {"method": "RD++"}, "training_hours", "28.767 h", None),
]  # fmt: skip
SPOTS = [("anomaly_dino", *spot) for spot in ANOMALY_DINO] + [("l2bt", *spot) for spot in L2BT]


def figures_of(paper, table, **setting):
    assert setting.keys() <= _SETTINGS
    (found,) = (one for one in paper_tables(paper) if one.number == table)
    return [
        figure
        for figure in found.figures
        if all(getattr(figure, name) == value for name, value in setting.items())
    ]


def in_unit(printed, unit):
    number, _, printed_in = printed.partition(" ")
    to_unit = {("%", "share"): 0.01, ("", "share"): 1, ("s", "ms"): 1000}
    return float(number) * to_unit.get((printed_in, unit), 1)


@pytest.mark.parametrize(("paper", "table", "setting", "metric", "printed", "std"), SPOTS)
def test_figure_is_the_printed_one(paper, table, setting, metric, printed, std):
    (figure,) = figures_of(paper, table, metric=metric, **setting)
    assert figure.value == pytest.approx(in_unit(printed, figure.unit), abs=1e-9)
    if std is None:
        assert figure.std is None
    else:
        assert figure.std == pytest.approx(in_unit(std, figure.unit), abs=1e-9)


def test_every_table_is_spot_checked():
    checked = {(paper, table) for paper, table, *_ in SPOTS}
    assert checked == {(one.name, t.number) for one in papers() for t in paper_tables(one.name)}
    assert len(SPOTS) >= 30


def test_tables_that_are_not_at_hand_are_named():
    anomaly_dino, l2bt = papers()
    assert anomaly_dino.not_at_hand == ("1", "2", "3", "4")
    assert "supplementary" in anomaly_dino.why_not
    assert (l2bt.not_at_hand, l2bt.why_not) == ((), None)
    assert l2bt.tables == tuple(str(number) for number in range(1, 11))
    assert l2bt.doi == "10.1109/ACCESS.2025.3582900"
    for paper in (anomaly_dino, l2bt):
        numbers = {number.rstrip("abcd") for number in (*paper.tables, *paper.not_at_hand)}
        assert numbers == {str(number) for number in range(1, 11)}
        assert paper.arxiv is None


def test_every_table_names_its_source():
    for paper in papers():
        for table in paper_tables(paper.name):
            assert paper.title in table.source
            assert table.source.endswith(f", Table {table.number}")
            assert table.content.endswith(".")
            assert {(f.paper, f.table) for f in table.figures} == {(paper.name, table.number)}


def test_figures_lie_in_their_range():
    for paper in papers():
        for figure in (f for table in paper_tables(paper.name) for f in table.figures):
            assert figure.value > 0
            assert figure.std is None or 0 <= figure.std < figure.value
            if figure.unit == "share":
                assert figure.value <= 1
            else:
                assert figure.hardware is not None
            if figure.method in ("anomaly_dino", "l2bt"):
                assert figure.backbone in VARIANTS


def test_no_setting_stands_twice_in_a_table():
    for paper in papers():
        for table in paper_tables(paper.name):
            keys = [
                tuple(getattr(f, name) for name in sorted(_SETTINGS - {"value", "std", "doubt"}))
                for f in table.figures
            ]
            assert len(set(keys)) == len(keys), table.source


def test_default_preprocessing_is_table_8():
    rows = {(one.dataset, one.category): one for one in default_preprocessing()}
    mvtec = {category: one for (dataset, category), one in rows.items() if dataset == "mvtec_ad"}
    assert len(mvtec) == 15
    assert {name for name, one in mvtec.items() if one.not_masked_because == "texture"} == {
        "carpet", "grid", "leather", "tile", "wood"
    }  # fmt: skip
    assert {name for name, one in mvtec.items() if one.not_masked_because == "masking test"} == {
        "bottle", "cable", "metal_nut", "transistor", "zipper"
    }  # fmt: skip
    assert {name for name, one in mvtec.items() if one.rotated_informed} == {"hazelnut", "screw"}
    assert all(one.masked == (one.not_masked_because is None) for one in rows.values())
    visa = [one for one in rows.values() if one.dataset == "visa"]
    assert len(visa) == 12
    assert all(one.masked and not one.rotated_informed for one in visa)
    assert all(one.rotated_agnostic for one in rows.values())


def test_categories_of_tables_are_those_of_table_8():
    for table, dataset in (("6", "mvtec_ad"), ("7", "visa")):
        names = {one.category for one in default_preprocessing() if one.dataset == dataset}
        assert {f.category for f in figures_of("anomaly_dino", table)} == names | {None}


def _lines(text, first, last):
    """The text from one line's beginning to another's."""
    return text[text.index(first) : text.index(last)]


@pytest.mark.parametrize(
    ("first", "last", "tables"),
    [
        ("Table 5. **", "\nB. Limitations", ["5"]),
        ("\nBottle\t$", "\nTable 6. **", ["6"]),
        ("\nCandle\t$", "\nof the given reference", ["7"]),
        ("\n(a) Runtime", "\n(c) Runtime", ["9a"]),
        ("\n(c) Runtime", "\n(b) Runtime", ["9c"]),
        ("\n(b) Runtime", "\nperiment can be", ["9b", "9d"]),
        ("\nScoring\t", "Figure 16. Effect", ["10"]),
    ],
)
def test_every_figure_of_anomaly_dino_is_in_its_text(first, last, tables):
    path = TEXTS / "anomalydino_supplement.txt"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    text = _lines(path.read_text(encoding="utf-8"), first, last)
    printed = [float(number) for number in re.findall(r"\d+\.\d+", text.replace("H_{0.01}", ""))]
    ours = []
    for figure in (f for table in tables for f in figures_of("anomaly_dino", table)):
        factor = {"share": 100, "ms": 0.001, "s": 1}[figure.unit]
        ours += [factor * n for n in (figure.value, figure.std) if n is not None]
    assert ours == pytest.approx(printed, abs=1e-9)


def test_every_figure_of_l2bt_is_in_its_text():
    path = TEXTS / "l2bt.txt"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    found = re.findall(r"<table.*?</table>", path.read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == len(paper_tables("l2bt")) == 10
    for text, table in zip(found, paper_tables("l2bt"), strict=True):
        printed = [float(number) for number in re.findall(r">(\d+\.\d+)<", text)]
        assert [figure.value for figure in table.figures] == printed, table.source
