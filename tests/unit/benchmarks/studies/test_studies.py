"""What the studies make of their figures; that they run is tested on the real server."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from dinspect_bench.commands import StudyCommand
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.studies import products as products_study
from dinspect_bench.studies.banks import bank_cases, format_banks
from dinspect_bench.studies.common import placed
from dinspect_bench.studies.products import format_products
from dinspect_bench.studies.shots import format_shots
from dinspect_bench.studies.zero_shot import format_zero_shot


def rows(table):
    """Cells of a table's rows, without its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shot(kind, seed, shots, auroc, **changes):
    record = {
        "kind": kind, "seed": seed, "shots": shots, "auroc": auroc, "false_alarms": 1, "misses": 2,
        "undecided": 0, "held_out": 60, "preprocessing": "informed", "runtime": "openvino fp32",
    }  # fmt: skip
    return record | changes


def test_shots_are_means_and_deviations_over_the_seeds():
    table = format_shots(
        [shot("mono", 0, 1, 0.6), shot("mono", 1, 1, 0.8), shot("mono", 0, 2, 0.9, misses=5),
         shot("mono", 1, 2, 0.9, misses=3)]
    )  # fmt: skip
    auroc, alarms, misses, undecided = rows(table)
    assert auroc == ["solar-mono", "AUROC", "0.700 ± 0.141", "0.900 ± 0.000"]
    assert alarms[2:] == ["1.0 ± 0.0", "1.0 ± 0.0"]
    assert misses[2:] == ["2.0 ± 0.0", "4.0 ± 1.4"]
    assert undecided[2:] == ["0.0 ± 0.0", "0.0 ± 0.0"]
    assert "solar-mono: the mean AUROC rises with every step." in table


def test_shots_say_where_the_mean_does_not_rise():
    table = format_shots([shot("poly", 0, n, a) for n, a in ((1, 0.7), (2, 0.65), (4, 0.8))])
    assert (
        "solar-poly: the mean AUROC does not rise from 1 to 2 shots (0.700 to 0.650), "
        "and rises elsewhere." in table
    )


def bank_record(product, p50_ms, auroc, score_error=None):
    return {
        "requested_precision": "auto", "precision": "fp32", "search_precision": "bf16",
        "case": product, "product": product, "num_patches": 8192, "p50_ms": p50_ms,
        "search_ms": 10.0, "search_share": 0.061, "auroc": auroc, "score_error": score_error,
        "num_samples": 100, "num_held_out": 30,
    }  # fmt: skip


def test_banks_are_compared_with_few_images_and_with_exact_search():
    table = format_banks(
        [bank_record("small", 200, 0.7), bank_record("exact", 500, 0.9, 0.0),
         bank_record("ivf", 300, 0.898, 0.05)]
    )  # fmt: skip
    assert "AUROC of 30 functional and 30 defective" in table
    small, exact, ivf = rows(table)
    assert [row[4] for row in (small, exact, ivf)] == ["1.00", "2.50", "1.50"]
    assert small[6:] == ["6 %", "0.7000", "", ""]
    assert exact[7:] == ["0.9000", "+0.0000", "0.00 %"]
    assert ivf[7:] == ["0.8980", "-0.0020", "5.00 %"]


def test_every_large_bank_has_as_many_images():
    small, *large = bank_cases(200)
    assert small.num_references == 8
    assert {case.num_references for case in large} == {200}
    assert len({case.product for case in (small, *large)}) == 5


def test_bank_is_in_memory_until_as_many_others_were_used():
    order = ["a", "b", "a", "c", "b", "a", "a"]
    times, hits = products_study._inspect(lambda name, index: float(index), order, num_loaded=2)
    assert times == [0, 1, 2, 3, 4, 5, 6]
    assert hits == [False, False, True, False, False, False, True]


@pytest.mark.parametrize("hits", [[True, True], [False, False]])
def test_products_without_hits_or_misses_compare_nothing(hits):
    with pytest.raises(BenchmarkError, match="no hits or no misses"):
        products_study._record([1.0, 2.0], hits, None, 0)


def test_products_tell_hits_misses_and_memory():
    record = {f"{a}_{p}_ms": 100.0 for a in ("hit", "miss") for p in ("p50", "p90", "p99")}
    record |= {
        "hit_count": 3, "miss_count": 27, "miss_p50_ms": 150.0, "products": 6, "requests": 30,
        "banks_in_limit": 3, "limit_mib": 74.0, "resident_before_mib": 80.0,
        "resident_peak_mib": 160.4,
    }  # fmt: skip
    table = format_products(record)
    hit, miss = rows(table)
    assert (hit[1:3], miss[1:3]) == (["3", "100"], ["27", "150"])
    assert "80 MiB before the first inspection and 160 MiB at most, 80 MiB more" in table


def test_zero_shot_tells_time_per_image_and_memory_above():
    record = {
        "kind": "mono", "images": 300, "defective": 60, "auroc": 0.78, "total_s": 600.0,
        "first_answer_s": 60.0, "memory_before_mib": 880.0, "memory_above_mib": 253.2,
        "runtime": "openvino fp32",
    }  # fmt: skip
    (row,) = rows(format_zero_shot([record]))
    assert row == ["solar-mono", "300 (60)", "0.780", "60", "2000", "880", "253"]


@pytest.mark.parametrize("format_one", [format_shots, format_banks, format_zero_shot])
def test_tables_say_on_what_they_were_measured(format_one):
    records = {
        format_shots: [shot("mono", 0, 1, 0.6)],
        format_banks: [bank_record("small", 200, 0.7), bank_record("exact", 500, 0.9, 0.0)],
        format_zero_shot: [
            {"kind": "mono", "images": 3, "defective": 1, "auroc": 1.0, "total_s": 1.0,
             "first_answer_s": 1.0, "memory_before_mib": 1.0, "memory_above_mib": 1.0,
             "runtime": "x"}
        ],
    }[format_one]  # fmt: skip
    foot = r"Measured by `dinspect study [a-z-]+` on "
    assert re.search(rf"{foot}a machine that no record describes\.", format_one(records))
    assert re.search(rf"{foot}\d+ cores of ", format_one([placed(record) for record in records]))


@pytest.mark.parametrize(
    ("study", "function", "table"),
    [
        ("shots", "shots.run_shots_study", "shots.md"),
        ("banks", "banks.run_bank_study", "banks.md"),
        ("products", "products.run_products_study", "products.md"),
        ("zero-shot", "zero_shot.run_zero_shot_study", "zero-shot.md"),
        ("l2bt-shots", "l2bt_shots.run_l2bt_shots_study", "l2bt_shots.md"),
        ("training", "training.run_training_study", "training.md"),
    ],
)
def test_command_runs_the_study_that_is_named(monkeypatch, capsys, study, function, table):
    asked = []

    def run(*paths, **options):
        asked.append((paths, options))
        return "the page"

    module, name = f"dinspect_bench.studies.{function}".rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), name))
    monkeypatch.setattr(f"{module}.{name}", run)
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([study, "--artefacts", "made"])) == 0
    assert command.run(parser.parse_args([study, "--quick", "--output", "page.md"])) == 0
    (whole, nothing), (quick, options) = asked
    assert whole[-1] == Path("docs/results") / table
    assert quick[-1] == Path("page.md")
    assert whole[:-1] in [(Path("made"),), ()]  # of those that make their own artefacts
    assert nothing == {}
    assert options
    assert capsys.readouterr().out == "the page\n" * 2
