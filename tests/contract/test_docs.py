"""What docs/ says is true: commands are accepted, the description is read, figures are the code's."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from command_lines import ROOT, commands, parse_dinspect

from dinspect_export import students_export
from dinspect_export.description import read_description
from dinspect_export.recipes import GRAPH_PACKAGES, TOLERANCES
from dinspect_export.variants import VARIANTS

ENGINES = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
SHELL = "".join(re.findall(r"```sh\n(.*?)```", ENGINES, re.DOTALL))
EVERY_SHELL = "".join(re.findall(r"```sh\n(.*?)```", "".join(PAGES.values()), re.DOTALL))


@pytest.mark.parametrize("arguments", commands("dinspect", EVERY_SHELL), ids=" ".join)
def test_dinspect_commands_are_accepted(arguments):
    parse_dinspect(arguments)


def test_description_is_read(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", ENGINES, re.DOTALL)
    (tmp_path / "engines.toml").write_text(text)
    description = read_description(tmp_path / "engines.toml")
    (backbone,), (students,) = description.backbone, description.students
    assert backbone.grids == [(32, 32), (32, 42), (74, 74)]
    assert students.distance == {
        "normalisation": "l2", "metric": "euclidean", "combination": "product"
    }  # fmt: skip
    assert description.engine[0].options(backbone.batch.as_tuple, tmp_path).batch == (1, 4, 8)


def test_variants_and_their_taps_are_the_tables():
    for variant in VARIANTS.values():
        assert f"`{variant.name.removesuffix('_reg')}`" in ENGINES, variant.name
        first, last = variant.default_layers
        assert f"{first}, {last}" in ENGINES


def test_tolerances_are_the_codes():
    rows = dict(re.findall(r"^\| ((?:FP|INT)\d+) \| (.*) \|$", ENGINES, re.MULTILINE))
    for precision, kept in TOLERANCES.items():
        expected = f"{kept.min_patch_cosine:.4g} | {kept.max_score_change:.3g} | 0"
        cosine, change, flips = rows[precision.upper()].split(" | ")
        assert f"{float(cosine):.4g} | {float(change.rstrip(' %')) / 100:.3g} | {flips}" == expected
    full, half = (students_export.TOLERANCES[precision] for precision in ("fp32", "fp16"))
    assert full.max_distance_change == full.max_score_change == 0.0001
    assert half.max_distance_change == half.max_score_change == 0.01
    assert "0.01 % in FP32, 1 % in FP16" in " ".join(ENGINES.split())


def test_packages_that_make_graphs_are_listed():
    (row,) = re.findall(r"the version of (torch, .*?) \|", ENGINES)
    assert {*row.split(", "), "dinspect"} == set(GRAPH_PACKAGES)


def test_polygraphy_commands_run(artefacts_dir, tmp_path):
    """On another graph and folder than the page names, for those take minutes to build."""
    pytest.importorskip("polygraphy")
    pytest.importorskip("tensorrt_rtx")
    graph = tmp_path / "build" / "artefacts" / "dinov2_vits14_448"
    shutil.copytree(artefacts_dir / "dinov2_vits14_448", graph)
    script = SHELL[SHELL.index("polygraphy inspect") :].replace("_fp16/", "/")
    assert script.count("polygraphy ") == 4
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Graph is fully supported" in done.stdout
    assert "PASSED" in done.stdout


def test_links_lead_somewhere():
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_tests_that_are_named_exist():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    page = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 100
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_figures_of_half_precision_are_the_records():
    records = map(json.loads, (ROOT / "docs/results/precision.jsonl").read_text().splitlines())
    page = (ROOT / "docs/precision.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (0\.\d+) \| (\S+) % \| (\d) \|", page, re.MULTILINE)
    assert rows == [
        (r["size"], f"{r['min_patch_cosine']:.6f}", f"{r['max_score_change']:.2%}"[:-1], str(r["verdict_flips"]))
        for r in records
    ]  # fmt: skip
    built = re.findall(r"^\| (\d+) \| \*\*mixed by hand\*\* \| (0\.\d+) \| (\S+) % \|", page, re.MULTILINE)  # fmt: skip
    assert [size for size, _, _ in built] == ["448", "672", "1036"]
    for _, cosine, change in built:
        assert float(cosine) >= TOLERANCES["fp16"].min_patch_cosine
        assert float(change) / 100 <= TOLERANCES["fp16"].max_score_change


@pytest.mark.parametrize(
    ("program", "module"),
    [("bench-latency", "latency.command"), ("bench-accuracy", "accuracy.command")],
)
def test_benchmark_commands_are_accepted(program, module):
    parser = importlib.import_module(f"dinspect_bench.{module}").build_parser()
    found = commands(program, EVERY_SHELL)
    assert len(found) >= 3
    for arguments in found:
        parser.parse_args(arguments)
