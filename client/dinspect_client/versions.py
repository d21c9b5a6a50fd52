"""One version of a product, as the server's record of it says: what decides, from what, by whom.

Each method has a record of its own: `ProductVersion` is a memory bank of AnomalyDINO,
`StudentsVersion` is trained students of L2BT, and `VersionRecord` what both have.
``to_dict()`` gives the record in the server's own form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from dinspect_client.records import read_record, record_to_json
from dinspect_client.wire import Method

VersionT = TypeVar("VersionT", bound="VersionRecord")


@dataclass(frozen=True)
class ImageRecord:
    """An image that a version was made from.

    Attributes:
        name: What the client called it.
        sha256: Digest of its encoded bytes.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Calibration:
    """How the thresholds came about.

    Attributes:
        method: ``leave_one_out``, ``rotations_of_the_only_reference``, ``cross_fit``,
            ``good_images`` or ``by_hand``.
        false_positive_rate: Share of good parts that may be called anomalous, in (0, 1); None when
            set by hand.
        undecided_rate: Share of good parts that may be undecided besides, in [0, 1); None when
            set by hand.
        reference_scores: Score of each good image the thresholds rest on.
        good_images: Good images that are not references.
    """

    method: str
    false_positive_rate: float | None
    undecided_rate: float | None
    reference_scores: tuple[float, ...]
    good_images: tuple[ImageRecord, ...]


@dataclass(frozen=True)
class Change:
    """Who made a version, from what.

    Attributes:
        action: ``enrolled``, ``appended``, ``recalibrated``, ``thresholds``, ``region``,
            ``imported`` or ``published``.
        from_version: The version it was made from; None for a new enrolment, an import or
            published students.
        operator: Who, as the client said; empty when it said nothing.
        at: ISO 8601 time with zone.
        origin: Where an imported version comes from, ``screw@3``; else empty.
    """

    action: str
    from_version: int | None
    operator: str
    at: str
    origin: str


@dataclass(frozen=True)
class Backbone:
    """What computed patch tokens.

    Attributes:
        name: Backbone variant, e.g. ``dinov2_vits14``.
        onnx_sha256: Digest of the exported model; versions made by another are refused.
        weights_sha256: Digest of the weights it was exported from.
        file_sha256: Digest of the file that was run, an engine or the exported model itself.
        runtime: What ran it, with its version.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    name: str
    onnx_sha256: str
    weights_sha256: str
    file_sha256: str
    runtime: str
    precision: str


@dataclass(frozen=True)
class VersionRecord:
    """A version of a product as the server keeps it, by whichever method. It never changes.

    Attributes:
        product: Name of the product.
        version: Its number, from 1, never given twice to one product and method.
        method: ``anomaly_dino`` or ``l2bt``.
        ensemble: The ensemble that inspects it.
        grid: Patches per column and row, ``(gh, gw)``.
        image_size: ``(height, width)`` of the reference images in pixels.
        num_references: Number of reference images.
        num_patches: Rows of the memory bank, or patches that the students were trained on.
        dim: Width of a patch token.
        threshold: Anomaly score above which a part is anomalous.
        normal_below: Anomaly score up to which a part is normal; in between it is undecided.
        defect_threshold: Value of the anomaly map above which a pixel belongs to a defect region.
        calibration: As that says.
        backbone: What computed the patch tokens it was made from.
        references: The images it was made from.
        created_at: When it was made from the references: ISO 8601 time with zone.
        created_by: Who made it from them, as the client said.
        change: Who made this version, from what.
        good_parts_sha256: Digest of the file with the good parts' patch distances.
    """

    METHOD: ClassVar[str]
    """The method whose versions have a record of this form."""

    product: str
    version: int
    method: str
    ensemble: str
    grid: tuple[int, int]
    image_size: tuple[int, int]
    num_references: int
    num_patches: int
    dim: int
    threshold: float
    normal_below: float
    defect_threshold: float
    calibration: Calibration
    backbone: Backbone
    references: tuple[ImageRecord, ...]
    created_at: str
    created_by: str
    change: Change
    good_parts_sha256: str

    @property
    def reference(self) -> str:
        """How to ask for this very version: ``screw@3``."""
        return f"{self.product}@{self.version}"

    @classmethod
    def from_report(cls: type[VersionT], report: object) -> VersionT:
        """Read a version's record.

        Raises:
            ProtocolMismatch: If a field is missing or has another form.
        """
        return read_record(cls, report, "record of a version")

    def to_dict(self) -> dict[str, Any]:
        """Return the version for JSON, in the form of the server's record."""
        found: dict[str, Any] = record_to_json(self)
        return found


