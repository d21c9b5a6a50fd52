"""The page of the latency study, made of records written by hand."""

from __future__ import annotations

import pytest

from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.studies.latency_rows import chosen_rows, paper_rows
from dinspect_bench.studies.latency_tables import format_latency

PEAKS = [
    {"matrix_product_flops": {"fp32": 4e11, "fp16": None, "bf16": 9e11, "int8": 1.5e12},
     "copy_bytes_per_s": 2e10},
    {"matrix_product_flops": {"fp32": 5e11, "fp16": None, "bf16": 8e11, "int8": 1.8e12},
     "copy_bytes_per_s": 3e10},
]  # fmt: skip


def floor(floor_ms, measured_ms):
    """Of a step in FP32, at the better of the two peaks; what was recorded then is no matter."""
    return {
        "operations": round(floor_ms * 5e8), "traffic_bytes": 1, "precision": "fp32",
        "measured_ms": measured_ms, "peak_share": 0.99, "floor_ms": 99.0,
    }  # fmt: skip


def record(mean_ms, bank_s=(1.5, 0.25), **changes):
    by_step = {
        "preprocess": floor(11.0, 20.0), "backbone": floor(28.0, 70.0), "knn": floor(1.0, 8.0),
    }  # fmt: skip
    stages = {
        "preprocess": 20.0, "backbone": 70.0, "knn": 8.0, "queue": 0.5, "routing": 0.25,
        "transport": mean_ms - 98.75,
    }  # fmt: skip
    return {
        "mean_ms": mean_ms, "std_ms": 4.0, "memory_bank_s": bank_s[0], "memory_bank_std_s": bank_s[1],
        "floor_ms": 99.0, "floor_by_step": by_step, "num_samples": 40, "stages_ms": stages, "bank_patches": 8192,
        "masking": False, "rotation": True, "runtime": "openvino 2026.4", "precision": "fp32",
        "weights": "packaged", "load_average": 0.5, "environment": describe_environment(),
    } | changes  # fmt: skip


def l2bt_record():
    stages = {
        "decode": 12.5, "resize": 5.0, "preprocess_other": 2.5, "backbone": 3000.0,
        "students": 90.25, "map": 12.0, "queue": 1.0, "routing": 1.0, "transport": 5.0,
    }  # fmt: skip
    by_step = {
        name: floor(floor_ms, stages[name])
        for name, floor_ms in (("backbone", 1500.0), ("students", 45.0), ("map", 6.0))
    }
    return record(
        3150.0, (None, None), stages_ms=stages, floor_by_step=by_step, num_samples=20,
        bank_patches=None, weights="random", load_average=7.25,
    )  # fmt: skip


def measured(**records):
    """Rows by name, written with underscores for what is no word."""
    return {chosen_rows([name])[0]: one for name, one in records.items()}


@pytest.fixture
def page():
    return format_latency(
        measured(**{
            "s-448-1-agnostic": record(100.0),
            "s-448-16-agnostic": record(130.0, (20.0, 1.0), bank_patches=131072, masking=True),
            "s-224-8-mask_no_rotation": record(50.0, (0.75, None), rotation=False),
            "b-672-2-informed": record(900.0, weights="random"),
            "l2bt-b-1036": l2bt_record(),
        }),
        PEAKS,
    )  # fmt: skip


def cells(page, heading, first):
    """Cells of the row below a heading that begins with some cells, without those."""
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.removeprefix(f"| {first} |").strip("|").split("|")]


def test_ours_stands_beside_the_papers_relative_to_the_default_of_each(page):
    assert cells(page, "Table 9a", "s-448-16-agnostic") == [
        "yes, yes", "131,072", "40", "130 ± 4", "1.30", "20.00 ± 1.00", "40",
        "63 ± 12", "1.05", "6.02 ± 0.39",
    ]  # fmt: skip
    for table in ("Table 9a", "Table 9b", "Table 9c", "Table 9d"):
        assert cells(page, table, "s-448-1-agnostic") == [
            "no, yes", "8,192", "40", "100 ± 4", "1.00", "1.50 ± 0.25", "40",
            "60 ± 12", "1.00", "0.52 ± 0.04",
        ]  # fmt: skip


