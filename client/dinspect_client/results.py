"""What the server answers, as plain values: an inspection, an enrolment, a product.

Arrays keep the dtype and layout of the wire. ``to_dict()`` gives what JSON can hold: arrays are
replaced by their shape and peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client.errors import ProtocolMismatch
from dinspect_client.wire import Verdict


@dataclass(frozen=True, eq=False)
class Inspection:
    """The answer for one image. It is always complete; anything less is raised as an error.

    Attributes:
        product: The product asked for, as the caller wrote it (``screw`` or ``screw@3``).
        bundle_version: Version of the product's bundle that answered, from 1.
        anomaly_score: Image score, 0 for a part like the references, larger is more anomalous.
        threshold: Calibrated threshold of the bundle, in the unit of the score.
        verdict: Normal, anomalous, or undecided.
        patch_distances: ``(gh, gw)`` float32, distance per patch, 0 where masked; read-only.
        anomaly_map: ``(H, W)`` float32 at the original image's size, in the unit of the patch
            distances, read-only; None when it was not asked for.
        request_id: The id under which the server logged the request.
        latency_ms: Time from sending the request to having the answer, in milliseconds.
    """

    product: str
    bundle_version: int
    anomaly_score: float
    threshold: float
    verdict: Verdict
    patch_distances: NDArray[np.float32]
    anomaly_map: NDArray[np.float32] | None
    request_id: str
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection for JSON: the arrays as shape and peak, the verdict as a word."""
        return {
            "product": self.product,
            "bundle_version": self.bundle_version,
            "verdict": self.verdict.name.lower(),
            "anomaly_score": self.anomaly_score,
            "threshold": self.threshold,
            "patch_distances": _summary(self.patch_distances),
            "anomaly_map": None if self.anomaly_map is None else _summary(self.anomaly_map),
            "request_id": self.request_id,
            "latency_ms": round(self.latency_ms, 3),
        }


def _summary(array: NDArray[np.float32]) -> dict[str, Any]:
    row, column = np.unravel_index(int(array.argmax()), array.shape)
    return {
        "shape": list(array.shape),
        "peak": float(array[row, column]),
        "peak_at": [int(row), int(column)],
    }


@dataclass(frozen=True)
class Calibration:
    """How a threshold came about.

    Attributes:
        method: Name of the calibration, or of the setting by hand.
        false_positive_rate: Share of good parts expected above the threshold, in (0, 1); None
            when the threshold was not derived from it.
        reference_scores: Score of each reference image against the others.
    """

    method: str
    false_positive_rate: float | None
    reference_scores: tuple[float, ...]


@dataclass(frozen=True)
class Backbone:
    """What computed the patch tokens of a memory bank.

    Attributes:
        name: Backbone variant, e.g. ``dinov2_vits14``.
        onnx_sha256: Digest of the exported model; banks of another are refused.
        weights_sha256: Digest of the weights it was exported from.
        runtime: What ran it, with its version.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """

    name: str
    onnx_sha256: str
    weights_sha256: str
    runtime: str
    precision: str


