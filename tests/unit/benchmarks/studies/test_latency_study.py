"""How the latency study goes on and how it is called, with fakes for measurements and peak.

What the real ones do is tested in tests/integration/test_served_studies.py.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from dinspect_bench.commands import StudyCommand
from dinspect_bench.errors import BenchmarkError, LatencyError
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.studies import latency_protocol
from dinspect_bench.studies.latency_protocol import run_latency_study
from dinspect_bench.studies.latency_rows import chosen_rows

ROWS = ("s-448-1-agnostic", "s-448-2-agnostic", "b-448-1-agnostic")


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The study with rows that take no time; ``study.measured`` names them, in order."""
    state = SimpleNamespace(measured=[], peaks=0, killed_after=99, output=tmp_path / "page.md")
    environment = describe_environment()

    def measure_peak(duration_s):
        state.peaks += 1
        rates = {"fp32": 1e11 * state.peaks, "bf16": None}
        return {
            "record": "peak", "matrix_product_flops": rates, "copy_bytes_per_s": 1e10,
            "environment": environment,
        }  # fmt: skip

    def measure_rows(rows, how):
        for row in rows:
            if len(state.measured) >= state.killed_after:
                raise KeyboardInterrupt
            state.measured.append(row.name)
            state.how = how
            yield {
                "record": "latency", "protocol": "papers", **row.to_dict(),
                "requested_precision": how.precision, "num_inspected": how.num_inspected,
                "mean_ms": 100.0, "std_ms": 1.0, "num_samples": 40, "memory_bank_s": 1.0, "memory_bank_std_s": None,
                "floor_ms": 10.0, "floor_by_step": {
                    name: {
                        "operations": 10**9, "traffic_bytes": 10, "precision": "fp32",
                        "measured_ms": 20.0,
                    }
                    for name in ("backbone", "knn")
                },
                "stages_ms": dict.fromkeys(
                    ("preprocess", "backbone", "knn", "queue", "routing", "transport"), 1.0
                ),
                "bank_patches": 1, "masking": False, "rotation": False, "runtime": "a runtime",
                "precision": how.precision, "weights": "packaged", "load_average": 0.0,
                "environment": environment,
            }  # fmt: skip

    monkeypatch.setattr(latency_protocol, "measure_peak", measure_peak)
    monkeypatch.setattr(latency_protocol, "measure_rows", measure_rows)
    state.run = lambda **options: run_latency_study(
        tmp_path / "build", state.output, **({"rows": ROWS} | options)
    )
    return state


def records_of(study):
    lines = study.output.with_suffix(".jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_killed_study_goes_on_with_the_next_row(study):
    study.killed_after = 2
    with pytest.raises(KeyboardInterrupt):
        study.run()
    assert not study.output.exists()
    study.killed_after = 99
    page = study.run()
    assert study.measured == list(ROWS)
    for name in ROWS:
        assert f"| {name} | no, no | 1 | 40 | 100 ± 1 |" in page
    assert study.output.read_text() == page


def test_finished_study_measures_nothing_again_not_even_the_peak(study):
    page = study.run()
    before = study.output.with_suffix(".jsonl").read_text()
    assert study.run() == page
    assert (study.measured, study.peaks) == (list(ROWS), 1)
    assert study.output.with_suffix(".jsonl").read_text() == before


def test_rows_measured_before_stay_in_the_page(study):
    study.run(rows=ROWS[:1])
    page = study.run(rows=ROWS[1:2])
    assert f"| {ROWS[0]} | no, no | 1 | 40 | 100 ± 1 |" in page
    assert f"| {ROWS[1]} | no, no | 1 | 40 | 100 ± 1 |" in page
    assert study.how.peak.flops("fp32") == 2e11  # the better of two
    for name in ROWS[:2]:  # and so it is for the row that was measured before: 5 of 20 ms
        (stages,) = re.findall(rf"^\| {name} \|.* 25 %.*$", page, re.MULTILINE)
        assert stages.endswith("| 10 % |")


def test_other_settings_are_measured_anew_and_have_a_page_of_their_own(study):
    study.run(rows=ROWS[:1])
    page = study.run(rows=ROWS[:1], precisions=("auto", "bf16"))
    assert study.measured == [ROWS[0], ROWS[0]]
    assert page.count("# Latency by the papers' protocol, auto") == 1
    assert page.count("# Latency by the papers' protocol, bf16") == 1
    study.run(rows=ROWS[:1], num_inspected=4)
    assert len(study.measured) == 3


def test_records_of_another_machine_and_kind_do_not_count(study):
    study.run(rows=ROWS[:1])
    (peak, row) = records_of(study)
    for one in (peak, row):
        one["environment"]["cpu"]["model"] = "another processor"
    peak["matrix_product_flops"]["fp32"] = 9e15
    others = [peak, row, {"record": "accuracy", "method": "l2bt"},
              {"record": "latency", "scenario": "offline", "environment": row["environment"]}]  # fmt: skip
    study.output.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, others)) + "\n")
    study.run(rows=ROWS[:1])
    assert study.measured == [ROWS[0], ROWS[0]]
    assert study.how.peak.flops("fp32") == 2e11


def test_name_of_no_row_is_refused_before_anything_is_measured(study):
    with pytest.raises(LatencyError, match="'s-448' is no row"):
        study.run(rows=("s-448-1-agnostic", "s-448"))
    assert (study.measured, study.peaks) == ([], 0)


def run_command(monkeypatch, *words):
    asked = []
    monkeypatch.setattr(
        "dinspect_bench.studies.latency_protocol.run_latency_study",
        lambda *paths, **options: asked.append((paths, options)) or "the page",
    )
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([*words])) == 0
    return asked[0]


def test_command_measures_the_default_rows_or_those_that_are_named(monkeypatch, capsys):
    paths, options = run_command(monkeypatch, "latency")
    assert paths == (Path("build/latency"), Path("docs/results/latency.md"))
    assert options == {}
    _, options = run_command(
        monkeypatch, "latency", "--rows", "l2bt-b-1036", "s-672-*", "--precision", "bf16"
    )
    assert options == {"rows": ("l2bt-b-1036", "s-672-*"), "precisions": ("bf16",)}
    assert capsys.readouterr().out == "the page\n" * 2


def test_quick_rows_are_rows_of_both_methods_at_the_smallest_size(monkeypatch):
    _, options = run_command(monkeypatch, "latency", "--quick")
    rows = chosen_rows(options["rows"])
    assert {(row.method, row.resolution) for row in rows} == {("anomaly_dino", 224), ("l2bt", 224)}
    assert options["num_inspected"] == 3


def test_study_without_rows_does_not_take_them():
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    with pytest.raises(BenchmarkError, match="the study banks takes no --rows; latency and cpu do"):
        command.run(parser.parse_args(["banks", "--rows", "s-448-1-agnostic"]))
