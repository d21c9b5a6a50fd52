"""What one version of an L2BT product is: the record beside its students, and what it must say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from calibration import BY_HAND, GOOD_IMAGES
from image_preparation import MAX_PIXELS
from map_operator import SMOOTHINGS, MapRule
from version_record import VersionRecord
from wire import Method, is_product_name

CROSS_FIT = "cross_fit"
IMAGE_SCORE = "mean_top01p_map"
"""Mean of the 0.1 % largest pixels of the map (Section IV-B.2)."""
NORMALISATIONS = ("l2", "none")
METRICS = ("euclidean", "cosine")
COMBINATIONS = ("product", "sum", "forward", "backward")
_MAX_VERSION = 999_999_999
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BACKBONE_KEYS = ("name", "onnx_sha256", "weights_sha256", "file_sha256", "runtime", "precision")


@dataclass(frozen=True)
class Distance:
    """What the students' graph computes for a patch; the record of it, the graph decides.

    Attributes:
        normalisation: ``l2`` or ``none``, of both tokens before the distance.
        metric: ``euclidean`` or ``cosine`` (Table 8).
        combination: ``product``, ``sum``, ``forward`` or ``backward`` (Table 9).
    """

    normalisation: str
    metric: str
    combination: str


@dataclass(frozen=True)
class StudentsRecord(VersionRecord):
    """One version of an L2BT product, but for the students themselves.

    Attributes:
        layers: One-based blocks ``[j, k]`` between which the students translate.
        distance: As that says.
        smoothing: ``gaussian``, or ``boxes``: the official chain of box filters.
        sigma_px: Of the Gaussian, in pixels of the original image.
        image_score: ``mean_top01p_map``.
        training: How they were trained, as the trainer said.
        students_sha256: Digest of their graph's file.
        format_version: Version of this layout.
    """

    FORMAT_VERSION: ClassVar[int] = 1

    layers: list[int]
    distance: Distance
    smoothing: str
    sigma_px: float
    image_score: str
    training: dict[str, Any]
    students_sha256: str
    format_version: int = FORMAT_VERSION

    @property
    def map_rule(self) -> MapRule:
        """How patch distances become the map."""
        return MapRule(True, self.smoothing, self.sigma_px)


def record_from_json(text: bytes) -> StudentsRecord:
    """A version's record, whole and without contradictions.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    record = StudentsRecord.from_json(text)
    for check in (
        _check_identity,
        _check_geometry,
        _check_images,
        _check_scoring,
        _check_calibration,
    ):
        check(record)
    return record


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


def _check_identity(record: StudentsRecord) -> None:
    _expect(is_product_name(record.product), f"{record.product!r} is no product name")
    _expect(0 < record.version <= _MAX_VERSION, f"version is {record.version}")
    _expect(record.method == Method.L2BT, f"method is {record.method!r}, expected {Method.L2BT!r}")
    for name in ("students_sha256", "good_parts_sha256"):
        digest = getattr(record, name)
        _expect(_SHA256.fullmatch(digest) is not None, f"{name} is {digest!r}, no SHA-256")
    for key in _BACKBONE_KEYS:
        _expect(isinstance(record.backbone.get(key), str), f"backbone lacks {key}")


def _check_geometry(record: StudentsRecord) -> None:
    for name in ("grid", "image_size", "layers"):
        _expect(_are_two(getattr(record, name)), f"{name} is {getattr(record, name)}, expected two")
    height, width = record.image_size
    fits = max(height, width) ** 2 <= MAX_PIXELS
    _expect(fits, f"images of {width} x {height} px have too many pixels as a square")
    rows, columns = record.grid
    _expect(rows == columns, f"grid is {record.grid}, but images are padded to a square")
    _expect(record.layers[0] < record.layers[1], f"layers are {record.layers}, not ascending")
    _expect(record.dim > 0, f"dim is {record.dim}")


def _are_two(numbers: Sequence[int]) -> bool:
    return len(numbers) == 2 and min(numbers) > 0


def _check_images(record: StudentsRecord) -> None:
    for image in (*record.references, *record.calibration.good_images):
        _expect(set(image) == {"name", "sha256"}, f"an image is recorded as {sorted(image)}")
    found, said = len(record.references), record.num_references
    _expect(found == said, f"{found} images are recorded, num_references is {said}")
    known_good = found > 0 or bool(record.calibration.good_images)
    _expect(known_good, "neither training images nor good images are recorded")
    patches, rows = record.num_patches, found * record.grid[0] * record.grid[1]
    _expect(patches == rows, f"num_patches is {patches}, the references have {rows}")


def _check_scoring(record: StudentsRecord) -> None:
    said, rule = record.distance, record.smoothing
    for value, known in (
        (said.normalisation, NORMALISATIONS),
        (said.metric, METRICS),
        (said.combination, COMBINATIONS),
        (rule, SMOOTHINGS),
        (record.image_score, (IMAGE_SCORE,)),
    ):
        _expect(value in known, f"{value!r} is none of {', '.join(known)}")
    _expect(0 <= record.sigma_px <= 1000, f"sigma_px is {record.sigma_px}")
    for name in ("threshold", "normal_below", "defect_threshold"):
        value = getattr(record, name)
        _expect(value >= 0, f"{name} is {value}, no distance")
    _expect(
        record.normal_below <= record.threshold,
        f"normal_below {record.normal_below} is above the threshold {record.threshold}",
    )


def _check_calibration(record: StudentsRecord) -> None:
    said = record.calibration
    known = (CROSS_FIT, GOOD_IMAGES, BY_HAND)
    _expect(said.method in known, f"calibration's method is {said.method!r}, none of {known}")
    named = said.method == BY_HAND or bool(said.good_images) == (said.method == GOOD_IMAGES)
    _expect(named, f"{said.method} is recorded with {len(said.good_images)} good images")
    rate, undecided = said.false_positive_rate, said.undecided_rate
    if said.method == BY_HAND:
        _expect(rate is None and undecided is None, "thresholds set by hand have no rates")
        return
    fits = rate is not None and undecided is not None and rate > 0 and undecided >= 0
    _expect(
        fits and (rate or 0) + (undecided or 0) < 1,
        f"false_positive_rate is {rate}, undecided_rate {undecided}, expected shares",
    )
