"""What one version of a product is: the record beside its memory bank, and how it is read."""

from __future__ import annotations

import json
import math
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

FORMAT_VERSION = 2
SEARCHES = ("exact", "ivf")
MAX_NEIGHBOURS = 64
_MAX_SAID = 200

RecordT = TypeVar("RecordT")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to references and inspected images besides resizing.

    Attributes:
        setting: Name in `preprocessing.SETTINGS`.
        rotated: What the engineer said of the parts: they come in any orientation.
        texture: What the engineer said of the parts: a surface without background.
        rotations_deg: Angles of each reference in the memory bank, counter-clockwise.
        masked: Whether the background of inspected images is masked.
        masking_test: Outcome on the first reference; None where nothing was left to test.
        foreground_share: Smallest and largest share of foreground among the inspected patches of
            the references; None when not masked.
    """

    setting: str
    rotated: bool
    texture: bool
    rotations_deg: list[int]
    masked: bool
    masking_test: dict[str, Any] | None
    foreground_share: list[float] | None


@dataclass(frozen=True)
class Scoring:
    """How patch tokens become a score.

    Attributes:
        num_neighbours: Rows of the bank each patch is compared with; the mean distance counts.
        image_score: Name in `image_score.IMAGE_SCORES`.
        search: ``exact`` or ``ivf`` (inverted lists).
        num_lists: Lists of the bank; 0 when exact.
        num_probes: Lists searched per patch; 0 when exact.
        coreset_fraction: Share of the references' patches kept in the bank.
        measured_loss: What search and coreset change, against exact search in all patches, on
            images that are in no bank; None when neither is in use.
    """

    num_neighbours: int
    image_score: str
    search: str
    num_lists: int
    num_probes: int
    coreset_fraction: float
    measured_loss: dict[str, Any] | None


@dataclass(frozen=True)
class Region:
    """Which part of the image counts.

    Attributes:
        inspected: One text per row of the patch grid, ``1`` where a patch is inspected.
        roi_px: ``[x, y, width, height]`` in pixels of the references; None for the whole image.
        ignore_mask_sha256: Digest of the mask image whose bright pixels are ignored, if any.
        min_defect_area_px: Smaller defect regions do not count; pixels of the references.
    """

    inspected: list[str]
    roi_px: list[int] | None
    ignore_mask_sha256: str | None
    min_defect_area_px: int

    @classmethod
    def everything(cls, grid: tuple[int, int]) -> Region:
        """The whole image, whatever the size of a defect."""
        return cls(["1" * grid[1]] * grid[0], None, None, 0)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """``(rows, columns)`` bool, True where a patch is inspected."""
        return np.array([[cell == "1" for cell in row] for row in self.inspected])


@dataclass(frozen=True)
class Calibration:
    """How the thresholds were found.

    Attributes:
        method: ``leave_one_out``, ``rotations_of_the_only_reference``, ``good_images`` or
            ``by_hand``.
        false_positive_rate: Share of good parts that may be called anomalous; None by hand.
        undecided_rate: Share of good parts that may be undecided besides; None by hand.
        reference_scores: Score of each good image it was found from.
        good_images: ``name`` and ``sha256`` of good images that are not references.
    """

    method: str
    false_positive_rate: float | None
    undecided_rate: float | None
    reference_scores: list[float]
    good_images: list[dict[str, str]]


@dataclass(frozen=True)
class Change:
    """Who made a version, from what.

    Attributes:
        action: ``enrolled``, ``appended``, ``recalibrated``, ``thresholds``, ``region`` or
            ``imported``.
        from_version: The version it was made from; None for a new enrolment.
        operator: Who, as the client said.
        at: ISO 8601, UTC.
        origin: Where an imported version comes from, ``screw@3``; else empty.
    """

    action: str
    from_version: int | None
    operator: str
    at: str
    origin: str = ""


@dataclass(frozen=True)
class Bundle:
    """Everything that made one version of a product, but for the bank itself.

    Attributes:
        product: Product name.
        version: Never given twice to one product; 0 while it has none.
        method: ``anomaly_dino``.
        ensemble: Model that inspects it, e.g. ``anomaly_dino_448``.
        grid: Patch grid ``[rows, columns]``.
        image_size: Height and width of the reference images in pixels.
        layer: One-based block whose tokens are compared.
        num_references: Reference images.
        num_patches: Rows of the bank.
        dim: Width of a patch token.
        threshold: Anomaly score above which a part is anomalous.
        normal_below: Anomaly score up to which a part is normal; in between it is undecided.
        defect_threshold: Value of the anomaly map above which a pixel belongs to a defect region.
        preprocessing, scoring, region, calibration: As those say.
        backbone: ``name``, ``onnx_sha256``, ``weights_sha256``, ``file_sha256``, ``runtime``,
            ``precision``, ``search_precision``.
        references: ``name`` and ``sha256`` of each reference's encoded bytes.
        created_at: When the references were enrolled: ISO 8601, UTC.
        created_by: Who enrolled them, as the client said; kept by whatever is made from it.
        change: Who made this version, from what.
        bank_sha256: Digest of the bank's file.
        good_parts_sha256: Digest of the file with the good parts' patch distances.
        format_version: Version of this layout.
    """

    product: str
    version: int
    method: str
    ensemble: str
    grid: list[int]
    image_size: list[int]
    layer: int
    num_references: int
    num_patches: int
    dim: int
    threshold: float
    normal_below: float
    defect_threshold: float
    preprocessing: Preprocessing
    scoring: Scoring
    region: Region
    calibration: Calibration
    backbone: dict[str, Any]
    references: list[dict[str, str]]
    created_at: str
    created_by: str
    change: Change
    bank_sha256: str
    good_parts_sha256: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for name in ("threshold", "normal_below", "defect_threshold"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, which decides nothing")
        rows, columns = self.grid
        inspected = self.region.inspected
        if len(inspected) != rows or any(len(row) != columns for row in inspected):
            raise ValueError(f"the inspected region is not of the grid {rows} x {columns}")

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.grid[0], self.grid[1]

    def to_json(self) -> str:
        """The record as it is stored and travels."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Bundle:
        """Read a record.

        Raises:
            ValueError: If it is no whole record of this format.
        """
        try:
            value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        except RecursionError:
            raise ValueError("the JSON is nested too deep") from None
        # First, because the fields of another format are others.
        if isinstance(value, dict) and value.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {value.get('format_version')!r}, this server reads "
                f"{FORMAT_VERSION}"
            )
        return read_record(cls, value)


