"""What every version of a product records, by whichever method, and how a record is read."""

from __future__ import annotations

import json
import math
import types
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

_MAX_SAID = 200

RecordT = TypeVar("RecordT")
VersionT = TypeVar("VersionT", bound="VersionRecord")


@dataclass(frozen=True)
class Calibration:
    """How the thresholds were found.

    Attributes:
        method: ``leave_one_out``, ``rotations_of_the_only_reference``, ``cross_fit``,
            ``good_images`` or ``by_hand``.
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
        action: ``enrolled``, ``appended``, ``recalibrated``, ``thresholds``, ``region``,
            ``imported`` or ``published``.
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
class VersionRecord:
    """Everything that made one version of a product, but for its large files.

    Attributes:
        product: Product name.
        version: Never given twice to one product; 0 while it has none.
        method: ``anomaly_dino`` or ``l2bt``.
        ensemble: Model that inspects it, e.g. ``anomaly_dino_448``.
        grid: Patch grid ``[rows, columns]``.
        image_size: Height and width of the reference images in pixels.
        num_references: Reference images.
        num_patches: Rows of the bank, or patches that the students were trained on.
        dim: Width of a patch token.
        threshold: Anomaly score above which a part is anomalous.
        normal_below: Anomaly score up to which a part is normal; in between it is undecided.
        defect_threshold: Value of the anomaly map above which a pixel belongs to a defect region.
        calibration: As that says.
        backbone: ``name``, ``onnx_sha256``, ``weights_sha256``, ``file_sha256``, ``runtime``,
            ``precision``.
        references: ``name`` and ``sha256`` of each reference's encoded bytes.
        created_at: When the references were enrolled: ISO 8601, UTC.
        created_by: Who enrolled them, as the client said; kept by whatever is made from it.
        change: Who made this version, from what.
        good_parts_sha256: Digest of the file with the good parts' patch distances.
    """

    FORMAT_VERSION: ClassVar[int]

    product: str
    version: int
    method: str
    ensemble: str
    grid: list[int]
    image_size: list[int]
    num_references: int
    num_patches: int
    dim: int
    threshold: float
    normal_below: float
    defect_threshold: float
    calibration: Calibration
    backbone: dict[str, Any]
    references: list[dict[str, str]]
    created_at: str
    created_by: str
    change: Change
    good_parts_sha256: str

    def __post_init__(self) -> None:
        for name in ("threshold", "normal_below", "defect_threshold"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}, which decides nothing")

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
        return self.grid[0], self.grid[1]

    def to_json(self) -> str:
        """The record as it is stored and travels."""
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls: type[VersionT], text: str | bytes) -> VersionT:
        """Read a record.

        Raises:
            ValueError: If it is no whole record of this format.
        """
        value = read_json_strictly(text)
        # First, because the fields of another format are others.
        if isinstance(value, dict) and value.get("format_version") != cls.FORMAT_VERSION:
            raise ValueError(
                f"format_version is {value.get('format_version')!r}, this server reads "
                f"{cls.FORMAT_VERSION}"
            )
        return read_record(cls, value)


def read_json_strictly(text: str | bytes) -> Any:
    """JSON without what Python takes beyond the standard: NaN and the infinities.

    Raises:
        ValueError: If it is none.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


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
