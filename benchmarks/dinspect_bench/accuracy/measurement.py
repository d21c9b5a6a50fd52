"""One row of the results: a category, learnt from some of its images, measured on all of its test.

What a row is, is its key, and what computed it: the backbone, and the precision of the search or of
the students. A row that is on record with the same of all of these is not measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dinspect_bench.accuracy.image_metrics import (
    average_precision,
    image_auroc,
    image_f1_max,
    roc_points,
)
from dinspect_bench.accuracy.inspected_category import InspectedCategory, inspect_category
from dinspect_bench.accuracy.pixel_metrics import measure_pixels
from dinspect_bench.accuracy.protocol import Protocol
from dinspect_bench.accuracy.served_backbones import RunningBackbone, Serving
from dinspect_bench.accuracy.temporary_product import ProductMaker, digest_of
from dinspect_bench.accuracy.work_folder import MAPS_FOLDER, empty_folder
from dinspect_bench.accuracy.worst_images import PictureFolder, worst_images
from dinspect_bench.datasets.category import Category
from dinspect_bench.datasets.copies import copies_of, without_copies
from dinspect_bench.datasets.few_shot import select_shots
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.records import Record
from dinspect_client.versions import ProductVersion, StudentsVersion, VersionRecord
from dinspect_client.wire import Method

RECORD_KIND = "accuracy"
PIXEL_FIGURES = (
    "pixel_auroc", "pixel_f1_max", "pixel_average_precision", "aupro_30", "aupro_05",
    "aupro_30_q1", "aupro_30_q2", "aupro_30_q3", "aupro_30_q4",
    "aupro_05_q1", "aupro_05_q2", "aupro_05_q3", "aupro_05_q4",
    "robustness_30", "robustness_05", "num_regions", "quartile_bounds_px",
)  # fmt: skip
"""Figures that are null where no defect is outlined."""
MAX_CURVE_POINTS = 300


@dataclass(frozen=True)
class Measurement:
    """A row that is wanted.

    Attributes:
        dataset: Name of the data set.
        category: The category.
        protocol: How it is measured.
        data_sha256: Digest of the category's files.
    """

    dataset: str
    category: Category
    protocol: Protocol
    data_sha256: str

    def key(self) -> Record:
        """Everything that identifies the row but the server."""
        category, protocol = self.category, self.protocol
        return {
            "record": RECORD_KIND,
            "dataset": self.dataset,
            "category": category.name,
            **protocol.key(),
            "texture": category.texture and protocol.masks_by_test,
            "rotated": category.rotated and protocol.rotates_if_known,
            "data_sha256": self.data_sha256,
        }

    def selected(self) -> tuple[Path, ...]:
        """The images to learn from, copies among them.

        Raises:
            DatasetError: If there are too few.
        """
        protocol = self.protocol
        return select_shots(self.category.good, protocol.shots, protocol.seed, protocol.selection)

    def fitting(self, records: Iterable[Record], serving: Serving) -> list[Record]:
        """Records of this row by what the server runs, whatever their search's precision.

        Args:
            records: All there are.
            serving: What the server computes with.
        """
        key = self.key() | self.students_key(serving)
        return [
            record
            for record in records
            if _has(record, key) and any(_has(record, one.key()) for one in serving.backbones)
        ]

    def students_key(self, serving: Serving) -> Record:
        """The students' precision as a record has it, null where there are none."""
        has_students = self.protocol.method == Method.L2BT
        return {"students_precision": serving.students_precision if has_students else None}


def measure(
    wanted: Measurement, serving: Serving, maker: ProductMaker, pictures: PictureFolder
) -> Record:
    """Make the product, inspect every test image, compute every figure.

    Args:
        wanted: The row.
        serving: What the server computes with.
        maker: Makes the product.
        pictures: Where pictures of the worst images go.

    Returns:
        The record.

    Raises:
        DatasetError: If a file is not what it must be.
        AccuracyError: If an image cannot be inspected.
        MetricError: If a figure is undefined.
        InspectionError, ServerError, ExportError: From server and training.
        OSError: If maps or pictures cannot be written.
    """
    category, key = wanted.category, wanted.key()
    selected = wanted.selected()
    references = without_copies(selected)
    with (
        maker.product(category, references, wanted.protocol, key) as version,
        empty_folder(maker.work_dir / MAPS_FOLDER) as folder,
    ):
        inspected = inspect_category(maker.client, version, category, folder)
        figures = measure_figures(inspected)
        settings = key | backbone_key(version) | wanted.students_key(serving)
        prefix = f"{category.name}-{digest_of(settings)[:12]}"
        worst = worst_images(inspected, pictures, prefix)
    test_files = [image.path for image in inspected.images]
    return {
        **settings,
        "backbone": version.backbone.name,
        "weights_sha256": version.backbone.weights_sha256,
        "server_version": maker.client.server_version(),
        "product": version.product,
        "bundle_version": version.version,
        **facts_of_version(version),
        "num_references": len(references),
        "num_copies": len(selected) - len(references),
        "num_test_learnt_from": len(copies_of(references, test_files)),
        "left_out": [category.name_of(path) for path in category.left_out],
        **figures,
        "worst": worst,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": describe_environment(),
    }


def backbone_key(version: VersionRecord) -> Record:
    """What made a version and inspected by it: the backbone, and in what a bank is searched."""
    backbone = version.backbone
    running = RunningBackbone(backbone.onnx_sha256, backbone.runtime, backbone.precision)
    # Students are not searched, so that their version's backbone does not say.
    return running.key() | {"search_precision": getattr(backbone, "search_precision", None)}


def facts_of_version(version: VersionRecord) -> dict[str, Any]:
    """What a version's method says of how it was made; null where it is the other method's."""
    facts: dict[str, Any] = dict.fromkeys(("masked", "training"))
    if isinstance(version, ProductVersion):
        facts["masked"] = version.preprocessing.masked
    if isinstance(version, StudentsVersion):
        facts["training"] = dict(version.training)
    return facts


def measure_figures(inspected: InspectedCategory) -> dict[str, Any]:
    """Every figure of a category's inspected test images, and its curves.

    Images with a defect that nobody has outlined count per image and not per pixel, for of their
    pixels nobody knows; without any outlined defect the figures per pixel are None.

    Raises:
        DatasetError: If a mask cannot be read.
        MetricError: If a figure is undefined.
    """
    labels, scores = inspected.is_defective, inspected.scores
    figures: dict[str, Any] = {
        "num_good": labels.count(False),
        "num_defective": labels.count(True),
        "num_not_outlined": sum(not image.is_outlined for image in inspected.images),
        "image_auroc": image_auroc(labels, scores),
        "image_f1_max": image_f1_max(labels, scores),
        "image_average_precision": average_precision(labels, scores),
        **dict.fromkeys(PIXEL_FIGURES),
    }
    pro_points: list[tuple[float, float]] = []
    if any(image.mask is not None for image in inspected.images):
        pixels = measure_pixels(*inspected.outlined())
        figures |= pixels.to_record()
        pro_points = pixels.pro_curve
    return figures | {"curves": {"roc": thinned(roc_points(labels, scores)), "pro": pro_points}}


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_CURVE_POINTS` of a curve's points, evenly chosen, both ends among them."""
    last = len(points) - 1
    if last < MAX_CURVE_POINTS:
        return list(points)
    steps = MAX_CURVE_POINTS - 1
    return [points[round(step * last / steps)] for step in range(MAX_CURVE_POINTS)]


def _has(record: Record, key: Record) -> bool:
    return all(record.get(name) == value for name, value in key.items())
