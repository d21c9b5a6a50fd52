"""What the README says is true: its commands parse, its table is the contract, its links exist."""

from __future__ import annotations

import re

import command_lines
import pytest
from command_lines import ROOT, is_make_target, parse_dinspect

from dinspect_client import wire

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(program):
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    return command_lines.commands(program, "".join(blocks))


@pytest.mark.parametrize("arguments", commands("dinspect"), ids=" ".join)
def test_dinspect_commands_are_accepted(arguments):
    parse_dinspect(arguments)


@pytest.mark.parametrize("arguments", commands("bench-latency"), ids=" ".join)
def test_bench_latency_commands_are_accepted(arguments):
    from dinspect_bench.latency.command import build_parser

    build_parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", commands("bench-accuracy"), ids=" ".join)
def test_bench_accuracy_commands_are_accepted(arguments):
    from dinspect_bench.accuracy.command import build_parser

    build_parser().parse_args(arguments)


@pytest.mark.parametrize("arguments", commands("make"), ids=" ".join)
def test_make_targets_exist(arguments):
    assert is_make_target(arguments[0])


def test_commands_were_found():
    assert len(commands("dinspect")) >= 7
    assert commands("bench-latency")
    assert commands("bench-accuracy")
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
