"""The rows of the latency tables: which part, at which size, by which runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dinspect_bench.gpu.scope import STUDENT_VARIANT, TEACHER_VARIANT, Scope

PARTS = ("backbone", "students", "knn", "map", "after_backbone", "whole_image")
"""Parts of an inspection. ``after_backbone`` is from patch tokens to the map, ``whole_image`` from
pixels to the map, everything on the device from beginning to end."""
EAGER, GRAPH = "eager", "CUDA graph"


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        part: One of `PARTS`.
        method: ``anomaly_dino`` or ``l2bt``; None for a part that both have.
        backbone: Variant.
        resolution: Edge of the square input in pixels.
        batch: Images at once.
        bank_patches: Patches of the memory bank; None where none is searched.
        precision: ``fp32`` or ``fp16``.
        runtime: ``pytorch``, ``cupy``, or an engine's target.
        execution: `EAGER`, or `GRAPH`: recorded once and replayed without the program's part.
    """

    part: str
    method: str | None
    backbone: str
    resolution: int
    batch: int
    bank_patches: int | None
    precision: str
    runtime: str
    execution: str = EAGER

    def key(self) -> dict[str, Any]:
        """What tells its record from others."""
        return asdict(self)


def latency_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> list[Case]:
    """The rows of one part.

    Args:
        scope: What is measured.
        part: One of `PARTS`.
        targets: Targets whose engines run, as far as they were built.
    """
    rows = {
        "backbone": _backbone_cases,
        "students": _students_cases,
        "knn": _knn_cases,
        "map": _map_cases,
        "after_backbone": _chain_cases,
        "whole_image": _chain_cases,
    }
    return list(rows[part](scope, part, targets))


def _backbone_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> Iterator[Case]:
    for backbone, size in scope.backbones:
        for batch in scope.batches:
            for way in _ways(scope, batch, targets):
                yield Case(part, None, backbone, size, batch, None, *way)


def _students_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> Iterator[Case]:
    for backbone, size in students_sizes(scope):
        for batch in scope.batches:
            for way in _ways(scope, batch, targets):
                yield Case(part, "l2bt", backbone, size, batch, None, *way)


def _knn_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> Iterator[Case]:
    for size in scope.sizes:
        for bank in scope.banks:
            for batch in scope.batches:
                for precision in scope.precisions:
                    for runtime in ("pytorch", "cupy"):
                        yield Case(
                            part,
                            "anomaly_dino",
                            STUDENT_VARIANT,
                            size,
                            batch,
                            bank,
                            precision,
                            runtime,
                        )


def _map_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> Iterator[Case]:
    for size in scope.sizes:
        for batch in scope.batches:
            yield Case(part, None, STUDENT_VARIANT, size, batch, None, "fp32", "pytorch")


def _chain_cases(scope: Scope, part: str, targets: tuple[str, ...]) -> Iterator[Case]:
    chains = [
        *(("anomaly_dino", STUDENT_VARIANT, size, scope.inspected_bank) for size in scope.sizes),
        *(("l2bt", variant, size, None) for variant, size in students_sizes(scope)),
    ]
    for method, backbone, size, bank in chains:
        # After the backbone, AnomalyDINO has nothing that is an engine.
        usable = () if (method, part) == ("anomaly_dino", "after_backbone") else targets
        for batch in scope.batches:
            for way in _ways(scope, batch, usable):
                yield Case(part, method, backbone, size, batch, bank, *way)


def students_sizes(scope: Scope) -> tuple[tuple[str, int], ...]:
    """Variants and sizes whose students are measured: the smallest, and the paper's largest."""
    teachers = scope.teacher_sizes[-1:]
    return (STUDENT_VARIANT, scope.sizes[0]), *((TEACHER_VARIANT, size) for size in teachers)


def _ways(scope: Scope, batch: int, targets: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Precision, runtime and execution. A graph pays where launches are not hidden: batch 1."""
    executions = (EAGER, GRAPH) if scope.device == "cuda" and batch == 1 else (EAGER,)
    for precision in scope.precisions:
        for execution in executions if precision == "fp16" else (EAGER,):
            yield precision, "pytorch", execution
    for target in targets:
        for execution in executions:
            yield "fp16", target, execution
