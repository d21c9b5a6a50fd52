"""Rows of a latency table, measured on the served path, each server on its own.

As the papers do it: after a warm-up, inspections one at a time over the test images; for
AnomalyDINO also the time to fill the memory bank, product by product. The images are real solar
cells, enlarged to the size that most images of MVTec AD have.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from dinspect_bench.datasets.elpv import load_elpv, split_cells
from dinspect_bench.latency.floor import floor_figures, work_of
from dinspect_bench.latency.single_stream import SingleStreamRun, measure_single_stream
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.machine.roofline import Peak
from dinspect_bench.records import Record
from dinspect_bench.studies.common import own_server
from dinspect_bench.studies.l2bt_speed import SpeedCase, enlarged_png, served_random_students
from dinspect_bench.studies.latency_backbones import RANDOM, exported_backbone, weights_of
from dinspect_bench.studies.latency_record import MeasuredProduct, time_figures
from dinspect_bench.studies.latency_rows import LatencyRow, paper_rows
from dinspect_client import wire
from dinspect_client.wire import Method
from dinspect_export.geometry import grid_from_size
from dinspect_export.variants import BackboneVariant, variant_by_name

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.versions import VersionRecord
    from dinspect_server.embedded import EmbeddedTriton

PROTOCOL = "papers"
"""What the records say of how they were measured."""
PRODUCTS = ("mono", "poly")
"""Solar cells of two kinds: the products of a row that a paper has; others have the first alone."""
NUM_FULL = 240
"""Images of the full-shot rows, as many as MVTec AD has for training per category on average."""
IMAGE_PX = 1024
"""Edge of AnomalyDINO's images; those of L2BT are as large as the backbone's input."""
NUM_TEST = 20
"""Test images of a product, half of them defective; all are inspected, one after the other."""
_NUM_WARMUP = 2  # the first loads the memory bank or the students
_TIMEOUT_S = 600.0  # of an answer: a bank of all images, rotated, takes minutes to calibrate
_SEED = 0


@dataclass(frozen=True)
class Measurement:
    """How rows are measured.

    Attributes:
        precision: Of the server, as `assemble` takes it.
        build_dir: Where exported backbones are kept.
        peak: What the machine reaches, for the floors.
        num_inspected: Inspections of a product that are timed, its test images in turn.
    """

    precision: str
    build_dir: Path
    peak: Peak
    num_inspected: int = NUM_TEST

    @property
    def students_precision(self) -> str:
        """What the students run in: only a precision asked for by name changes it."""
        return self.precision if self.precision in ("fp16", "bf16") else "fp32"


def measure_rows(rows: Sequence[LatencyRow], how: Measurement) -> Iterator[Record]:
    """Measure rows that one server can serve, each when it is asked for.

    Args:
        rows: Of one method, backbone and resolution, as `latency_rows.grouped` groups them.
        how: How.

    Yields:
        A record of kind ``latency`` for each row.

    Raises:
        BenchmarkError: If an inspection fails, the server does not show its times, or the peak in
            the precision in force is not known. Errors of the exporter, the server and the client
            pass through.
    """
    measure = _measure_students if rows[0].method == Method.L2BT else _measure_banks
    for row, figures in zip(rows, measure(rows, how), strict=True):
        yield {
            "record": "latency",
            "protocol": PROTOCOL,
            "scenario": "single_stream",
            **row.to_dict(),
            "requested_precision": how.precision,
            "num_inspected": how.num_inspected,
            "num_warmup": _NUM_WARMUP,
            **figures,
            "environment": describe_environment(),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def _measure_banks(rows: Sequence[LatencyRow], how: Measurement) -> Iterator[Record]:
    from dinspect_client import InspectionClient

    backbone, resolution = rows[0].backbone, rows[0].resolution
    artefacts = exported_backbone(backbone, resolution, how.build_dir, how.precision)
    with (
        own_server(artefacts, how.precision) as server,
        InspectionClient(
            server.grpc_url, timeout_s=_TIMEOUT_S, enroll_timeout_s=_TIMEOUT_S
        ) as client,
    ):
        _warm_up(client, variant_by_name(backbone), resolution)
        for row in rows:
            products = PRODUCTS if row in paper_rows() else PRODUCTS[:1]
            yield _measure_bank_row(client, server, row, products, how)


def _measure_bank_row(
    client: InspectionClient,
    server: EmbeddedTriton,
    row: LatencyRow,
    products: Sequence[str],
    how: Measurement,
) -> Record:
    load_average = os.getloadavg()[0]
    measured: list[MeasuredProduct] = []
    sizes: list[int] = []
    for product in products:
        images = _images(product, NUM_FULL if row.shots is None else row.shots)
        started_s = time.perf_counter()
        version = client.enroll(
            product,
            images.references,
            # For the thresholds, which the authors do not have: without it a single reference would
            # be run through the backbone eight times more, in all its rotations.
            good_images=images.good,
            resolution=row.resolution,
            preprocessing=row.preprocessing,
        )
        bank_s = time.perf_counter() - started_s
        run = _inspect(client, server, version, images.tests, how)
        measured.append(MeasuredProduct(run, bank_s))
        sizes += [len(image) for image in images.tests]
        client.delete(product)
    preprocessing = version.preprocessing
    return {
        **_figures(version, measured, round(fmean(sizes)), how),
        "weights": weights_of(row.backbone),
        "search_precision": version.backbone.search_precision,
        "bank_patches": version.num_patches,
        "masking": preprocessing.masked,
        "rotation": len(preprocessing.rotations_deg) > 1,
        "load_average": load_average,
    }


def _measure_students(rows: Sequence[LatencyRow], how: Measurement) -> Iterator[Record]:
    for row in rows:
        load_average = os.getloadavg()[0]
        case = SpeedCase(row.backbone, row.resolution, 0, how.precision, _SEED)
        cell = min(cell.path for cell in load_elpv())
        image = enlarged_png(cell, row.resolution)
        with (
            tempfile.TemporaryDirectory(prefix="dinspect-latency-") as folder,
            served_random_students(case, Path(folder), image, cell) as served,
        ):
            run = _inspect(served.client, served.server, served.version, [image], how)
        yield {
            **_figures(served.version, [MeasuredProduct(run)], len(image), how),
            "weights": RANDOM,
            "bank_patches": None,
            "masking": False,
            "rotation": False,
            "load_average": load_average,
        }


def _figures(
    version: VersionRecord,
    measured: Sequence[MeasuredProduct],
    received_bytes: int,
    how: Measurement,
) -> Record:
    """Times and floor of all products together; the last one's version stands for the others."""
    backbone = version.backbone
    work = work_of(
        version,
        backbone.precision,
        received_bytes,
        with_map=_with_map(version),
        students_precision=how.students_precision,
    )
    times = time_figures(measured)
    return {
        **times,
        **floor_figures(work, how.peak, times["stages_ms"]),
        "with_map": _with_map(version),
        "runtime": backbone.runtime,
        "precision": backbone.precision,
        "image_size": list(version.image_size),
    }