def test_every_row_of_the_papers_is_there_and_what_was_not_run_says_so(page):
    for row in paper_rows():
        assert f"| {row.name} |" in page
    assert cells(page, "Table 9d", "g-448-1-agnostic") == [
        *["not run"] * 7, "306 ± 34", "5.10", "2.67 ± 0.14",
    ]  # fmt: skip
    assert cells(page, "L2BT, Table 2", "l2bt-b-224") == [*["not run"] * 5, "1.321"]


def test_grid_has_times_and_banks_by_shots(page):
    heading = "Resolution, preprocessing and shots"
    assert cells(page, heading, "224 px | mask_no_rotation") == [
        "not run",
        "50 ± 4; 0.8",
        "not run",
    ]
    assert cells(page, heading, "896 px | mask_rotation") == ["not run"] * 3


def test_students_pixels_to_map_and_the_whole_are_told_apart(page):
    assert cells(page, "L2BT, Table 2", "l2bt-b-1036") == [
        "20", "90.2", "3102", "3150 ± 4", "1551", "1.786",
    ]  # fmt: skip
    assert "The paper's 1.786 ms cannot contain the backbone" in page


def test_row_of_no_table_is_shown_and_those_of_tables_are_not_shown_twice(page):
    assert cells(page, "Other rows", "b-672-2-informed")[3:5] == ["900 ± 4", "9.00"]
    others = page.split("## Other rows")[1].split("\n## ")[0]
    assert "s-448-16-agnostic" not in others
    assert "s-224-8-mask_no_rotation" not in others
    assert "## Other rows" not in format_latency(measured(**{"l2bt-b-1036": l2bt_record()}), PEAKS)


def test_without_the_default_nothing_of_ours_is_relative():
    page = format_latency(measured(**{"s-448-2-agnostic": record(90.0)}), PEAKS)
    found = cells(page, "Table 9a", "s-448-2-agnostic")
    assert (found[3], found[4], found[8]) == ("90 ± 4", "not run", "0.98")


def test_stages_have_their_share_of_the_peak(page):
    heading = "Where the time goes, and the floor"
    assert cells(page, heading, "s-448-1-agnostic") == [
        "20.0", "", "70.0", "40 %", "8.0", "12 %", "", "0.8", "1.2", "40 %",
    ]  # fmt: skip
    assert cells(page, heading, "l2bt-b-1036") == [
        "20.0", "12.5", "3000.0", "50 %", "90.2", "50 %", "12.0", "2.0", "5.0", "49 %",
    ]  # fmt: skip


def test_share_that_is_not_known_is_blank():
    blank = record(100.0, floor_by_step={"backbone": floor(28.0, None), "knn": floor(1.0, 8.0)})
    page = format_latency(measured(**{"s-448-1-agnostic": blank}), PEAKS)
    assert cells(page, "Where the time goes", "s-448-1-agnostic")[2:4] == ["70.0", ""]


def test_page_tells_random_weights_the_peak_the_load_and_the_machine(page):
    assert (
        "With random weights, on which time does not depend: b-672-2-informed, l2bt-b-1036." in page
    )
    assert "With random weights" not in format_latency(
        measured(**{"s-448-1-agnostic": record(100.0)}), PEAKS
    )
    assert (
        "measured the best of 2 times: FP32 500 GFLOP/s, BF16 900 GFLOP/s, INT8 1,800 GFLOP/s; "
        "copy 30.0 GB/s" in page
    )
    assert "The load average before the rows was 0.5 to 7.2." in page
    assert "the backbone in openvino 2026.4 fp32" in page
    assert "Measured by `dinspect study latency` on " in page
