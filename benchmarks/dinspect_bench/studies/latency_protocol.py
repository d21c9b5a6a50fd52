"""The papers' latency tables on this machine: AnomalyDINO's Table 9, the times of L2BT's Table 2.

A row is recorded as soon as it is measured, so a study that is killed goes on with the next one;
rows measured earlier on the same kind of machine stay in the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dinspect_bench.files import write_text_atomically
from dinspect_bench.machine.environment import is_of_such_a_machine
from dinspect_bench.machine.peak import measure_peak
from dinspect_bench.machine.roofline import Peak
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.latency_measurement import (
    NUM_TEST,
    PROTOCOL,
    Measurement,
    measure_rows,
)
from dinspect_bench.studies.latency_rows import (
    LatencyRow,
    all_rows,
    chosen_rows,
    default_rows,
    grouped,
)
from dinspect_bench.studies.latency_tables import format_latency


def run_latency_study(
    build_dir: Path,
    output: Path,
    *,
    rows: Sequence[str] = (),
    precisions: Sequence[str] = ("auto",),
    num_inspected: int = NUM_TEST,
    peak_s: float = 8.0,
) -> str:
    """Measure the rows that are not measured yet, and write the page.

    Args:
        build_dir: Where exported backbones are kept.
        output: The page; its records go beside it, with the ending ``.jsonl``.
        rows: Names of rows, or patterns; empty for those that take a quarter of an hour.
        precisions: Of the server, as `assemble` takes them; each has tables of its own.
        num_inspected: Inspections of each product that are timed, its test images in turn.
        peak_s: Seconds for the machine's peak, measured before the rows.

    Returns:
        The page.

    Raises:
        LatencyError: If a name is of no row.
        BenchmarkError: If a row cannot be measured; those before it are kept. Errors of the
            exporter, the server and the client pass through.
    """
    wanted = chosen_rows(rows) if rows else default_rows()
    records = RecordFile(output.with_suffix(".jsonl"))
    pages = []
    for precision in precisions:
        settings = {
            "protocol": PROTOCOL,
            "requested_precision": precision,
            "num_inspected": num_inspected,
        }
        known = _known_rows(records, settings)
        missing = [row for row in wanted if row not in known]
        if missing:
            records.append(measure_peak(peak_s))
            peak = Peak.from_records(_peaks(records))
            _measure(missing, Measurement(precision, build_dir, peak, num_inspected), records)
        pages.append(format_latency(_in_order(_known_rows(records, settings)), _peaks(records)))
    page = "\n".join(pages)
    write_text_atomically(output, page)
    return page


def _measure(rows: Sequence[LatencyRow], how: Measurement, records: RecordFile) -> None:
    with tqdm(total=len(rows), unit="row", leave=False, disable=None) as bar:
        for group in grouped(rows).values():
            bar.set_description(f"{group[0].name} and on, {how.precision}")
            for record in measure_rows(group, how):
                records.append(record)
                bar.update()


def _known_rows(records: RecordFile, settings: Record) -> dict[LatencyRow, Record]:
    """Rows measured with the same settings on such a machine; the last record of a row counts."""
    return {
        _row_of(record): record
        for record in _of_this_machine(records, "latency")
        if all(record.get(name) == value for name, value in settings.items())
    }


def _peaks(records: RecordFile) -> list[Record]:
    return _of_this_machine(records, "peak")


def _of_this_machine(records: RecordFile, kind: str) -> list[Record]:
    return [
        record
        for record in records.read()
        if record.get("record") == kind and is_of_such_a_machine(record["environment"])
    ]


def _row_of(record: Record) -> LatencyRow:
    return LatencyRow(**{name: record[name] for name in LatencyRow.__dataclass_fields__})


def _in_order(records: dict[LatencyRow, Record]) -> dict[LatencyRow, Record]:
    """As the tables have them, others behind."""
    ordered = dict.fromkeys([*all_rows(), *records])
    return {row: records[row] for row in ordered if row in records}
