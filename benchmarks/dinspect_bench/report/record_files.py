"""Records read from files, each checked for what a report needs of it.

`records.RecordFile` passes over a line that a kill cut short, so that a study goes on; a report
must not: what is shown has to be all there is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dinspect_bench.errors import ReportError
from dinspect_bench.records import Record
from dinspect_bench.report.record_schema import EVERY_KIND, KINDS, OPTIONAL, OTHER_KINDS

_MAX_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class SourcedRecord:
    """A record and where it stands.

    Attributes:
        values: The record.
        path: Its file.
        line: Its line, from 1.
    """

    values: Record
    path: Path
    line: int

    @property
    def kind(self) -> str:
        """A key of `KINDS`."""
        return str(self.values["record"])


@dataclass(frozen=True)
class RecordFiles:
    """What some files hold.

    Attributes:
        records: All records that a report shows, in their order.
        others: Kinds of `OTHER_KINDS` to the number of their records.
    """

    records: tuple[SourcedRecord, ...]
    others: Mapping[str, int]

    @classmethod
    def read(cls, paths: Sequence[Path]) -> RecordFiles:
        """Read files.

        Args:
            paths: JSON-lines files; one that is named twice is read once.

        Raises:
            ReportError: If a file cannot be read, there is nothing to show, or a line is no JSON
                object, of no known kind, or lacks a key; the message names file and line.
        """
        distinct = list({path.resolve(): path for path in paths}.values())
        found = [record for path in distinct for record in _read(path)]
        records = tuple(record for record in found if record.kind in KINDS)
        if not records:
            names = ", ".join(map(str, paths)) or "no file"
            raise ReportError(
                f"there is no record to show in {names}; a report shows {', '.join(KINDS)}"
            )
        return cls(records, Counter(one.kind for one in found if one.kind in OTHER_KINDS))


def _read(path: Path) -> list[SourcedRecord]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ReportError(f"cannot read {path}: {reason}") from error
    return [
        SourcedRecord(_parse(line, path, number), path, number)
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]


def _parse(line: str, path: Path, number: int) -> Record:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ReportError(
            f"{where} is no JSON: {error}; if a kill cut it short, remove the line and run the "
            "benchmark again, which goes on from there"
        ) from error
    if not isinstance(record, dict):
        raise ReportError(f"{where} is {_shown(record)}, expected a JSON object")
    kind = record.get("record")
    if kind in OTHER_KINDS:
        return record
    if not isinstance(kind, str) or kind not in KINDS:
        raise ReportError(
            f"{where} is a record of kind {_shown(kind)}; those a report shows are "
            f"{', '.join(KINDS)}"
        )
    fields = EVERY_KIND | KINDS[kind]
    missing = [name for name in fields if name not in record]
    if missing:
        raise ReportError(f"{where} is a record of kind {kind} and lacks {', '.join(missing)}")
    for name, field in (fields | OPTIONAL.get(kind, {})).items():
        if name in record and not field.holds(record[name]):
            raise ReportError(f"{where} has {name} {_shown(record[name])}, expected {field.words}")
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
