"""Trained students as they arrive, checked and made a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arriving_files import ArrivingFiles
from calibration import GOOD_IMAGES
from change_log import now
from durable_files import sha256_of_file
from option_checks import is_number, require
from refusals import InspectionRefused
from served_size import ServedSize
from student_runner import StudentRunner, check_fits, known_tokens, students_size_bytes
from student_scoring import find_map_thresholds
from student_thresholds import LARGEST_SCORE, SCORE_UNIT
from students_record import CROSS_FIT, IMAGE_SCORE, Distance, StudentsRecord
from students_store import GOOD_PARTS_FILE, STUDENTS_FILE, StudentsStore, read_distances
from thresholds import ThresholdChoice, decide_thresholds
from version_record import Calibration, Change, read_json_strictly, read_record
from wire import TRAINING_FILES, Method, l2bt_model

_FLOATS = ("sigma_px", "false_positive_rate", "undecided_rate", "threshold", "normal_below")


_TOLERANCE = {"fp16": 5e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class TrainingReport:
    """What ``training.json`` says; the keys are `wire.TrainingKey`'s.

    Attributes:
        image_size: ``[height, width]`` of the training images in pixels.
        grid: ``[rows, columns]`` of the patch grid.
        layers: One-based blocks ``[j, k]``.
        dim: Width of a patch token.
        backbone_sha256: Digest of the backbone that computed the tokens.
        distance: What the graph computes.
        smoothing, sigma_px: How its distances become a map.
        known_answer: PyTorch's distances of `student_runner.known_tokens`, by rows.
        training: How they were trained.
        references: Training images.
        good_images: Good images for the thresholds only.
        calibration: How the good parts were measured.
        false_positive_rate, undecided_rate, threshold, normal_below: As `ThresholdChoice`.
    """

    image_size: list[int]
    grid: list[int]
    layers: list[int]
    dim: int
    backbone_sha256: str
    distance: Distance
    smoothing: str
    sigma_px: float
    known_answer: list[list[float]]
    training: dict[str, Any]
    references: list[dict[str, str]]
    good_images: list[dict[str, str]]
    calibration: str
    false_positive_rate: float | None
    undecided_rate: float | None
    threshold: float | None
    normal_below: float | None

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.grid[0], self.grid[1]

    @property
    def choice(self) -> ThresholdChoice:
        """What is said of the thresholds."""
        return ThresholdChoice(
            self.threshold, self.normal_below, self.false_positive_rate, self.undecided_rate
        )


def read_report(path: Path) -> TrainingReport:
    """Read ``training.json``.

    Raises:
        InspectionRefused: If it is no such record.
    """
    try:
        said = read_json_strictly(path.read_bytes())
        if isinstance(said, dict):  # JSON writes 4.0 as 4
            said |= {key: float(said[key]) for key in _FLOATS if is_number(said.get(key))}
        report = read_record(TrainingReport, said)
    except (OSError, ValueError, TypeError) as error:
        raise InspectionRefused(f"{path.name} cannot be used: {error}") from None
    if len(report.grid) != 2 or len(report.layers) != 2 or len(report.image_size) != 2:
        raise InspectionRefused(
            f"{path.name}: grid, layers and image_size must be two numbers each"
        )
    report.choice.check(LARGEST_SCORE, SCORE_UNIT)
    return report


def size_of(report: TrainingReport, served: Sequence[ServedSize]) -> ServedSize:
    """The input size whose backbone computed the tokens.

    Raises:
        InspectionRefused: If it is not served here, or taps other blocks.
    """
    digest = report.backbone_sha256
    size = next((one for one in served if one.onnx_sha256 == digest), None)
    if size is None:
        known = ", ".join(sorted(one.onnx_sha256[:12] for one in served))
        raise InspectionRefused(
            f"the students were trained on tokens of backbone {digest[:12]}, this server has "
            f"{known}; export and assemble that backbone, or train on this server's"
        )
    same = size.grid == report.patch_grid and size.dim in (None, report.dim)
    if not same or not set(report.layers) <= set(size.layers):
        raise InspectionRefused(
            f"the students take blocks {report.layers} of a grid {report.grid} and width "
            f"{report.dim}, backbone {size.backbone} puts out blocks {list(size.layers)} of "
            f"{list(size.grid)} and {size.dim}; export it with those blocks"
        )
    return size


@dataclass(frozen=True)
class StudentsRuntime:
    """What runs students on this server, as it was assembled; see `StudentRunner`.

    Attributes:
        runtime: ``openvino``, else ONNX Runtime.
        precision: ``auto``, ``fp32``, ``fp16`` or ``bf16``.
    """

    runtime: str
    precision: str

    @property
    def tolerance(self) -> float:
        """How far a distance may be off PyTorch's, relative to the largest."""
        return _TOLERANCE.get(self.precision if self.runtime == "openvino" else "", 1e-4)


