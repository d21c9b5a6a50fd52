"""The demo's result: everything measured, as one object ready for JSON.

The report is drawn from this object alone (and the pictures), so what a person sees and what a
program reads are the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from dinspect_bench.accuracy.image_metrics import (
    counts_at_threshold,
    image_auroc,
    image_auroc_interval,
    roc_points,
)
from dinspect_bench.datasets.elpv import ELPV_LICENCE, ELPV_REQUIREMENT, DemoSplit, relative_name
from dinspect_bench.errors import DemoError
from dinspect_bench.latency.single_stream import LatencySummary, SingleStreamRun
from dinspect_bench.latency.stages import latency_by_step
from dinspect_bench.latency.statistics import ServerTimes
from dinspect_client.wire import Verdict

SCHEMA_VERSION = 1
LABELS = {False: "functional", True: "defective"}


@dataclass(frozen=True)
class InspectedImage:
    """The server's answer for one labelled picture.

    Attributes:
        file: Path within the data set.
        is_defective: The truth, as annotated.
        score: Anomaly score, higher is worse.
        verdict: What the server says of it.
    """

    file: str
    is_defective: bool
    score: float
    verdict: Verdict


@dataclass(frozen=True)
class Provenance:
    """What computed the result.

    Attributes:
        created: When, with its time zone.
        server_version: Version the running Triton server gave.
        runtime: What runs the backbone, with its version.
        precision: Precision it runs in.
        variant: Backbone.
        weights: Where the weights came from, for a person.
        weights_sha256: Digest of the file they were read from.
        fine_tuned: True when they are not DINOv2's own.
        onnx_sha256: Digest of the exported graph.
        export_max_cosine_distance: Largest per-patch distance, ONNX Runtime to PyTorch.
        environment: As `environment.describe_environment` gives it.
        seconds: Duration of each stage.
    """

    created: datetime
    server_version: str
    runtime: str
    precision: str
    variant: str
    weights: str
    weights_sha256: str
    fine_tuned: bool
    onnx_sha256: str
    export_max_cosine_distance: float
    environment: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Enrolled:
    """The product that was inspected.

    Attributes:
        product: Its name.
        bundle_version: Version of its bundle.
        ensemble: Ensemble that serves it.
        threshold: Calibrated threshold on the score.
        num_references: Pictures enrolled.
        num_patches: Rows of the memory bank.
    """

    product: str
    bundle_version: int
    ensemble: str
    threshold: float
    num_references: int
    num_patches: int


@dataclass(frozen=True)
class TrainedMethod:
    """The same cells, inspected by L2BT.

    Attributes:
        trained: The version that answered.
        images: The server's answers.
        training: How its students were trained.
    """

    trained: Enrolled
    images: Sequence[InspectedImage]
    training: Mapping[str, Any]


def build_result(
    split: DemoSplit,
    enrolled: Enrolled,
    images: Sequence[InspectedImage],
    latency: SingleStreamRun,
    l2bt: TrainedMethod,
    provenance: Provenance,
) -> dict[str, Any]:
    """Put the result together.

    Raises:
        DemoError: If the server's own times are missing.
        MetricError: If a class is missing or a score is not finite.
    """
    if latency.server is None:
        raise DemoError(f"no times by step: {latency.server_unavailable}")
    record = asdict(provenance)
    server = {
        "version": record.pop("server_version"),
        "runtime": record.pop("runtime"),
        "ensemble": enrolled.ensemble,
        "steps": [step.name for step in latency.server.steps],
    }
    return {
        "schema_version": SCHEMA_VERSION,
        **record,
        "created": provenance.created.isoformat(timespec="seconds"),
        "server": server,
        "methods": {
            "anomaly_dino": _accuracy(enrolled, images),
            "l2bt": {
                **_accuracy(l2bt.trained, l2bt.images),
                "ensemble": l2bt.trained.ensemble,
                "training": dict(l2bt.training),
            },
        },
        "split": _split(split),
        "latency_ms": asdict(latency.summary),
        "latency_samples_ms": [round(ns / 1e6, 3) for ns in latency.samples.succeeded_ns],
        "latency_by_step_ms": latency_by_step(latency.summary, latency.server),
        "checks": _checks(latency.summary, latency.server),
    }


def _checks(summary: LatencySummary, server: ServerTimes) -> dict[str, Any]:
    """Whether the backbone dominates.

    Everything else is decoding, resizing, kNN, map, transport, routing and all waiting, the
    backbone's own included. Of two ways to add it up the worse one counts: the client's mean less
    the backbone's computing, and the other rows of the table.
    """
    backbone = server.backbone()
    other_steps_ms = sum(step.total_ms for step in server.steps) - backbone.compute_ms
    transport_ms = summary.mean - server.total_ms
    by_table_ms = other_steps_ms + max(server.between_steps_ms, 0.0) + max(transport_ms, 0.0)
    rest_ms = max(summary.mean - backbone.compute_ms, by_table_ms)
    return {
        "everything_but_backbone_ms": rest_ms,
        "backbone_ms": backbone.compute_ms,
        "everything_but_backbone_is_less": rest_ms < backbone.compute_ms,
    }


def _accuracy(enrolled: Enrolled, images: Sequence[InspectedImage]) -> dict[str, Any]:
    is_defective = [image.is_defective for image in images]
    scores = [image.score for image in images]
    counts = counts_at_threshold(is_defective, [image.verdict for image in images])
    if not math.isfinite(enrolled.threshold):
        raise DemoError(f"the calibrated threshold is {enrolled.threshold}, not a finite number")
    return {
        "image_auroc": image_auroc(is_defective, scores),
        "image_auroc_ci95": list(image_auroc_interval(is_defective, scores)),
        "num_images": len(images),
        "at_threshold": {**asdict(counts), "num_undecided": counts.num_undecided},
        "roc": [list(point) for point in roc_points(is_defective, scores)],
        **{key: value for key, value in asdict(enrolled).items() if key != "ensemble"},
        "images": [
            {
                "file": image.file,
                "label": LABELS[image.is_defective],
                "score": image.score,
                "verdict": image.verdict.name.lower(),
            }
            for image in images
        ],
    }


def _split(split: DemoSplit) -> dict[str, Any]:
    return {
        "dataset": ELPV_REQUIREMENT,
        "licence": ELPV_LICENCE,
        "kind": split.kind,
        "seed": split.seed,
        "enrolled": [relative_name(path) for path in split.enrolled],
        "functional": [relative_name(path) for path in split.functional],
        "defective": [relative_name(path) for path in split.defective],
    }
