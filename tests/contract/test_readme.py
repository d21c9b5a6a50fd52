"""What the README says is true: its commands parse, its table is the contract, its links exist."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from dinspect_client import wire

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_lines():
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            yield shlex.split(line, comments=True)


def commands(program):
    return [line[1:] for line in shell_lines() if line and line[0] == program]


@pytest.mark.parametrize("arguments", commands("dinspect"), ids=" ".join)
def test_dinspect_commands_are_accepted(arguments):
    points = {point.name: point for point in entry_points(group="dinspect.commands")}
    parser = argparse.ArgumentParser(exit_on_error=False)
    points[arguments[0]].load()().add_arguments(parser)
    parser.parse_args(arguments[1:])


@pytest.mark.parametrize("arguments", commands("bench-latency"), ids=" ".join)
def test_bench_latency_commands_are_accepted(arguments):
    from dinspect_bench.latency_command import build_parser

    build_parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", commands("make"), ids=" ".join)
def test_make_targets_exist(arguments):
    assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()


def test_commands_were_found():
    assert len(commands("dinspect")) >= 7
    assert commands("bench-latency")
    assert ["demo"] in commands("make")


def test_python_example_uses_the_public_names():
    import dinspect_client

    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(example, "README.md", "exec")
    imported = re.search(r"from dinspect_client import (.*)", example)[1].split(", ")
    assert set(imported) <= set(dinspect_client.__all__)


def test_tensor_table_is_the_contract():
    rows = re.findall(r"^\| (in|out) `(\w+)` \| (\w+) \[([^]]*)\]", README, re.MULTILINE)
    found = {name: (kind, datatype, len(dims.split(","))) for kind, name, datatype, dims in rows}
    expected = {
        spec.name: ("in", spec.datatype, len(spec.shape)) for spec in (wire.IMAGE, wire.PRODUCT)
    } | {spec.name: ("out", spec.datatype, len(spec.shape)) for spec in wire.INSPECTION_OUTPUTS}
    assert found == expected


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) > 5
    for target in targets:
        assert (ROOT / target).exists(), target
