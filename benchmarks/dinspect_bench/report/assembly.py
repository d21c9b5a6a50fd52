"""From record files to one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dinspect_bench.report.accuracy import accuracy_section, group_records
from dinspect_bench.report.curves_and_pictures import curves_section, pictures_section
from dinspect_bench.report.document import Document
from dinspect_bench.report.environment import environment_section
from dinspect_bench.report.figures_of_ours import OurFigures
from dinspect_bench.report.latency import latency_section
from dinspect_bench.report.paper_comparison import paper_sections
from dinspect_bench.report.record_files import RecordFiles
from dinspect_bench.report.runs import Run, tell_apart
from dinspect_bench.report.stages_and_peers import floor_section, peer_section, stages_section
from dinspect_bench.report.weights import weights_cautions


def assemble_document(paths: Sequence[Path]) -> Document:
    """Read record files and put everything they hold in order.

    Args:
        paths: JSON-lines files.

    Raises:
        ReportError: If a line, a record or a picture cannot be used; the message names it.
    """
    files = RecordFiles.read(paths)
    runs, by_kind = tell_apart(files.records)
    accuracy, latency = by_kind.get("accuracy", []), by_kind.get("latency", [])
    groups = group_records(accuracy)
    return Document(
        "Benchmarks",
        _lead(runs, {kind: len(records) for kind, records in by_kind.items()}),
        weights_cautions(accuracy),
        [
            environment_section(runs, by_kind, files.others),
            latency_section(latency, by_kind.get("null_system", [])),
            stages_section(latency),
            floor_section(latency, by_kind.get("peak", [])),
            peer_section(by_kind.get("peer_latency", [])),
            accuracy_section(groups),
            curves_section(groups),
            pictures_section(groups),
            *paper_sections(OurFigures(accuracy, latency)),
        ],
    )


def _lead(runs: Sequence[Run], counts: Mapping[str, int]) -> str:
    machines = " and ".join(dict.fromkeys(_machine(run) for run in runs))
    listed = ", ".join(f"{count} of {kind}" for kind, count in sorted(counts.items()))
    first = min(run.created[0] for run in runs)
    last = max(run.created[1] for run in runs)
    number = "One run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{number} on {machines}, from {first} to {last}: records {listed}."


def _machine(run: Run) -> str:
    cpu = run.environment["cpu"]
    gpus = [gpu.get("name", "a GPU") for gpu in run.environment.get("gpus") or ()]
    return ", ".join([f"{cpu.get('usable_cores')} cores of {cpu.get('model')}", *gpus])
