"""Ours beside the papers' figures: what is joined, what is not, and what the difference is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import accuracy, environment, l2bt_accuracy, latency

from dinspect_bench.papers.tables import default_preprocessing, paper_tables, papers
from dinspect_bench.report.document import Compared
from dinspect_bench.report.figures_of_ours import Measured, OurFigures
from dinspect_bench.report.paper_comparison import metric_name, paper_sections
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import preprocessing_of

MVTEC_AD = [one.category for one in default_preprocessing() if one.dataset == "mvtec_ad"]
VISA = [one.category for one in default_preprocessing() if one.dataset == "visa"]


def of_run(*records, run="A"):
    return [RunRecord(run, record, Path()) for record in records]


def compared(paper, number, accuracies=(), latencies=()):
    """Rows of one table of the comparison: label, source and cells by title."""
    sections = paper_sections(OurFigures(accuracies, latencies))
    names = [one.name for one in papers()]
    section = sections[names.index(paper)]
    (table,) = (block for block in section.blocks if block.title == f"Table {number}")
    return [(row[0], row[1], dict(zip(table.head[2:], row[2:], strict=True))) for row in table.rows]


def ours_of(rows):
    return {cell.ours for _, _, cells in rows for cell in cells.values()}


def figure(paper, table, **setting):
    (found,) = (
        f
        for one in paper_tables(paper)
        if one.number == table
        for f in one.figures
        if all(getattr(f, name) == value for name, value in setting.items())
    )
    return found


def test_without_records_every_figure_of_ours_is_not_run():
    total = 0
    for section, paper in zip(paper_sections(OurFigures([], [])), papers(), strict=True):
        for table, printed in zip(section.blocks, paper_tables(paper.name), strict=True):
            own = [f for f in printed.figures if f.method == paper.name]
            cells = [cell for row in table.rows for cell in row[2:]]
            assert all(cell.ours == "not run" and cell.difference is None for cell in cells)
            assert all(cell.paper for cell in cells)
            assert [row[1] for row in table.rows] == ["not run"] * len(table.rows)
            assert len(cells) == len(own)
            assert table.is_collapsed
            assert ": not run." in table.notes[0]
            total += len(cells)
    assert total == 588


def test_category_of_the_same_setting_is_set_beside_the_papers():
    rows = compared("anomaly_dino", "6", of_run(accuracy(image_auroc=0.95, aupro_30=0.97)))
    (label, source, cells) = rows[0]
    assert label == "bottle"
    assert source == "A: dinov2_vits14 eeeeeeee, openvino 1.2 fp32, search bf16, consecutive"
    assert cells["1-shot image AUROC"] == Compared("0.950", "0.997 ± 0.002", "−0.047")  # noqa: RUF001
    assert cells["1-shot AUPRO 30 %"] == Compared("0.970", "0.959 ± 0.003", "+0.011")
    assert cells["2-shot image AUROC"] == Compared("not run", "0.999 ± 0.001")
    assert rows[1][:2] == ("cable", "not run")
    assert ours_of(rows[1:-1]) == {"not run"}


def test_several_seeds_are_averaged_with_their_deviation():
    records = of_run(*(accuracy(seed=s, image_auroc=v) for s, v in enumerate((0.9, 0.92, 0.97))))
    cell = compared("anomaly_dino", "6", records)[0][2]["1-shot image AUROC"]
    assert cell.ours == "0.930 ± 0.036"
    assert cell.difference == "−0.067"  # noqa: RUF001


@pytest.mark.parametrize(
    "other",
    [
        {"resolution": 448}, {"shots": 3}, {"shots": None}, {"preprocessing": "informed"},
        {"backbone": "dinov2_vitb14"}, {"backbone": "dinov2_vits14_reg"}, {"dataset": "visa"},
        {"dataset": "cookie"}, {"category": "cookie"}, {"method": "l2bt"},
        {"variant": "score: max of D"},
    ],
)  # fmt: skip
def test_record_of_another_setting_is_not_set_beside_it(other):
    rows = compared("anomaly_dino", "6", of_run(accuracy(**other)))
    per_category = [row for row in rows if row[0] != "mean"]
    assert ours_of(per_category) == {"not run"}


def test_category_measured_in_part_is_not_set_beside_it():
    part = accuracy(left_out=["train/good/1.png", "test/good/2.png"])
    rows = compared("anomaly_dino", "6", of_run(part))
    assert rows[0][2]["1-shot image AUROC"].ours == "not run (2 images left out)"
    assert rows[0][2]["1-shot image AUROC"].difference is None
    others = [accuracy(category=name) for name in MVTEC_AD if name != "bottle"]
    (mean,) = (
        row for row in compared("anomaly_dino", "6", of_run(part, *others)) if row[0] == "mean"
    )
    assert mean[2]["1-shot image AUROC"].ours == "not run (2 images left out)"


@pytest.mark.parametrize(
    ("category", "said"), [("bottle", {"texture": True}), ("carpet", {"texture": False})]
)
def test_category_that_is_called_otherwise_than_by_the_paper_is_not_set_beside_it(category, said):
    rows = compared("anomaly_dino", "6", of_run(accuracy(category=category, **said)))
    assert ours_of(row for row in rows if row[0] == category) == {"not run"}


def test_all_images_meet_the_few_shots():
    every = [
        l2bt_accuracy(dataset="visa", category=name, shots=shots)
        for name in VISA
        for shots in (5, 10, 50, None)
    ]
    rows = compared("l2bt", "3", of_run(*every))
    assert len({source for _, source, _ in rows}) == 1
    assert not any(one.startswith("not run") for one in ours_of(rows))


def test_mean_is_there_only_with_all_categories():
    some = of_run(*(accuracy(category=name) for name in MVTEC_AD[:-1]))
    (mean,) = (row for row in compared("anomaly_dino", "6", some) if row[0] == "mean")
    assert mean[2]["1-shot image AUROC"].ours == "not run (14 of 15 categories)"
    assert mean[2]["1-shot image AUROC"].difference is None
    values = [0.8 + 0.01 * n for n in range(15)]
    every = of_run(*(accuracy(category=c, image_auroc=v) for c, v in zip(MVTEC_AD, values, strict=True)))  # fmt: skip
    (mean,) = (row for row in compared("anomaly_dino", "6", every) if row[0] == "mean")
    assert mean[2]["1-shot image AUROC"] == Compared("0.870", "0.966 ± 0.004", "−0.096")  # noqa: RUF001
    assert mean[2]["2-shot image AUROC"].ours == "not run"


def test_mean_is_not_compared_where_a_category_has_no_masks():
    every = [accuracy(category=name) for name in MVTEC_AD]
    every[0]["aupro_30"] = None
    (mean,) = (row for row in compared("anomaly_dino", "6", of_run(*every)) if row[0] == "mean")
    assert mean[2]["1-shot AUPRO 30 %"].ours == "no masks"
    assert mean[2]["1-shot image AUROC"].ours == "0.900"


def test_mean_deviates_from_seed_to_seed():
    every = [
        accuracy(category=name, seed=seed, image_auroc=0.8 + 0.1 * seed)
        for name in MVTEC_AD
        for seed in (0, 1)
    ]
    for records, expected in ((every, "0.850 ± 0.071"), (every[:-1], "0.847")):
        rows = compared("anomaly_dino", "6", of_run(*records))
        (mean,) = (row for row in rows if row[0] == "mean")
        assert mean[2]["1-shot image AUROC"].ours == expected


def test_category_without_masks_says_so():
    rows = compared("anomaly_dino", "6", of_run(accuracy(aupro_30=None)))
    assert rows[0][2]["1-shot AUPRO 30 %"].ours == "no masks"
    assert rows[0][2]["1-shot AUPRO 30 %"].difference is None
    assert rows[0][2]["1-shot image AUROC"].ours == "0.900"


def test_runs_and_exports_stand_in_rows_of_their_own():
    records = [
        *of_run(accuracy(image_auroc=0.9)),
        *of_run(accuracy(image_auroc=0.8), run="B"),
        *of_run(accuracy(image_auroc=0.7, backbone_sha256="cc" * 32)),
    ]
    rows = [row for row in compared("anomaly_dino", "6", records) if row[0] == "bottle"]
    assert [(source[:26], cells["1-shot image AUROC"].ours) for _, source, cells in rows] == [
        ("A: dinov2_vits14 bbbbbbbb,", "0.900"),
        ("A: dinov2_vits14 cccccccc,", "0.700"),
        ("B: dinov2_vits14 eeeeeeee,", "0.800"),
    ]


@pytest.mark.parametrize("key", ["search_precision", "students_precision"])
def test_precisions_are_never_averaged(key):
    records = of_run(
        accuracy(image_auroc=0.9, **{key: "bf16"}), accuracy(image_auroc=0.8, **{key: "fp32"})
    )
    rows = [row for row in compared("anomaly_dino", "6", records) if row[0] == "bottle"]
    assert [cells["1-shot image AUROC"].ours for _, _, cells in rows] == ["0.900", "0.800"]


def test_figure_of_several_sources_counts_once():
    records = of_run(accuracy()) + of_run(accuracy(), run="B")
    section = paper_sections(OurFigures(records, []))[0]
    (table,) = (block for block in section.blocks if block.title == "Table 6")
    bottle = [row for row in table.rows if row[0] == "bottle"]
    metrics = sum(cell.difference is not None for cell in bottle[0][2:])
    assert len(bottle) == 2
    assert f" figures: {metrics} of ours." in table.notes[0]


def test_mean_is_over_the_graphs_of_all_input_sizes():
    """Categories with cameras of other shapes are inspected by other graphs of the same weights."""
    records = of_run(
        *(
            accuracy(category=name, backbone_sha256=f"{n % 2}" * 64)
            for n, name in enumerate(MVTEC_AD)
        )
    )
    (mean,) = (row for row in compared("anomaly_dino", "6", records) if row[0] == "mean")
    assert mean[2]["1-shot image AUROC"].ours == "0.900"
    others = of_run(
        *(
            accuracy(category=name, weights_sha256=f"{n % 2}" * 64)
            for n, name in enumerate(MVTEC_AD)
        )
    )
    means = [row for row in compared("anomaly_dino", "6", others) if row[0] == "mean"]
    assert [row[2]["1-shot image AUROC"].ours for row in means] == [
        "not run (8 of 15 categories)",
        "not run (7 of 15 categories)",
    ]


def test_categories_of_several_runs_make_no_mean():
    records = of_run(*(accuracy(category=name) for name in MVTEC_AD[:8]))
    records += of_run(*(accuracy(category=name) for name in MVTEC_AD[8:]), run="B")
    means = [row for row in compared("anomaly_dino", "6", records) if row[0] == "mean"]
    assert [cells["1-shot image AUROC"].ours for _, _, cells in means] == [
        "not run (8 of 15 categories)",
        "not run (7 of 15 categories)",
    ]


def test_full_shot_needs_masking_only():
    records = [accuracy(category=c, shots=None, preprocessing="masking_only") for c in VISA]
    visa = [one | {"dataset": "visa", "resolution": 448} for one in records]
    rows = compared("anomaly_dino", "5", of_run(*visa))
    by_label = {label: cells["pixel F1-max"] for label, _, cells in rows}
    assert by_label["VisA 448 px"] == Compared("0.400", "0.505", "−0.105")  # noqa: RUF001
    assert by_label["VisA 672 px"].ours == "not run"
    assert by_label["MVTec AD 448 px"].ours == "not run"


def test_l2bt_is_joined_with_registers_and_fifty_epochs_only():
    every = [l2bt_accuracy(dataset="visa", category=name, image_auroc=0.95) for name in VISA]
    rows = compared("l2bt", "1", of_run(*every))
    assert rows[0][2]["VisA image AUROC"] == Compared("0.950", "0.964", "−0.014")  # noqa: RUF001
    assert rows[0][2]["MVTec AD image AUROC"].ours == "not run"
    for change in ({"epochs": 10}, {"resolution": 448}, {"backbone": "dinov2_vits14_reg"}):
        assert ours_of(compared("l2bt", "1", of_run(*(one | change for one in every)))) == {
            "not run"
        }
    plain = [one | {"backbone": "dinov2_vitb14"} for one in every]
    assert compared("l2bt", "1", of_run(*plain))[0][2]["VisA image AUROC"].ours == "0.950"


def test_default_rows_of_ablations_are_ours_and_the_others_are_not():
    every = of_run(*(l2bt_accuracy(dataset="visa", category=name) for name in VISA))
    for number in ("7", "8", "9"):
        rows = compared("l2bt", number, every)
        assert {label for label, source, _ in rows if source != "not run"} == {"default"}
    rows = compared("l2bt", "2", every)
    by_label = {label: cells for label, _, cells in rows}
    assert by_label["1036 px"]["VisA AUPRO 30 % Q1"] == Compared("0.510", "0.935", "−0.425")  # noqa: RUF001
    assert by_label["224 px"]["VisA AUPRO 30 % Q1"].ours == "not run"


def test_figure_in_doubt_carries_a_mark_and_its_reason():
    sections = paper_sections(OurFigures([], []))
    (table,) = (block for block in sections[1].blocks if block.title == "Table 2")
    cells = {
        label: dict(zip(table.head[2:], cells, strict=True)) for label, _, *cells in table.rows
    }
    assert cells["1036 px"]["MVTec AD ρ 30 %"].paper == "0.986 †"  # noqa: RUF001
    assert cells["1036 px"]["VisA ρ 30 %"].paper == "0.926"  # noqa: RUF001
    assert cells["1036 px"]["both data sets inference, ms"].paper == "1.786 †"
    (reason,) = (note for note in table.notes if note.startswith("† MVTec AD 1036 px (ρ 30 %)"))  # noqa: RUF001
    assert "cannot exceed" in reason
    assert "NVIDIA GeForce RTX 4090" in table.notes[0]


def test_latency_is_joined_by_shots_and_preprocessing():
    rows = compared("anomaly_dino", "9a", latencies=of_run(latency(mean_ms=72.5)))
    by_label = {label: (source, cells) for label, source, cells in rows}
    source, cells = by_label["1-shot agnostic"]
    assert source == (
        "A: anomaly_dino, dinov2_vits14, 8,192 patches, agnostic, without map, openvino 1.2 bf16"
    )
    assert cells["inference, ms"] == Compared("72.5 ± 4.0", "60.0 ± 12.0", "+12.5")
    assert cells["memory bank, s"] == Compared("1.25 ± 0.05", "0.52 ± 0.04", "+0.730")
    assert by_label["2-shot agnostic"][0] == "not run"
    assert by_label["full-shot masking_only"][0] == "not run"


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"masking": False, "rotation": False}, "no_mask_no_rotation"),
        ({"masking": False, "rotation": True}, "no_mask_rotation"),
        ({"masking": True, "rotation": False}, "mask_no_rotation"),
        ({"masking": True, "rotation": True}, "mask_rotation"),
        ({"rotation": "informed"}, "informed"),
        ({"preprocessing": "agnostic", "masking": True, "rotation": True}, "agnostic"),
    ],
)
def test_preprocessing_of_a_latency_is_told_by_whichever_key_it_has(changes, label):
    record = latency(**changes)
    assert preprocessing_of(record) == label
    rows = compared("anomaly_dino", "9b", latencies=of_run(record))
    assert [row[0] for row in rows if row[1] != "not run"] == [label]


def test_preprocessing_that_is_not_told_is_none():
    assert preprocessing_of(latency(masking=None, rotation=None)) is None
    assert preprocessing_of(latency(masking=None, rotation=True)) is None


@pytest.mark.parametrize(
    "other",
    [{"scenario": "server"}, {"part": "students"}, {"batch": 8}, {"resolution": 224},
     {"backbone": "dinov2_vitb14"}, {"shots": 3}, {"method": "l2bt"}],
)  # fmt: skip
def test_latency_of_another_setting_is_not_joined(other):
    rows = compared("anomaly_dino", "9a", latencies=of_run(latency(**other)))
    assert ours_of(rows) == {"not run"}


def test_latency_without_a_bank_time_or_mean_is_not_run():
    record = latency(mean_ms=None)
    del record["memory_bank_s"]
    rows = compared("anomaly_dino", "9a", latencies=of_run(record))
    assert ours_of(rows) == {"not run"}


def test_time_of_l2bt_depends_on_no_shots():
    record = latency(
        method="l2bt", backbone="dinov2_vitb14_reg", resolution=1036, shots=32, bank_patches=None,
        masking=None, rotation=None, mean_ms=3000.0, std_ms=5.0,
    )  # fmt: skip
    cells = compared("l2bt", "2", latencies=of_run(record))[1][2]
    assert cells["both data sets inference, ms"] == Compared("3,000.0 ± 5.0", "1.786 †", "+2,998.2")


def test_latencies_that_differ_in_any_setting_stand_apart():
    records = [latency(product="a"), latency(product="b"), latency(execution="CUDA graph")]
    rows = [
        r for r in compared("anomaly_dino", "9c", latencies=of_run(*records)) if r[0] == "448 px"
    ]
    assert [source.split("bf16")[1] for _, source, _ in rows] == [
        ", execution CUDA graph", ", product a", ", product b"
    ]  # fmt: skip


def test_runs_of_other_machines_stand_apart_in_latency_too():
    records = of_run(latency()) + of_run(latency(environment=environment(memory_gib=1.0)), run="B")
    rows = [r for r in compared("anomaly_dino", "9c", latencies=records) if r[0] == "448 px"]
    assert [source[:2] for _, source, _ in rows] == ["A:", "B:"]


def test_every_metric_of_the_papers_has_a_name():
    for paper in papers():
        for table in paper_tables(paper.name):
            for one in table.figures:
                assert metric_name(one.metric)
    assert metric_name("aupro_05_q3") == "AUPRO 5 % Q3"


def test_tables_that_are_not_at_hand_are_said_to_be_missing():
    notes = " ".join(paper_sections(OurFigures([], []))[0].notes)
    assert "Tables 1, 2, 3, 4 are not here" in notes


def test_figure_is_found_by_its_own_setting():
    one = figure("anomaly_dino", "6", category="bottle", shots=1, metric="image_auroc")
    (found,) = OurFigures(of_run(accuracy(image_auroc=0.5)), []).find(one).values()
    assert found == Measured(0.5, None)