def _with_map(version: VersionRecord) -> bool:
    """AnomalyDINO's authors time neither the map nor its smoothing, L2BT's do."""
    return version.method == Method.L2BT


def _inspect(
    client: InspectionClient,
    server: EmbeddedTriton,
    version: VersionRecord,
    images: Sequence[bytes],
    how: Measurement,
) -> SingleStreamRun:
    """Warm up, and time the inspections."""
    product, method, with_map = version.product, version.method, _with_map(version)
    for _ in range(_NUM_WARMUP):
        client.inspect(product, images[0], method=method, with_map=with_map)
    with tqdm(total=how.num_inspected, unit="image", leave=False, disable=None) as bar:
        return measure_single_stream(
            client,
            server.grpc_url,
            product,
            images,
            ensemble=version.ensemble,
            method=method,
            num_samples=how.num_inspected,
            num_warmup=0,
            with_map=with_map,
            metrics_url=server.metrics_url,
            on_sample=bar.update,
        )


def _warm_up(client: InspectionClient, variant: BackboneVariant, resolution: int) -> None:
    """Run the backbone once, or the first bank would be filled by one that never ran."""
    (image,) = _images(PRODUCTS[0], 1).references
    label = wire.grid_label(grid_from_size(str(resolution), variant.patch_size), variant.patch_size)
    client.patch_tokens(image, label, variant.default_layers)


class _Images(NamedTuple):
    """Encoded images of a product; no image is in two of the lists."""

    references: list[bytes]
    good: list[bytes]
    tests: list[bytes]


def _images(kind: str, num_references: int) -> _Images:
    half = NUM_TEST // 2
    split = split_cells(load_elpv(), kind, _SEED, num_references, half + 1, half)
    tests = split.functional[:half] + split.defective
    lists = (split.enrolled, split.functional[half:], tests)
    return _Images(*([_enlarged(path) for path in paths] for paths in lists))


@cache
def _enlarged(path: Path) -> bytes:
    return enlarged_png(path, IMAGE_PX)
