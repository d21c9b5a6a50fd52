"""Means over seeds and categories, and what a reader is told besides."""

from __future__ import annotations

import pytest

from dinspect_bench.accuracy.accuracy_table import FIGURES, format_accuracy
from dinspect_bench.accuracy.means import CategoryMean, mean_over_categories, mean_text


def record(category="nut", seed=0, value=0.5, **others):
    """A record written by hand."""
    return {
        "dataset": "parts", "category": category, "method": "anomaly_dino", "seed": seed,
        "shots": 1, "selection": "consecutive", "backbone": "dinov2_vits14", "resolution": 448,
        "preprocessing": "agnostic", "runtime": "openvino 1", "precision": "bf16",
        "search_precision": "bf16", "students_precision": None,
        "num_good": 3, "num_defective": 4, "num_regions": 5, "left_out": [], "num_copies": 0,
        "num_not_outlined": 0, "num_test_learnt_from": 0, "masked": False, **dict.fromkeys(FIGURES, value),
    } | others  # fmt: skip


def rows_of(text):
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if "|" in line
    ]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize(
    ("masked", "note"),
    [
        ((True, False, False), "nut: masked in 1 of 3 draws, as the masking test on the first"),
        ((True, True, True), None),
        ((False, False, False), None),
        ((None, None, None), None),
    ],
)
def test_mean_of_masked_and_unmasked_draws_says_so(masked, note):
    text = format_accuracy([record(seed=seed, masked=one) for seed, one in enumerate(masked)])
    assert (note in text) if note else ("masked in" not in text)
    apart = [record(masked=True), record(masked=False, preprocessing="no_mask_rotation")]
    assert "masked in" not in format_accuracy(apart)


def test_records_of_several_commits_are_told():
    def of(*commits):
        places = [{"environment": {"git": c and {"commit": c * 40}}} for c in commits]
        return format_accuracy([record(seed=seed, **one) for seed, one in enumerate(places)])

    assert "are of 2 commits (aaaaaaaaaaaa, bbbbbbbbbbbb); if" in of("a", "b", "a", None)
    assert "commits" not in of("a", "a", None)
    assert "commits" not in format_accuracy([record()])


def test_figure_of_a_category_is_the_mean_over_seeds():
    found = [record(seed=0, value=0.5), record(seed=1, value=0.7), record(seed=2, value=0.9)]
    mean = mean_over_categories([found], "image_auroc")
    assert mean == CategoryMean(pytest.approx(0.7), pytest.approx(0.2), 1)
    assert mean_text(mean, 1) == "0.700 ± 0.200"
    assert mean_text(mean_over_categories([found[:1]], "image_auroc"), 1) == "0.500"


def test_overall_mean_is_of_each_seed_first():
    """Its deviation is that of the means, not of single categories."""
    nut = [record(seed=0, value=0.5), record(seed=1, value=0.7)]
    cap = [record("cap", seed=0, value=0.9), record("cap", seed=1, value=0.7)]
    mean = mean_over_categories([nut, cap], "image_auroc")
    assert mean == CategoryMean(pytest.approx(0.7), pytest.approx(0.0, abs=1e-12), 2)


def test_mean_over_other_seeds_has_no_deviation():
    nut = [record(seed=0, value=0.5), record(seed=1, value=0.7)]
    for seed in (1, 2):
        mean = mean_over_categories([nut, [record("cap", seed=seed, value=0.9)]], "image_auroc")
        assert mean == CategoryMean(pytest.approx(0.75), None, 2)


def test_mean_says_of_how_many_categories_it_is():
    bare = [record("cell", seed=seed, value=None) for seed in (0, 1)]
    nut = [record(seed=0, value=0.5), record(seed=1, value=0.7)]
    mean = mean_over_categories([bare, nut], "image_auroc")
    assert mean == CategoryMean(pytest.approx(0.6), pytest.approx(0.02**0.5), 1)
    assert mean_text(mean, 2) == "0.600 ± 0.141 (mean of 1)"
    assert mean_text(mean_over_categories([bare], "image_auroc"), 1) == "no masks"


def test_tables_have_every_category_and_the_mean():
    found = [
        record("nut", 0, 0.5),
        record("nut", 1, 0.7),
        record("cap", 0, 0.9),
        record("cap", 1, 0.9),
    ]
    text = format_accuracy(found)
    assert text.startswith(
        "parts by anomaly_dino, 1 shot (consecutive), seeds 0, 1: dinov2_vits14 at 448 px in "
        "openvino 1 bf16, search in bf16, preprocessing agnostic\n\n"
    )
    rows = rows_of(text)
    assert rows["category"] == ["test images", *FIGURES.values()]
    assert rows["nut"] == ["3 good, 4 defective", *["0.600 ± 0.141"] * len(FIGURES)]
    assert rows["**mean of 2 categories**"][1] == "0.750 ± 0.071"


def test_one_category_has_no_mean_row():
    assert "mean" not in format_accuracy([record()])


def test_each_way_of_measuring_has_a_table_of_its_own():
    ways = [
        record(), record(shots=4), record(shots=None), record(method="l2bt"),
        record(resolution=672), record(preprocessing="informed"), record(selection="random"),
        record(search_precision="fp32"), record(precision="fp32"), record(runtime="onnxruntime 1"),
        record(search_precision=None, students_precision="fp32"),
    ]  # fmt: skip
    text = format_accuracy(ways)
    assert text.count("| category |") == len(ways)
    assert "4 shots (consecutive), seed 0:" in text
    assert "all training images:" in text
    assert "students in fp32, preprocessing" in text


def test_category_without_masks_says_so():
    nothing = dict.fromkeys(list(FIGURES)[3:])
    bare = record("cell", num_regions=None, num_not_outlined=4, **nothing)
    text = format_accuracy([bare, record("nut", value=0.9)])
    rows = rows_of(text)
    assert rows["cell"][1:] == ["0.500"] * 3 + ["no masks"] * 6
    assert rows["**mean of 2 categories**"][1:] == ["0.700"] * 3 + ["0.900 (mean of 1)"] * 6
    assert "cell:" not in text.split("|")[-1]


def test_notes_say_what_flatters_or_is_missing():
    assert format_accuracy([record()]).rstrip().endswith("|")
    text = format_accuracy(
        [
            record(
                seed=0,
                left_out=["a", "b"],
                num_not_outlined=8,
                num_test_learnt_from=3,
                num_copies=1,
            ),
            record(seed=1, left_out=["a", "b"], num_not_outlined=8),
        ]
    )
    notes = text.split("|\n")[-1].strip().splitlines()
    assert len(notes) == 4
    assert notes[0].startswith("nut: 2 images of another aspect ratio")
    assert notes[1].startswith("nut: 8 defective images have no mask")
    assert notes[2].startswith(
        "nut: up to 3 test images are copies of images that were learnt from"
    )
    assert notes[3].startswith("nut: up to 1 images to learn from are copies of others")
