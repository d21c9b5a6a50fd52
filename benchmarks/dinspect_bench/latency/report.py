"""What a run of ``bench-latency`` found, as one object for JSON and as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from dinspect_bench.latency.null_system import measure_null_system
from dinspect_bench.latency.scenarios import ScenarioResult, single_stream_figures
from dinspect_bench.latency.settings import LoadSettings
from dinspect_bench.latency.single_stream import LatencySamples, LatencySummary, SingleStreamRun
from dinspect_bench.latency.stages import latency_by_step, stages_of
from dinspect_bench.latency.transport import TransportTimes
from dinspect_bench.records import Record

_NS_PER_MS = 1e6
_RECORDED = ("p50", "p90", "p99", "mean", "std")
_NOT_RECORDED = ("image_bytes",)
_FLOOR = ("floor_ms", "floor_by_step")


def single_stream_report(run: SingleStreamRun, transport: TransportTimes | str) -> dict[str, Any]:
    """Figures of a single stream, and where its time goes.

    Args:
        run: The samples, and the server's times of them.
        transport: Transport by itself, or why it was not measured.

    Returns:
        ``latency_ms``, ``latency_samples_ms``, ``failures``, ``scenario_figures``,
        ``latency_by_step_ms`` (None with ``latency_by_step_unavailable`` when the server's times
        are not of this run alone), and from the same times ``stages_ms``, ``stages_sum_share`` and
        ``transport``: see `stages.Stages`.
    """
    server = run.server
    transport_ms = None if isinstance(transport, str) else transport.transport_ms
    stages = server and stages_of(run.summary, server, transport_ms)
    return {
        **_figures(run.samples, run.summary, single_stream_figures(run.samples)),
        "latency_by_step_ms": server and latency_by_step(run.summary, server),
        "latency_by_step_unavailable": run.server_unavailable,
        "stages_ms": stages and dict(stages.times_ms),
        "stages_sum_share": stages and stages.sum_share,
        "transport": stages and stages.transport,
        "transport_without_work_ms": None if isinstance(transport, str) else asdict(transport),
        "stages_notes": _notes(run, transport),
    }


def _notes(run: SingleStreamRun, transport: TransportTimes | str) -> list[str]:
    if run.server is None:
        return []
    notes = []
    if run.server.parts_unknown:
        notes.append(f"decoding and resizing are one stage: {run.server.parts_unknown}")
    if isinstance(transport, str):
        notes.append(f"transport is what is left over: {transport}")
    return notes


def scenario_report(result: ScenarioResult) -> dict[str, Any]:
    """Figures of another scenario, without stages: there, samples wait for each other.

    Returns:
        As `single_stream_report`, without the server's times.
    """
    return _figures(result.samples, result.summary, result.figures)


def _figures(
    samples: LatencySamples, summary: LatencySummary | None, figures: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "latency_ms": summary and asdict(summary),
        "latency_samples_ms": [round(ns / _NS_PER_MS, 3) for ns in samples.succeeded_ns],
        "failures": list(samples.failures),
        "scenario_figures": dict(figures),
    }


def null_report(settings: LoadSettings) -> dict[str, Any]:
    """The harness alone: ``run``, ``null_system`` and ``environment``."""
    from dinspect_bench.machine.environment import describe_environment

    return {
        "run": {"scenario": settings.scenario},
        "null_system": measure_null_system(settings),
        "environment": describe_environment(),
    }


def record_from_report(report: Mapping[str, Any]) -> Record:
    """The flat record of a report: of kind ``latency``, or ``null_system`` of the harness alone."""
    common = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": report["environment"],
        "scenario": report["run"]["scenario"],
    }
    if "latency_ms" not in report:
        return {"record": "null_system", **common, **report["null_system"]}
    summary = report["latency_ms"] or {}
    about = {key: value for key, value in report["run"].items() if key not in _NOT_RECORDED}
    return {
        "record": "latency",
        **common,
        **about,
        **{f"{name}_ms": summary.get(name) for name in _RECORDED},
        "num_samples": len(report["latency_samples_ms"]),
        "num_failed": len(report["failures"]),
        **report["scenario_figures"],
        "stages_ms": report.get("stages_ms"),
        "stages_sum_share": report.get("stages_sum_share"),
        "transport": report.get("transport"),
        **{key: report[key] for key in _FLOOR if report.get(key) is not None},
        "null_system": report["null_system"],
    }
