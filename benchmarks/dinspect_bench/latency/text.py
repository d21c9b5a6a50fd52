"""A report of ``bench-latency`` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.latency.settings import Scenario
from dinspect_bench.latency.stages import MEASURED
from dinspect_bench.latency.statistics import PHASES

_SUMMARY_COLUMNS = ("p50", "p90", "p99", "mean", "std", "min", "max")
_OVERLAP_NOTE = (
    "Below zero: Triton counts a step until its tensors are released, when the next is running."
)
_NAME_WIDTH = 24
_NUMBER_WIDTH = 10


def format_report(report: Mapping[str, Any]) -> str:
    """The report as text, without an end of line at its end."""
    if "latency_ms" not in report:
        return _null_line(report["null_system"])
    run, summary = report["run"], report["latency_ms"]
    lines = [_title(run, report), ""]
    if summary is not None:
        lines.append(_row("", _SUMMARY_COLUMNS))
        name = "ms/query" if run["scenario"] == Scenario.MULTI_STREAM else "ms/sample"
        lines.append(_row(name, [f"{summary[column]:.1f}" for column in _SUMMARY_COLUMNS]))
    lines += _scenario_lines(run["scenario"], report["scenario_figures"])
    if report["failures"]:
        lines += ["", f"{len(report['failures'])} failed, first: {report['failures'][0]}"]
    if run["scenario"] == Scenario.SINGLE_STREAM:
        lines += ["", *_time_lines(report)]
    return "\n".join([*lines, "", _null_line(report["null_system"])])


def _title(run: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    return (
        f"{run['product']} on {run['ensemble']}, Triton {run['server_version']}, "
        f"{run['runtime']} {run['precision']}: {run['scenario'].replace('_', ' ')}, "
        f"{len(report['latency_samples_ms'])} answered, {run['num_images']} images, "
        f"{'with' if run['with_map'] else 'without'} anomaly map"
    )


def _null_line(null_system: Mapping[str, Any]) -> str:
    return (
        f"null system: p50 {null_system['p50_ms']:.4f} ms, p99 {null_system['p99_ms']:.4f} ms "
        f"({null_system['covers']})"
    )


def _scenario_lines(scenario: str, figures: Mapping[str, Any]) -> list[str]:
    if scenario == Scenario.OFFLINE:
        return [
            f"{figures['samples_per_s']:.2f} samples/s: all at once, {figures['concurrency']} in "
            f"flight, {figures['duration_s']:.1f} s"
        ]
    if scenario == Scenario.SERVER:
        return _server_lines(figures)
    name = "p99" if scenario == Scenario.MULTI_STREAM else "p90"
    value = figures[f"{name}_early_stopping_ms"]
    needed = f"takes {figures[f'{name}_queries_needed']} queries, of which few enough fail"
    found = needed if value is None else f"{value:.1f} ms"
    return [f"{name} by MLPerf's early stopping: {found}"]


def _server_lines(figures: Mapping[str, Any]) -> list[str]:
    held_to = f"{100 * figures['percentile']:g} % within {figures['latency_bound_ms']:g} ms"
    rate = figures["rate_per_s"]
    found = "no rate tried was held" if rate is None else f"{rate:.2f} samples/s is held"
    lines = [f"{found} ({held_to})", "", _row("rate tried, samples/s", ("over", "p50", "p99"))]
    for one in sorted(figures["tried"], key=lambda one: one["rate_per_s"]):
        name = f"{one['rate_per_s']:.2f} {'held' if one['is_held'] else 'not held'}"
        times = ["-" if one[key] is None else f"{one[key]:.1f}" for key in ("p50_ms", "p99_ms")]
        lines.append(_row(name, [str(one["num_over_bound"]), *times]))
    return lines


def _time_lines(report: Mapping[str, Any]) -> list[str]:
    if report["latency_by_step_ms"] is None:
        return [f"no times by step: {report['latency_by_step_unavailable']}"]
    lines = [*_stage_lines(report), "", *_step_lines(report["latency_by_step_ms"])]
    if any(line[_NAME_WIDTH:].lstrip().startswith("-") for line in lines):
        lines += ["", _OVERLAP_NOTE]
    return lines


def _stage_lines(report: Mapping[str, Any]) -> list[str]:
    mean = report["latency_by_step_ms"]["client_mean"]
    lines = [_row("where the time goes", ["mean ms", "share"])]
    for name, time_ms in report["stages_ms"].items():
        lines.append(_row(name.replace("_", " "), _total_cells(time_ms, mean)))
    if report["transport"] == MEASURED:
        total_ms = sum(report["stages_ms"].values())
        lines.append(_row("sum of the stages", _total_cells(total_ms, mean)))
    lines.append(_row("client's mean", _total_cells(mean, mean)))
    return lines + report["stages_notes"] + _floor_lines(report)


def _floor_lines(report: Mapping[str, Any]) -> list[str]:
    if "floor_by_step" not in report:
        return []
    if report["floor_by_step"] is None:
        return ["", f"no floor: {report['floor_unavailable']}"]
    lines = ["", _row("the floor", ["floor ms", "mean ms", "of peak", "bound by"])]
    for name, floor in report["floor_by_step"].items():
        measured_ms, share = floor["measured_ms"], floor["peak_share"]
        times = [f"{floor['floor_ms']:.1f}", "-" if measured_ms is None else f"{measured_ms:.1f}"]
        reached = "-" if share is None else f"{100 * share:.1f} %"
        lines.append(_row(name, [*times, reached, floor["bound"]]))
    return [*lines, _peak_line(report["peak"])]


def _peak_line(peak: Mapping[str, Any]) -> str:
    rates = [
        f"{name} {flops / 1e9:,.0f}"
        for name, flops in peak["matrix_product_flops"].items()
        if flops
    ]
    copied = peak["copy_bytes_per_s"] / 1e9
    return f"peak seen, GFLOP/s: {', '.join(rates)}; copy {copied:.1f} GB/s"


def _step_lines(by_step: Mapping[str, Any]) -> list[str]:
    header = [phase.removeprefix("compute_") for phase in PHASES]
    lines = [_row("Triton's own times", [*header, "total", "share"])]
    mean = by_step["client_mean"]
    for name, times in by_step["steps"].items():
        cells = [f"{times[phase]:.1f}" for phase in PHASES]
        lines.append(_row(name, [*cells, *_total_cells(times["total"], mean)]))
    blank = [""] * len(PHASES)
    for name, key in (
        ("between the steps", "between_steps"),
        ("transport and client", "transport_and_client"),
    ):
        lines.append(_row(name, [*blank, *_total_cells(by_step[key], mean)]))
    return lines


def _total_cells(total_ms: float, mean_ms: float) -> list[str]:
    # Adding zero turns the -0.0 of a tiny negative into 0.0.
    share = round(100 * total_ms / mean_ms, 1) + 0.0
    return [f"{round(total_ms, 1) + 0.0:.1f}", f"{share:.1f} %"]


def _row(name: str, cells: Sequence[str]) -> str:
    columns = "".join(f"{cell:>{_NUMBER_WIDTH}}" for cell in cells)
    return f"{name:<{_NAME_WIDTH}}{columns}".rstrip()
