"""The page of a processor; stand-ins take the place of the two studies it is made of."""

from __future__ import annotations

import argparse

import pytest

from dinspect_bench.commands import StudyCommand
from dinspect_bench.studies import cpu
from dinspect_bench.studies.cpu import run_cpu_study


@pytest.fixture
def asked(monkeypatch):
    """What the two studies are asked for; each answers with a page of its own."""
    calls = {}

    def study(name):
        def run(build_dir, output, **options):
            calls[name] = (build_dir, output, options)
            return f"# {name}\n\ntext # no heading\n\n## Rows\n"

        return run

    monkeypatch.setattr(cpu, "run_latency_study", study("latency"))
    monkeypatch.setattr(cpu, "run_peers_study", study("peers"))
    return calls


def test_page_holds_both_studies_below_one_title(asked, tmp_path):
    page = run_cpu_study(tmp_path / "build", tmp_path / "cpu.md")
    assert (tmp_path / "cpu.md").read_text() == page
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings == [
        "# What was measured on this processor",
        "## latency",
        "### Rows",
        "## peers",
        "### Rows",
    ]
    assert page.count("text # no heading") == 2
    assert asked["latency"] == (tmp_path / "build", tmp_path / "latency.md", {})
    options = {"precisions": ("auto", "bf16", "int8")}
    assert asked["peers"] == (tmp_path / "build", tmp_path / "peers.md", options)


def test_command_chooses_rows_and_precisions(asked, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    command = StudyCommand()
    command.add_arguments(parser)
    arguments = ["cpu", "--output", str(tmp_path / "cpu.md"), "--precision", "int8"]
    assert command.run(parser.parse_args([*arguments, "--rows", "s-448-1-*"])) == 0
    assert asked["latency"][2] == {"rows": ("s-448-1-*",)}
    assert asked["peers"][2] == {"precisions": ("int8",)}
    assert command.run(parser.parse_args([*arguments[:3], "--quick"])) == 0
    assert asked["latency"][2]["rows"] == ("s-224-1-no_mask_no_rotation",)
    assert asked["peers"][2]["num_rounds"] == 2
    assert command.run(parser.parse_args([*arguments[:3], "--quick", "--rows", "l2bt-s-224"])) == 0
    quick = {"rows": ("l2bt-s-224",), "num_inspected": 3, "peak_s": 0.5}
    assert asked["latency"][2] == quick
    assert "## latency" in capsys.readouterr().out