def publish_students(
    arrived: ArrivingFiles,
    report: TrainingReport,
    size: ServedSize,
    store: StudentsStore,
    runtime: dict[str, str],
    operator: str,
    *,
    run_by: StudentsRuntime,
    activate: bool,
    prepare: Callable[[], None],
) -> StudentsRecord:
    """Check trained students and make them a version.

    Args:
        arrived: The files.
        report: What they say of themselves.
        size: The input size they are for.
        store: Where the version goes.
        runtime: ``runtime`` and ``precision`` of the backbone right now.
        operator: Who publishes.
        run_by: What will run the students; it must compute what PyTorch computed.
        activate: Whether the version is in force at once; a product's first always is.
        prepare: Called when all is checked, before the version appears.

    Raises:
        InspectionRefused: If the students do not run here, a file is damaged or contradicts
            another, or a threshold makes no sense.
    """
    folder = arrived.folder.path
    file = folder / STUDENTS_FILE
    needed = students_size_bytes(file, size.grid, report.dim)
    check_fits(arrived.product, needed, arrived.max_bytes)
    digests = {name: sha256_of_file(folder / name) for name in TRAINING_FILES[1:]}
    distances = read_distances(
        folder / GOOD_PARTS_FILE, digests[GOOD_PARTS_FILE], size.grid, "the good parts"
    )
    _check_calibration(report, len(distances))
    try:
        draft = _draft(arrived.product, report, size, runtime, operator, digests)
        _check(draft, store)  # before a map is drawn by it, which may take any time and memory
        _prove(file, report, size, run_by)
        draft = _with_thresholds(draft, report, distances)
        _check(draft, store)
    except ValueError as error:  # the record contradicts itself
        raise InspectionRefused(f"the training's report cannot be used: {error}") from None
    prepare()
    with store.staging() as staging:
        for name, digest in digests.items():
            staging.take(name, folder / name, digest)
        return staging.publish(draft, activate=activate)


def _prove(file: Path, report: TrainingReport, size: ServedSize, run_by: StudentsRuntime) -> None:
    """Hold the students, as they will be served, to PyTorch's known answer."""
    expected = np.array(_rows_of(report.known_answer, size.grid), np.float32)
    runner = StudentRunner(
        file, report.layers, size.grid, report.dim, run_by.runtime, run_by.precision
    )
    found = runner.distances(*known_tokens(expected.size, report.dim))
    worst = float(np.abs(found - expected).max()) / max(float(expected.max()), 1e-12)
    if not worst <= run_by.tolerance:  # NaN is no agreement
        raise InspectionRefused(
            f"{run_by.runtime} in {run_by.precision} computes patch distances up to {worst:.2e} of "
            f"the largest away from PyTorch's known answer, allowed are {run_by.tolerance:.0e}; "
            "nothing was published. Send the students that training.json tells of, or assemble "
            "with another --runtime or --precision"
        )


def _rows_of(known_answer: list[list[float]], grid: tuple[int, int]) -> list[list[float]]:
    if [len(row) for row in known_answer] != [grid[1]] * grid[0]:
        raise InspectionRefused(f"known_answer is not of the grid {grid[0]} x {grid[1]}")
    return known_answer


def _check_calibration(report: TrainingReport, num_distances: int) -> None:
    """The good parts are the good images where there are any, else the references."""
    known = (CROSS_FIT, GOOD_IMAGES)
    require(report.calibration in known, "calibration", f"one of {known}", report.calibration)
    has_good_images = bool(report.good_images)
    if has_good_images != (report.calibration == GOOD_IMAGES):
        raise InspectionRefused(
            f"calibration is {report.calibration!r}, but {len(report.good_images)} good images are "
            "named"
        )
    named = len(report.good_images if has_good_images else report.references)
    if named != num_distances:
        raise InspectionRefused(
            f"the good parts hold {num_distances} images, but {named} are named by training.json"
        )


def _check(draft: StudentsRecord, store: StudentsStore) -> None:
    store.parse(replace(draft, version=1).to_json().encode("utf-8"))


def _with_thresholds(
    draft: StudentsRecord, report: TrainingReport, distances: NDArray[np.float32]
) -> StudentsRecord:
    image_size = (draft.image_size[0], draft.image_size[1])
    calibration, found = decide_thresholds(
        report.choice,
        partial(find_map_thresholds, distances, image_size, draft.map_rule),
        report.calibration,
        earlier=None,
        good_images=report.good_images,
    )
    return replace(
        draft,
        threshold=found.threshold,
        normal_below=found.normal_below,
        defect_threshold=found.defect_threshold,
        calibration=calibration,
    )


def _draft(
    product: str,
    report: TrainingReport,
    size: ServedSize,
    runtime: dict[str, str],
    operator: str,
    digests: dict[str, str],
) -> StudentsRecord:
    """The version's record, but for its number and its thresholds."""
    rates = report.choice.rates
    made_at = now()
    return StudentsRecord(
        product=product,
        version=0,
        method=Method.L2BT,
        ensemble=l2bt_model(product, size.label),
        grid=list(size.grid),
        image_size=report.image_size,
        num_references=len(report.references),
        num_patches=len(report.references) * size.grid[0] * size.grid[1],
        dim=report.dim,
        threshold=0.0,
        normal_below=0.0,
        defect_threshold=0.0,
        calibration=Calibration(report.calibration, *rates, [], report.good_images),
        backbone=size.identity() | runtime,
        references=report.references,
        created_at=made_at,
        created_by=operator,
        change=Change("published", None, operator, made_at),
        good_parts_sha256=digests[GOOD_PARTS_FILE],
        layers=report.layers,
        distance=report.distance,
        smoothing=report.smoothing,
        sigma_px=report.sigma_px,
        image_score=IMAGE_SCORE,
        training=report.training,
        students_sha256=digests[STUDENTS_FILE],
    )