@dataclass(frozen=True)
class Preprocessing:
    """What is done to references and inspected images besides resizing.

    Attributes:
        setting: Name of the setting, ``agnostic`` by default.
        rotated: What was said of the parts: they come in any orientation.
        texture: What was said of the parts: a surface without background.
        rotations_deg: Angles of each reference in the memory bank, counter-clockwise.
        masked: Whether the background of inspected images is masked.
        masking_test: What the masking test on the first reference found; None without a test.
        foreground_share: Smallest and largest share of foreground patches among the references;
            None when not masked.
    """

    setting: str
    rotated: bool
    texture: bool
    rotations_deg: tuple[int, ...]
    masked: bool
    masking_test: Mapping[str, Any] | None
    foreground_share: tuple[float, float] | None


@dataclass(frozen=True)
class MeasuredLoss:
    """What a faster search changes against exact search in all patches of all references.

    Attributes:
        images: Images it was measured on: mirrored references, which are in no bank.
        max_distance_error: Largest error of a patch distance.
        mean_distance_error: Mean error of the patch distances.
        max_score_change: Largest change of an image score, as a share of the exact one.
    """

    images: int
    max_distance_error: float
    mean_distance_error: float
    max_score_change: float


@dataclass(frozen=True)
class Scoring:
    """How patch tokens become a score.

    Attributes:
        num_neighbours: Rows of the bank each patch is compared with; their mean distance counts.
        image_score: Name of the image score, ``mean_top1p`` by default.
        search: ``exact`` or ``ivf`` (inverted lists).
        num_lists: Inverted lists; 0 when exact.
        num_probes: Lists searched per patch; 0 when exact.
        coreset_fraction: Share in (0, 1] of the references' patches kept in the bank.
        measured_loss: What search and coreset change; None when neither is in use.
    """

    num_neighbours: int
    image_score: str
    search: str
    num_lists: int
    num_probes: int
    coreset_fraction: float
    measured_loss: MeasuredLoss | None


@dataclass(frozen=True)
class Region:
    """Which part of the image counts.

    Attributes:
        inspected: One text per row of the patch grid, ``1`` where a patch is inspected.
        roi_px: ``(x, y, width, height)`` in pixels of the references; None for the whole image.
        ignore_mask_sha256: Digest of the mask image whose bright pixels are ignored, if any.
        min_defect_area_px: Smaller defect regions do not count; pixels of the references.
    """

    inspected: tuple[str, ...]
    roi_px: tuple[int, int, int, int] | None
    ignore_mask_sha256: str | None
    min_defect_area_px: int

    @property
    def num_inspected_patches(self) -> int:
        """Patches that count."""
        return sum(row.count("1") for row in self.inspected)


@dataclass(frozen=True)
class BankBackbone(Backbone):
    """What computed a memory bank, and in which precision it is searched.

    Attributes:
        search_precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    search_precision: str


@dataclass(frozen=True)
class ProductVersion(VersionRecord):
    """A version inspected by AnomalyDINO: a memory bank of its references' patch tokens.

    Attributes:
        layer: One-based block of the backbone whose tokens are compared.
        preprocessing, scoring, region: As those say.
        backbone: What computed the bank.
        bank_sha256: Digest of the bank's file.
        format_version: Version of the record's layout.
    """

    METHOD: ClassVar[str] = Method.ANOMALY_DINO

    backbone: BankBackbone
    layer: int
    preprocessing: Preprocessing
    scoring: Scoring
    region: Region
    bank_sha256: str
    format_version: int


@dataclass(frozen=True)
class TokenDistance:
    """How the students' predictions are compared with the backbone's own tokens.

    Attributes:
        normalisation: Of both tokens beforehand: ``l2`` or ``none``.
        metric: Of one patch at one block: ``euclidean`` or ``cosine``.
        combination: Of the distances at both blocks: ``product``, ``sum``, ``forward`` or
            ``backward``.
    """

    normalisation: str
    metric: str
    combination: str


@dataclass(frozen=True)
class StudentsVersion(VersionRecord):
    """A version inspected by L2BT: students that were trained on its references.

    Attributes:
        layers: One-based blocks ``(j, k)`` of the backbone, each predicted from the other.
        distance: As that says.
        smoothing: Of the anomaly map: ``gaussian``, or ``boxes``, a chain of box filters.
        sigma_px: Standard deviation of the Gaussian, in pixels of the inspected image.
        image_score: Name of the image score, ``mean_top01p_map``.
        training: How the students were trained, as the training says.
        students_sha256: Digest of the students' file, which is an ONNX graph.
        format_version: Version of the record's layout.
    """

    METHOD: ClassVar[str] = Method.L2BT

    layers: tuple[int, int]
    distance: TokenDistance
    smoothing: str
    sigma_px: float
    image_score: str
    training: Mapping[str, Any]
    students_sha256: str
    format_version: int


VERSION_KINDS: Mapping[str, type[VersionRecord]] = {
    kind.METHOD: kind for kind in (ProductVersion, StudentsVersion)
}
"""The record of each method's versions."""
