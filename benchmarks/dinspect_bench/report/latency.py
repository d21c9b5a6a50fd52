"""The section on latency: each scenario, by resolution and by shots, and the null system."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dinspect_bench.plots import line_plot
from dinspect_bench.records import Record
from dinspect_bench.report.document import (
    NOT_RUN,
    Cell,
    Plot,
    Plots,
    Section,
    Table,
    ms_text,
    seconds_text,
)
from dinspect_bench.report.record_schema import SCENARIOS, is_number
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import has_no_place, setting_text
from dinspect_client.wire import METHODS

MAX_LINES = 6
"""Lines of one plot; that many colours can be told apart."""
_SCENARIO_NAMES = {
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
_FIGURE_ENDS = ("_per_s", "early_stopping_ms")
"""Of the names of figures that are none where there were too few samples, or no rate was held."""


def latency_section(records: Sequence[RunRecord], null_systems: Sequence[RunRecord]) -> Section:
    """How long a sample takes.

    Args:
        records: Records of kind ``latency``.
        null_systems: Records of kind ``null_system``.
    """
    return Section(
        "Latency",
        ["Milliseconds per sample, as the client sees it; a sample that failed has no time."],
        [_scenario_table(records), *_plots(records), _null_table(null_systems, records)],
    )


def _scenario_table(records: Sequence[RunRecord]) -> Table:
    rows: list[list[Cell]] = []
    for scenario in SCENARIOS:
        for method in (*METHODS, None):
            chosen = [
                one
                for one in records
                if (one.values["scenario"], one.values["method"]) == (scenario, method)
            ]
            rows += [_scenario_row(one) for one in chosen]
            if not chosen and method is not None:
                rows.append([_SCENARIO_NAMES[scenario], NOT_RUN, str(method), *[NOT_RUN] * 8])
    head = ["scenario", "run", "setting", "p50", "p90", "p99", "mean ± std", "memory bank, s",
            "samples", "failed", "further figures"]  # fmt: skip
    return Table(head, rows, title="By scenario", num_text_columns=3)


def _scenario_row(one: RunRecord) -> list[Cell]:
    record = one.values
    return [
        _SCENARIO_NAMES[record["scenario"]],
        one.run,
        setting_text(record),
        *(ms_or_not_run(record[key]) for key in ("p50_ms", "p90_ms", "p99_ms")),
        ms_or_not_run(record["mean_ms"], record["std_ms"]),
        _bank_text(record),
        f"{record['num_samples']:,}",
        f"{record['num_failed']:,}",
        _further_figures(record),
    ]


def _bank_text(record: Record) -> str:
    if record["bank_patches"] is None:
        return "no bank"
    seconds = record.get("memory_bank_s")
    return NOT_RUN if seconds is None else seconds_text(seconds, record.get("memory_bank_std_s"))


def _further_figures(record: Record) -> str:
    """Figures that only some scenarios have."""
    figures = [
        f"{name} {'none' if value is None else f'{value:,.5g}'}"
        for name, value in sorted(record.items())
        if has_no_place(name)
        and (is_number(value) or (value is None and name.endswith(_FIGURE_ENDS)))
    ]
    return ", ".join(figures) or "none"


def ms_or_not_run(value: float | None, std: float | None = None) -> str:
    """Milliseconds, or that they were not measured."""
    return NOT_RUN if value is None else ms_text(value, std)


def _null_table(null_systems: Sequence[RunRecord], records: Sequence[RunRecord]) -> Table:
    """The slowest of each run and kind of load; records of latency have one of their own within."""
    measured = [(one.run, one.values) for one in null_systems]
    measured += [(one.run, inner) for one in records if (inner := one.values.get("null_system"))]
    slowest: dict[tuple[str, str], Record] = {}
    for run, record in measured:
        key = (run, record.get("covers") or "the harness alone")
        slowest[key] = max(slowest.get(key, record), record, key=lambda one: float(one["p50_ms"]))
    rows: list[list[Cell]] = [
        [run, covers, ms_text(record["p50_ms"]), ms_text(record["p99_ms"])]
        for (run, covers), record in slowest.items()
    ]
    notes = ["A system that answers at once: what the harness itself adds to a sample, in ms."]
    return Table(
        ["run", "covers", "p50", "p99"],
        rows or [[NOT_RUN] * 4],
        title="The null system",
        notes=[*notes, "Of several measurements of one kind, the slowest."],
        num_text_columns=2,
    )


def _plots(records: Sequence[RunRecord]) -> list[Plots]:
    """Mean latency by resolution and by shots, for settings measured at two of them at least."""
    single = [
        one
        for one in records
        if one.values["scenario"] == "single_stream" and one.values["mean_ms"] is not None
    ]
    blocks = []
    for axis, title, label in (
        ("resolution", "Latency by resolution", "resolution, px"),
        ("shots", "Latency by shots", "reference images"),
    ):
        lines = _lines(single, axis)
        plots = [
            Plot(
                title if len(lines) <= MAX_LINES else f"{title}, part {start // MAX_LINES + 1}",
                label,
                "mean ms per sample",
                line_plot(lines[start : start + MAX_LINES], with_dots=True),
            )
            for start in range(0, len(lines), MAX_LINES)
        ]
        if plots:
            blocks.append(Plots(plots, title))
    return blocks


def _lines(records: Iterable[RunRecord], axis: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Lines over one setting; all others are equal along a line, but the bank, which follows."""
    lines: dict[str, dict[float, float]] = {}
    for one in records:
        if one.values[axis] is not None:
            name = f"{one.run}: {setting_text({**one.values, axis: None, 'bank_patches': None})}"
            lines.setdefault(name, {})[one.values[axis]] = one.values["mean_ms"]
    return [(name, sorted(points.items())) for name, points in lines.items() if len(points) > 1]
