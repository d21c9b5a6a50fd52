"""What a report shows of accuracy: tables, curves, pictures, and whose weights they are of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import accuracy, l2bt_accuracy, write_picture

from dinspect_bench.errors import ReportError
from dinspect_bench.report.accuracy import accuracy_section, group_records
from dinspect_bench.report.curves_and_pictures import curves_section, pictures_section
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.weights import DEMO_WEIGHTS_SHA256, weights_cautions
from dinspect_export.checkpoints import PACKAGED, checkpoint_files, weights_sha256
from dinspect_export.variants import VARIANTS


def of_run(*records, run="A", folder=Path()):
    return [RunRecord(run, record, folder) for record in records]


def rows_of(found):
    return [dict(zip(found.head, row, strict=True)) for row in found.rows]


def test_accuracy_is_a_table_for_each_setting_with_the_mean_of_its_categories():
    records = of_run(
        accuracy(category="cable", image_auroc=0.8),
        accuracy(category="bottle", seed=0, image_auroc=0.9),
        accuracy(category="bottle", seed=1, image_auroc=0.92),
        accuracy(category="bottle", shots=None, preprocessing="agnostic", image_auroc=1.0),
        l2bt_accuracy(),
    )
    section = accuracy_section(group_records(records))
    titles = [block.title for block in section.blocks]
    assert len(titles) == 4
    assert titles[0].startswith("mvtec_ad, anomaly_dino, 672 px, agnostic (A: dinov2_vits14 ")
    assert titles[1].startswith("By the size of defects: mvtec_ad, anomaly_dino")
    rows = rows_of(section.blocks[0])
    assert [(r["shots"], r["category"], r["seeds"], r["image AUROC"]) for r in rows] == [
        ("1", "bottle", "0, 1", "0.910 ± 0.014"),
        ("1", "cable", "0", "0.800"),
        ("1", "mean of 2 categories", "all of them", "0.855"),
        ("all", "bottle", "0", "1.000"),
        ("all", "mean of 1 category", "all of them", "1.000"),
    ]
    assert rows_of(section.blocks[1])[1]["AUPRO 5 % Q4"] == "0.540"
    assert "l2bt, 1036 px, pad (A: dinov2_vitb14_reg" in titles[2]
    assert titles[2].endswith("students fp32, 50 epochs)")


def test_all_images_stand_in_the_table_of_the_few_shots():
    records = of_run(l2bt_accuracy(shots=4), l2bt_accuracy())
    (group,) = group_records(records)
    assert group.title.endswith("50 epochs, consecutive)")
    assert [shots for shots, _ in group.by_shots()] == [4, None]
    several = of_run(
        l2bt_accuracy(shots=4), l2bt_accuracy(shots=4, selection="random"), l2bt_accuracy()
    )
    endings = [group.title.rpartition(", ")[2] for group in group_records(several)]
    assert endings == ["50 epochs)", "consecutive)", "random)"]


def test_figures_of_other_words_about_a_category_are_not_averaged():
    records = of_run(
        accuracy(image_auroc=0.9), accuracy(texture=True, image_auroc=0.7), accuracy(category="nut")
    )
    said, plain = group_records(records)
    assert said.title.endswith("bottle as texture, consecutive)")
    assert [one.values["image_auroc"] for one in said.records] == [0.7]
    assert len(plain.records) == 2


def test_accuracy_of_several_runs_is_never_in_one_table():
    records = of_run(accuracy()) + of_run(accuracy(seed=1), run="B")
    section = accuracy_section(group_records(records))
    tables = [block for block in section.blocks if not block.is_collapsed]
    assert [{row["seeds"] for row in rows_of(found)} for found in tables] == [
        {"0", "all of them"},
        {"1", "all of them"},
    ]


def test_figures_without_masks_say_so_and_quartiles_are_left_out():
    bare = accuracy(**{key: None for key in accuracy() if "aupro" in key or "pixel" in key or "robust" in key})  # fmt: skip
    section = accuracy_section(group_records(of_run(bare)))
    (found,) = section.blocks
    assert {row["AUPRO 30 %"] for row in rows_of(found)} == {"no masks"}
    assert {row["image AUROC"] for row in rows_of(found)} == {"0.900"}


def test_what_was_left_out_of_a_category_is_said():
    odd = accuracy(left_out=["a.png", "b.png"], num_test_learnt_from=3, num_not_outlined=8)
    notes = accuracy_section(group_records(of_run(odd))).blocks[0].notes
    assert notes == [
        "Files of the data set that were not measured: 2 of bottle.",
        "Test images that are also among those learnt from, at the most: 3 of bottle.",
        "Defective images that nobody has outlined, counted per image only: 8 of bottle.",
    ]
    plain = accuracy(left_out=[], num_test_learnt_from=0)
    assert accuracy_section(group_records(of_run(plain))).blocks[0].notes == []


def test_largest_count_of_a_categorys_records_is_said():
    records = of_run(*(accuracy(seed=n, num_test_learnt_from=n) for n in (0, 2, 1)))
    (note,) = accuracy_section(group_records(records)).blocks[0].notes
    assert note.endswith("at the most: 2 of bottle.")


def test_without_accuracy_three_sections_say_not_run():
    for section in (accuracy_section([]), curves_section([]), pictures_section([])):
        assert section.notes[-1] == "Accuracy was not run."
        assert section.blocks in ((), [])


def test_curves_are_drawn_by_category_with_a_line_for_each_number_of_shots():
    low, high = [[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    records = of_run(
        accuracy(shots=4, seed=1, curves={"roc": low, "pro": []}),
        accuracy(shots=4, seed=0, curves={"roc": high, "pro": []}),
        accuracy(shots=1, curves={"roc": low, "pro": []}),
        accuracy(shots=1, category="cable"),
    )
    (block,) = curves_section(group_records(records)).blocks
    assert [plot.title for plot in block.plots] == ["bottle: ROC", "cable: ROC", "cable: PRO"]
    lines = block.plots[0].geometry["lines"]
    assert [line["name"] for line in lines] == ["1-shot", "4-shot"]
    assert len(lines[1]["points"].split()) == 3  # of seed 0
    pro = block.plots[2].geometry
    assert [tick["label"] for tick in pro["x_ticks"]][-1] == "0.3"
    end = pro["lines"][0]["points"].split()[-1].split(",")
    assert float(end[0]) == pro["right"]
    half = pro["top"] + (pro["bottom"] - pro["top"]) * (1 - 0.7)
    assert float(end[1]) == pytest.approx(half, abs=0.11)  # between 0.6 at 0.2 and 0.8 at 0.4


def test_pictures_are_of_the_most_shots_and_the_lowest_seed(tmp_path):
    write_picture(tmp_path / "pictures" / "a.png")

    def worst(file, picture="pictures/a.png"):
        return [{"file": file, "label": "broken", "score": 0.123456, "picture": picture}]

    records = of_run(
        accuracy(shots=16, worst=worst("few")),
        accuracy(shots=None, seed=1, worst=worst("all, seed 1")),
        accuracy(shots=None, seed=0, worst=[*worst("all, seed 0"), *worst("none", None)]),
        accuracy(category="cable", worst=worst("moved", "pictures/gone.jpg")),
        accuracy(category="grid", worst=[]),
        folder=tmp_path,
    )
    bottle, cable = pictures_section(group_records(records)).blocks
    assert bottle.title.startswith("bottle, all images: mvtec_ad, anomaly_dino")
    first, second = bottle.pictures
    assert (first.file, first.label, first.score) == ("all, seed 0", "broken", "0.1235")
    assert first.source.startswith("data:image/jpeg;base64,")
    assert (second.source, second.missing) == (None, "no picture was taken")
    assert cable.pictures[0].missing == "the picture pictures/gone.jpg is not there"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "pictures/../../x.png"])
def test_picture_outside_the_records_folder_is_refused(tmp_path, name):
    folder = tmp_path / "results"
    folder.mkdir()
    write_picture(tmp_path / "secret.png")
    record = accuracy(worst=[{"file": "a", "label": "good", "score": 1.0, "picture": name}])
    with pytest.raises(ReportError, match="outside that folder"):
        pictures_section(group_records(of_run(record, folder=folder)))


def test_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    record = accuracy(worst=[{"file": "a", "label": "good", "score": 1.0, "picture": "a.jpg"}])
    with pytest.raises(ReportError, match=r"a\.jpg is no picture that can be read"):
        pictures_section(group_records(of_run(record, folder=tmp_path)))


def test_demo_weights_are_the_packaged_ones():
    files = checkpoint_files(PACKAGED, "dinov2_vits14", Path())
    assert weights_sha256(files) == DEMO_WEIGHTS_SHA256


def test_weights_that_are_not_dinov2s_own_are_cautioned_of():
    demo = accuracy(weights_sha256=DEMO_WEIGHTS_SHA256)
    (caution,) = weights_cautions(of_run(demo, demo | {"seed": 1}))
    assert caution == (
        "The weights of dinov2_vits14 in run A are not DINOv2's own: no figure of the papers can "
        "be expected of them."
    )


def test_weights_of_which_nothing_is_known_are_cautioned_of():
    untold = accuracy()
    del untold["weights_sha256"]
    other = l2bt_accuracy(weights_sha256="12" * 32)
    (caution,) = weights_cautions(of_run(untold, other))
    assert caution.startswith("It is not known that the weights of dinov2_vits14 in run A and dinov2_vitb14_reg in run A")  # fmt: skip
    assert "no figure of the papers can be expected" in caution


@pytest.mark.parametrize(
    ("backbone", "digest"),
    [
        ("dinov2_vits14", VARIANTS["dinov2_vits14"].checkpoint_sha256),
        ("dinov2_vits14_reg", VARIANTS["dinov2_vits14_reg"].checkpoint_sha256),
        ("dinov2_vits14", "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1"),
    ],
)
def test_metas_own_weights_carry_no_caution(backbone, digest):
    assert weights_cautions(of_run(accuracy(backbone=backbone, weights_sha256=digest))) == []


def test_metas_weights_of_another_backbone_are_not_its_own():
    digest = VARIANTS["dinov2_vits14_reg"].checkpoint_sha256
    assert len(weights_cautions(of_run(accuracy(weights_sha256=digest)))) == 1