def read_record(kind: type[RecordT], value: object) -> RecordT:
    """Make a dataclass of what JSON held; every field must be there and of its type.

    Raises:
        ValueError: Naming the field that is missing, unknown or of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{kind.__name__} is {_short(value)}, expected an object")
    hints = _hints(kind)  # type: ignore[arg-type]
    if set(value) != set(hints):
        odd = sorted(set(value) ^ set(hints))
        raise ValueError(f"{kind.__name__} lacks or does not know {_short(odd)}")
    made = {}
    for name, hint in hints.items():
        if is_dataclass(hint):
            made[name] = read_record(hint, value[name])  # type: ignore[arg-type]
        elif _is_of(value[name], hint):
            made[name] = value[name]
        else:
            raise ValueError(f"{kind.__name__}.{name} is {_short(value[name])}, expected {hint}")
    return kind(**made)


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= _MAX_SAID else f"{said[:_MAX_SAID]}..."


def _no_number(constant: str) -> float:
    """Refuse what Python's JSON takes beyond the standard's: NaN and the infinities."""
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


@lru_cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is_of(value: object, hint: Any) -> bool:
    """Whether a value from JSON is of a type as annotated above."""
    if hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return any(_is_of(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_is_of(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(v, arguments[1]) for v in value.values())
    if hint is float:
        return isinstance(value, float)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))
