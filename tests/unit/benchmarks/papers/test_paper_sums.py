"""Whether the papers' figures add up, and that those which do not are said to be in doubt."""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import fmean

import pytest

from dinspect_bench.machine.operations import backbone_operations
from dinspect_bench.papers.tables import paper_tables, papers
from dinspect_export.variants import variant_by_name

LAST_DIGIT = {"6": 0.001, "7": 0.001}
RHO_ROUNDING = 0.0025  # three digits in the mean of quartiles, their ratio and rho itself
CARD_FLOP_PER_S = 3.3e14  # RTX 4090 in half precision with half-precision sums, dense


def table_of(paper, number):
    (found,) = (one for one in paper_tables(paper) if one.number == number)
    return found


@pytest.mark.parametrize(("number", "num_categories"), [("6", 15), ("7", 12)])
def test_printed_means_are_those_of_the_rows(number, num_categories):
    columns = defaultdict(dict)
    for figure in table_of("anomaly_dino", number).figures:
        columns[figure.shots, figure.metric][figure.category] = figure.value
    assert len(columns) == 10
    for by_category in columns.values():
        mean = by_category.pop(None)
        assert len(by_category) == num_categories
        assert fmean(by_category.values()) == pytest.approx(mean, abs=LAST_DIGIT[number])


def _robustness_rows():
    """Each row's quartiles and rho, by setting."""
    rows = defaultdict(dict)
    for figure in table_of("l2bt", "2").figures:
        for limit in ("30", "05"):
            if limit in figure.metric:
                key = (figure.method, figure.resolution, figure.dataset, limit)
                name = figure.metric.replace(f"_{limit}", "")
                rows[key][name] = figure
    return rows


def _equation_4(row):
    quartiles = [row[f"aupro_q{number}"].value for number in (1, 2, 3, 4)]
    weight = fmean(quartiles)
    sensitivity = abs(quartiles[3] - quartiles[0]) / max(quartiles[0], quartiles[3])
    return weight * (1 - sensitivity), weight


def test_robustness_is_equation_4_of_the_quartiles_or_in_doubt():
    rows = _robustness_rows()
    assert len(rows) == 40
    off = {
        key
        for key, row in rows.items()
        if abs(row["robustness"].value - _equation_4(row)[0]) > RHO_ROUNDING
    }
    assert off == {key for key, row in rows.items() if row["robustness"].doubt}
    assert len(off) == 7


def test_robustness_above_its_bound_is_said_to_be():
    rows = _robustness_rows()
    above = {key for key, row in rows.items() if row["robustness"].value > _equation_4(row)[1]}
    said = {k for k, row in rows.items() if "cannot exceed" in (row["robustness"].doubt or "")}
    assert above == said
    assert above == {
        ("l2bt", 1036, "mvtec_ad", "30"),
        ("RD++", 1036, "mvtec_ad", "30"),
        ("l2bt", 224, "visa", "05"),
    }


def test_what_a_doubt_recomputes_is_right():
    for row in _robustness_rows().values():
        doubt = row["robustness"].doubt
        if doubt:
            said = [float(number) for number in re.findall(r"\d\.\d+", doubt)]
            rho, weight = _equation_4(row)
            first = weight if "cannot exceed" in doubt else row["robustness"].value
            assert said == pytest.approx([first, rho], abs=0.0005001)


def test_largest_quartile_is_all_defects():
    """Q4 of Table 2 at high resolution is the AUPRO of Table 1."""
    first = {(f.method, f.dataset, f.metric): f.value for f in table_of("l2bt", "1").figures}
    resolution = {f.method: f.resolution for f in table_of("l2bt", "1").figures}
    compared = 0
    for figure in table_of("l2bt", "2").figures:
        if figure.metric.endswith("_q4") and figure.resolution == resolution[figure.method]:
            key = (figure.method, figure.dataset, figure.metric.removesuffix("_q4"))
            assert figure.value == first[key]
            compared += 1
    assert compared == 20


def test_what_a_paper_prints_twice_agrees_or_is_in_doubt():
    compared = 0
    for paper in papers():
        seen = {}
        for figure in (f for table in paper_tables(paper.name) for f in table.figures):
            # Tables 5 and 6 name backbones that the other tables leave out for other methods.
            backbone = figure.backbone if figure.method == paper.name else None
            if paper.name == "l2bt" and figure.table == "6" and backbone is None:
                continue
            key = (
                figure.method, figure.metric, figure.dataset, figure.category, backbone,
                figure.resolution, figure.shots, figure.preprocessing, figure.variant,
            )  # fmt: skip
            before = seen.setdefault(key, figure)
            compared += before is not figure
            if (before.value, before.std) != (figure.value, figure.std):
                assert before.doubt, key
                assert figure.doubt, key
    assert compared > 30


def test_time_that_cannot_hold_the_backbone_is_in_doubt():
    """L2BT's 1.786 ms against the operations of one pass; the 1.321 ms at 224 px could hold it."""
    times = {f.resolution: f for f in table_of("l2bt", "2").figures if f.metric == "mean_ms" and f.method == "l2bt"}  # fmt: skip
    variant = variant_by_name("dinov2_vitb14")
    rates = {}
    for resolution, figure in times.items():
        side = resolution // variant.patch_size
        operations = backbone_operations(variant, (side, side), variant.depth).total
        rates[resolution] = operations / (figure.value / 1000)
    assert rates[1036] > 3 * CARD_FLOP_PER_S > CARD_FLOP_PER_S > rates[224]
    assert f"{rates[1036]:.1e}".replace("e+", "e") in times[1036].doubt
    assert times[224].doubt is None


def test_tables_7_and_9_of_l2bt_name_the_single_maps_the_other_way_round():
    seventh = {(f.variant, f.metric): f for f in table_of("l2bt", "7").figures}
    ninth = {(f.variant, f.metric): f for f in table_of("l2bt", "9").figures}
    for arrow, delta in (("layers [8 → 12]", "map: Δ_j"), ("layers [8 ← 12]", "map: Δ_k")):
        for metric in ("image_auroc", "aupro_30", "aupro_05"):
            assert seventh[arrow, metric].value == ninth[delta, metric].value
            assert seventh[arrow, metric].doubt
            assert ninth[delta, metric].doubt
