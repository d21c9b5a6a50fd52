"""The floor below the stages of a request: how near to the machine's peak each step came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.latency.subject import Subject
from dinspect_bench.machine.peak import measure_peak
from dinspect_bench.machine.roofline import (
    PREPROCESS,
    Inspected,
    Peak,
    StepFloor,
    StepWork,
    anomaly_dino_work,
    floor_by_step,
    l2bt_work,
    step_floor,
)
from dinspect_client.versions import ProductVersion, VersionRecord
from dinspect_export.variants import variant_by_name

_NO_STAGES = "there are no times by step, which single-stream alone has, on an idle server"
_PARTS_OF_PREPROCESS = ("decode", "resize", "preprocess_other")


def floor_report(
    result: Mapping[str, Any], precision: str, subject: Subject, images: Sequence[bytes]
) -> dict[str, Any]:
    """Measure the machine's peak, and the share of it that a run reached.

    Args:
        result: As `report.single_stream_report` puts it together; others have no stages.
        precision: The backbone's, in force.
        subject: What was inspected.
        images: What was sent.

    Returns:
        ``peak``, ``floor_ms`` and ``floor_by_step`` as `floor_figures` gives them, and
        ``floor_unavailable``: why they are None, else empty.

    Raises:
        MissingDependencyError: If no runtime is installed to measure the peak with.
    """
    unknown = {"floor_ms": None, "floor_by_step": None}
    stages_ms = result.get("stages_ms")
    if not stages_ms:
        return {"peak": None, **unknown, "floor_unavailable": _NO_STAGES}
    peak = measure_peak()
    received_bytes = round(fmean(len(image) for image in images))
    work = work_of(subject.version, precision, received_bytes, with_map=subject.with_map)
    try:
        figures = floor_figures(work, Peak.from_records([peak]), stages_ms)
    except BenchmarkError as error:
        return {"peak": peak, **unknown, "floor_unavailable": str(error)}
    return {"peak": peak, **figures, "floor_unavailable": ""}


def work_of(
    version: VersionRecord,
    precision: str,
    received_bytes: int,
    *,
    with_map: bool,
    students_precision: str = "fp32",
) -> dict[str, StepWork]:
    """What the steps have to do for one image of the size of a version's references.

    Args:
        version: The version that answers.
        precision: The backbone's, in force.
        received_bytes: Size of an encoded image.
        with_map: Whether the full-size anomaly map is asked for.
        students_precision: Of L2BT's students: FP32 unless the server was told another by name.
    """
    variant = variant_by_name(version.backbone.name)
    image = Inspected(
        variant=variant,
        grid=version.grid,
        layers=variant.default_layers,
        image_size=version.image_size,
        received_bytes=received_bytes,
        precision=precision,
        with_map=with_map,
    )
    if isinstance(version, ProductVersion):
        return anomaly_dino_work(
            image,
            compared_rows(version),
            version.backbone.search_precision,
            masked=version.preprocessing.masked,
        )
    return l2bt_work(image, students_precision)


def compared_rows(version: ProductVersion) -> int:
    """Rows that each patch is compared with: the bank's, or its lists' centroids and some lists."""
    scoring = version.scoring
    if not scoring.num_lists:
        return version.num_patches
    return scoring.num_lists + round(version.num_patches * scoring.num_probes / scoring.num_lists)


def floor_figures(
    work: Mapping[str, StepWork], peak: Peak, stages_ms: Mapping[str, float]
) -> dict[str, Any]:
    """The least time of the steps, for a record or a report.

    Args:
        work: What each step has to do.
        peak: What the machine reaches.
        stages_ms: As `stages.Stages` has them; those that are no work of a step are left out.

    Returns:
        ``floor_ms`` of all steps together, and ``floor_by_step`` with the figures of each:
        operations, bytes, floor, what it is bound by, measured time, and the share of it.

    Raises:
        BenchmarkError: If the peak in a step's precision is not known.
    """
    return _figures(floor_by_step(work, peak, step_times(stages_ms)))


def floor_at(record: Mapping[str, Any], peak: Peak) -> dict[str, Any]:
    """The floor figures of a record by another peak: a higher one may have been seen since.

    Args:
        record: With ``floor_by_step``.
        peak: What the machine reaches.

    Returns:
        As `floor_figures`.

    Raises:
        BenchmarkError: If the peak in a step's precision is not known.
    """
    return _figures(
        {
            name: step_floor(
                step["operations"],
                step["traffic_bytes"],
                step["precision"],
                peak,
                step["measured_ms"],
            )
            for name, step in record["floor_by_step"].items()
        }
    )


def _figures(floors: Mapping[str, StepFloor]) -> dict[str, Any]:
    return {
        "floor_ms": sum(floor.floor_ms for floor in floors.values()),
        "floor_by_step": {name: floor.to_dict() for name, floor in floors.items()},
    }


def step_times(stages_ms: Mapping[str, float]) -> dict[str, float]:
    """Stages with the parts of preprocessing added up, where they are told apart."""
    parts = [stages_ms[name] for name in _PARTS_OF_PREPROCESS if name in stages_ms]
    others = {name: ms for name, ms in stages_ms.items() if name not in _PARTS_OF_PREPROCESS}
    return {PREPROCESS: sum(parts), **others} if parts else others