@dataclass(frozen=True)
class Enrollment:
    """A product version as the server committed it.

    Attributes:
        product: Name of the product.
        bundle_version: The new version, now the current one.
        ensemble: The ensemble that inspects this product.
        grid: Patches per column and row, ``(gh, gw)``.
        image_size: ``(height, width)`` of the reference images in pixels.
        num_references: Number of reference images.
        num_patches: Number of patches in the memory bank.
        threshold: Calibrated or given threshold, in the unit of the score.
        calibration: How the threshold came about.
        backbone: What computed the bank.
        created_at: ISO 8601 time with zone.
    """

    product: str
    bundle_version: int
    ensemble: str
    grid: tuple[int, int]
    image_size: tuple[int, int]
    num_references: int
    num_patches: int
    threshold: float
    calibration: Calibration
    backbone: Backbone
    created_at: str

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Enrollment:
        """Read the report of the ``enroll`` model.

        Raises:
            ProtocolMismatch: If a field is missing or has another form.
        """
        try:
            calibration, backbone = report["calibration"], report["backbone"]
            rate = calibration["false_positive_rate"]
            return cls(
                product=str(report["product"]),
                bundle_version=int(report["bundle_version"]),
                ensemble=str(report["ensemble"]),
                grid=_pair(report["grid"]),
                image_size=_pair(report["image_size"]),
                num_references=int(report["num_references"]),
                num_patches=int(report["num_patches"]),
                threshold=float(report["threshold"]),
                calibration=Calibration(
                    method=str(calibration["method"]),
                    false_positive_rate=None if rate is None else float(rate),
                    reference_scores=tuple(float(x) for x in calibration["reference_scores"]),
                ),
                backbone=Backbone(
                    **{field.name: str(backbone[field.name]) for field in fields(Backbone)}
                ),
                created_at=str(report["created_at"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _mismatch("enrolment report", error) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the enrolment for JSON, in the form of the server's report."""
        return {
            "product": self.product,
            "bundle_version": self.bundle_version,
            "ensemble": self.ensemble,
            "grid": list(self.grid),
            "image_size": list(self.image_size),
            "num_references": self.num_references,
            "num_patches": self.num_patches,
            "threshold": self.threshold,
            "calibration": {
                "method": self.calibration.method,
                "false_positive_rate": self.calibration.false_positive_rate,
                "reference_scores": list(self.calibration.reference_scores),
            },
            "backbone": asdict(self.backbone),
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class Product:
    """One product the server knows; all but ``versions`` describes its current version.

    Attributes:
        name: Name of the product.
        current: The version that answers when none is named.
        versions: All versions kept, in the server's order.
        ensemble: The ensemble that inspects this product.
        grid: Patches per column and row, ``(gh, gw)``.
        image_size: ``(height, width)`` of the reference images in pixels.
        threshold: Threshold, in the unit of the score.
        num_references: Number of reference images.
        num_patches: Number of patches in the memory bank.
        created_at: ISO 8601 time with zone.
        backbone_sha256: Digest of the exported backbone that made the bank.
    """

    name: str
    current: int
    versions: tuple[int, ...]
    ensemble: str
    grid: tuple[int, int]
    image_size: tuple[int, int]
    threshold: float
    num_references: int
    num_patches: int
    created_at: str
    backbone_sha256: str

    @classmethod
    def from_report(cls, report: Mapping[str, Any]) -> Product:
        """Read one object of the ``products`` model's list.

        Raises:
            ProtocolMismatch: If a field is missing or has another form.
        """
        try:
            return cls(
                name=str(report["product"]),
                current=int(report["current"]),
                versions=tuple(int(version) for version in report["versions"]),
                ensemble=str(report["ensemble"]),
                grid=_pair(report["grid"]),
                image_size=_pair(report["image_size"]),
                threshold=float(report["threshold"]),
                num_references=int(report["num_references"]),
                num_patches=int(report["num_patches"]),
                created_at=str(report["created_at"]),
                backbone_sha256=str(report["backbone_sha256"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _mismatch("product list", error) from error

    def to_dict(self) -> dict[str, Any]:
        """Return the product for JSON, in the form of the server's list."""
        return {
            "product": self.name,
            "current": self.current,
            "versions": list(self.versions),
            "ensemble": self.ensemble,
            "grid": list(self.grid),
            "image_size": list(self.image_size),
            "threshold": self.threshold,
            "num_references": self.num_references,
            "num_patches": self.num_patches,
            "created_at": self.created_at,
            "backbone_sha256": self.backbone_sha256,
        }


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _mismatch(what: str, error: Exception) -> ProtocolMismatch:
    problem = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
    return ProtocolMismatch(f"the server's {what} {problem}; client and server versions differ")
