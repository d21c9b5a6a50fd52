"""Which records may stand in one row: those of one machine, one software and one commit.

Everything in the environment counts but the clocks, which change from second to second. Records of
different runs are never averaged.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from dinspect_bench.records import Record
from dinspect_bench.report.record_files import SourcedRecord

_CLOCKS = ("clock", "max_clock")
_NUMBERS = {
    "accuracy": ("resolution", "shots", "seed", "epochs"),
    "latency": ("resolution", "shots", "bank_patches", "batch", "samples_per_query"),
}
"""Kind of record to the numbers that are settings of its row; texts and truths are settings too."""
_CHANGING = {
    "accuracy": ("created", "product", "data_sha256"),
    "latency": ("created", "transport", "response_cache", "requested_precision"),
}
"""Kind of record to its texts and truths that are no settings, or follow from one."""
_ONLY = {"peer_latency": ("case", "system", "requested_precision")}
"""Kinds whose rows these keys alone tell apart: a peer that failed before has other texts."""


@dataclass(frozen=True)
class RunRecord:
    """A record and the run it belongs to.

    Attributes:
        run: Label of its run: ``A``, ``B`` and so on.
        values: The record.
        folder: Where its file lies, to find pictures.
    """

    run: str
    values: Record
    folder: Path


@dataclass(frozen=True)
class Run:
    """One machine with one software at one commit.

    Attributes:
        label: ``A``, ``B`` and so on, in the order of the first records.
        environment: As `environment.describe_environment` gives it, of the first record.
        clocks_mhz: Lowest and highest clock of the processor that its records tell; None for none.
        created: Times of the oldest and the newest record, ISO 8601.
        num_records: How many records it has.
        num_replaced: How many of them a later one with the same setting replaced.
    """

    label: str
    environment: Mapping[str, Any]
    clocks_mhz: tuple[float, float] | None
    created: tuple[str, str]
    num_records: int
    num_replaced: int


def tell_apart(records: Sequence[SourcedRecord]) -> tuple[list[Run], dict[str, list[RunRecord]]]:
    """Sort records by run.

    Args:
        records: At least one.

    Returns:
        The runs, and the records by kind. Where several of a run have one setting the last counts.
    """
    by_run: dict[str, list[SourcedRecord]] = {}
    for record in records:
        by_run.setdefault(_signature(record.values["environment"]), []).append(record)
    runs: list[Run] = []
    by_kind: dict[str, list[RunRecord]] = {}
    for number, members in enumerate(by_run.values()):
        label = _label(number)
        kept = {_identity(member.values): member for member in members}
        for member in kept.values():
            one = RunRecord(label, member.values, member.path.parent)
            by_kind.setdefault(member.kind, []).append(one)
        runs.append(_run(label, members, len(kept)))
    return runs, by_kind


def _run(label: str, members: Sequence[SourcedRecord], num_kept: int) -> Run:
    environments = [member.values["environment"] for member in members]
    clocks = sorted(_known_clocks(environments))
    created = sorted(member.values["created"] for member in members)
    return Run(
        label,
        environments[0],
        (clocks[0], clocks[-1]) if clocks else None,
        (created[0], created[-1]),
        len(members),
        len(members) - num_kept,
    )


def _known_clocks(environments: Iterable[Mapping[str, Any]]) -> list[float]:
    told = [(one["cpu"].get("clock_mhz") or {}).get("current") for one in environments]
    return [clock for clock in told if clock]


def _signature(environment: Mapping[str, Any]) -> str:
    steady = copy.deepcopy(dict(environment))
    steady["cpu"].pop("clock_mhz", None)
    for gpu in steady.get("gpus") or ():
        for name in _CLOCKS:
            gpu.pop(name, None)
    return json.dumps(steady, sort_keys=True)


def _identity(record: Record) -> tuple[str, str]:
    kind = record["record"]
    names = _ONLY.get(kind) or (name for name in record if _is_setting(kind, name, record[name]))
    return kind, json.dumps({name: record.get(name) for name in names}, sort_keys=True)


def _is_setting(kind: str, name: str, value: Any) -> bool:
    is_word = isinstance(value, (str, bool)) and name not in _CHANGING.get(kind, ("created",))
    return is_word or name in _NUMBERS.get(kind, ())


def _label(number: int) -> str:
    """A to Z, then A2 to Z2."""
    turn, letter = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[letter] + (str(turn + 1) if turn else "")
