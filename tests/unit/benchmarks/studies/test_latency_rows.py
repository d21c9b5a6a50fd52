"""Which rows the latency tables have, and what they are called."""

from __future__ import annotations

import pytest

from dinspect_bench.errors import LatencyError
from dinspect_bench.papers.tables import paper_tables
from dinspect_bench.studies.latency_rows import (
    LatencyRow,
    all_rows,
    chosen_rows,
    default_rows,
    grid_rows,
    grouped,
    paper_rows,
    row_of,
    table_figures,
)

S, B = "dinov2_vits14", "dinov2_vitb14"


def names(rows):
    return [row.name for row in rows]


def test_every_row_of_both_papers_is_there_once():
    """7 rows of Table 9a, 5 more of 9b, 3 more of 9c and of 9d: one default is in all four."""
    assert names(paper_rows()) == [
        *(f"s-448-{shots}-agnostic" for shots in (1, 2, 4, 8, 16)),
        "s-448-full-masking_only", "s-448-full-agnostic",
        "s-448-1-no_mask_no_rotation", "s-448-1-no_mask_rotation",
        "s-448-1-mask_no_rotation", "s-448-1-mask_rotation", "s-448-1-informed",
        "s-224-1-agnostic", "s-672-1-agnostic", "s-896-1-agnostic",
        "b-448-1-agnostic", "l-448-1-agnostic", "g-448-1-agnostic",
        "l2bt-b-224", "l2bt-b-1036",
    ]  # fmt: skip


def test_tables_have_both_times_of_their_own_method_alone():
    assert len(table_figures("anomaly_dino", "9a")) == 7
    for figures in table_figures("anomaly_dino", "9b"):
        assert figures["mean_ms"].unit == "ms"
        assert figures["memory_bank_s"].unit == "s"
    assert [figures["mean_ms"].value for figures in table_figures("l2bt", "2")] == [1.321, 1.786]


def test_grid_is_every_combination_of_table_9s_settings_for_three_numbers_of_shots():
    rows = grid_rows()
    assert len(rows) == len(set(rows)) == 4 * 3 * 4
    assert {row.resolution for row in rows} == {224, 448, 672, 896}
    assert {row.shots for row in rows} == {1, 8, 16}
    assert {row.backbone for row in rows} == {S}
    assert len(all_rows()) == 20 + 48 - 4  # Table 9b is in the grid, but for its last two rows


def test_default_leaves_out_what_takes_too_long():
    chosen, left_out = set(default_rows()), set(all_rows()) - set(default_rows())
    assert {name for name in names(left_out) if not name.startswith("s-")} == {
        "l-448-1-agnostic", "g-448-1-agnostic",
    }  # fmt: skip
    assert {"s-448-full-masking_only", "s-448-full-agnostic"} <= set(names(left_out))
    assert all(row in chosen for row in grid_rows() if row.resolution == 224)
    assert "s-448-8-mask_rotation" in names(left_out)
    assert "s-896-16-mask_no_rotation" in names(chosen)
    assert "s-448-1-mask_rotation" in names(chosen)  # the paper has it


def test_name_gives_the_row_again():
    for row in all_rows():
        assert chosen_rows([row.name]) == [row]


def test_pattern_gives_all_that_fit_once():
    assert names(chosen_rows(["*-1-informed", "s-448-1-*"]))[0] == "s-448-1-informed"
    found = chosen_rows(["s-448-1-*", "s-448-1-informed"])
    assert len(found) == 6
    assert names(chosen_rows(["l2bt-*"])) == ["l2bt-b-224", "l2bt-b-1036"]


def test_row_of_no_table_can_be_named():
    assert chosen_rows(["b-672-full-masking_only"]) == [
        LatencyRow("anomaly_dino", B, 672, None, "masking_only")
    ]
    assert chosen_rows(["s-448-32-informed"])[0].shots == 32
    assert chosen_rows(["l2bt-s-448"]) == [LatencyRow("l2bt", S, 448)]


@pytest.mark.parametrize(
    "name", ["x-448-1-agnostic", "s-448-0-agnostic", "s-448-1-masked", "s-448", "l2bt-b", "s-9*"]
)
def test_name_of_nothing_is_refused(name):
    with pytest.raises(LatencyError, match="is no row of a latency table and no name of one"):
        chosen_rows(["s-448-1-agnostic", name])


def test_rows_that_one_server_serves_go_together():
    names_in = ["s-448-1-informed", "b-448-1-agnostic", "s-448-2-agnostic", "s-672-1-agnostic",
                "l2bt-b-448"]  # fmt: skip
    assert [names(group) for group in grouped(chosen_rows(names_in)).values()] == [
        ["s-448-1-informed", "s-448-2-agnostic"], ["b-448-1-agnostic"], ["s-672-1-agnostic"],
        ["l2bt-b-448"],
    ]  # fmt: skip


def test_figure_of_another_method_is_no_row_of_ours():
    (table,) = (one for one in paper_tables("l2bt") if one.number == "2")
    theirs = next(one for one in table.figures if one.method == "PatchCore")
    with pytest.raises(LatencyError, match="table 2 has no row of ours for PatchCore"):
        row_of(theirs)
