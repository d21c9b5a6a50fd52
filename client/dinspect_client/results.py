"""What the server answers for one image, as plain values: an inspection, a zero-shot score.

Arrays keep the dtype and layout of the wire. ``to_dict()`` gives what JSON can hold: arrays are
replaced by their shape and peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client.records import record_to_json
from dinspect_client.versions import Backbone
from dinspect_client.wire import Verdict


@dataclass(frozen=True)
class DefectRegion:
    """One connected region of the anomaly map, in pixels of the inspected image.

    Attributes:
        box_px: ``(x, y, width, height)`` of the smallest box around it.
        area_px: Its pixels.
        peak: Largest value of the map in it.
        peak_at_px: ``(x, y)`` of that value.
    """

    box_px: tuple[int, int, int, int]
    area_px: int
    peak: float
    peak_at_px: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return the region for JSON, in the form of the wire."""
        found: dict[str, Any] = record_to_json(self)
        return found


@dataclass(frozen=True, eq=False)
class Inspection:
    """The answer for one image. It is always complete; anything less is raised as an error.

    Attributes:
        product: The product asked for, as the caller wrote it (``screw`` or ``screw@3``).
        method: What it was inspected by: ``anomaly_dino`` or ``l2bt``.
        bundle_version: Version of the product by that method that answered, from 1.
        anomaly_score: Image score, 0 for a part like the references, larger is more anomalous.
        threshold: Score above which a part is anomalous, in the unit of the score.
        normal_below: Score up to which a part is normal, not above the threshold; a part between
            the two is undecided.
        verdict: Normal, anomalous, or undecided.
        patch_distances: ``(gh, gw)`` float32, distance per patch, 0 where masked or outside the
            product's region; read-only.
        anomaly_map: ``(H, W)`` float32 at the original image's size, in the unit of the patch
            distances, read-only; None when it was not asked for.
        defect_regions: Where the map is above the product's limit, the highest peak first; None
            when no map was asked for. They show where; only the verdict decides.
        request_id: The id under which the server logged the request.
        latency_ms: Time from sending the request to having the answer, in milliseconds.
    """

    product: str
    method: str
    bundle_version: int
    anomaly_score: float
    threshold: float
    normal_below: float
    verdict: Verdict
    patch_distances: NDArray[np.float32]
    anomaly_map: NDArray[np.float32] | None
    defect_regions: tuple[DefectRegion, ...] | None
    request_id: str
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection for JSON: the arrays as shape and peak, the verdict as a word."""
        regions = self.defect_regions
        return {
            "product": self.product,
            "method": self.method,
            "bundle_version": self.bundle_version,
            "verdict": self.verdict.name.lower(),
            "anomaly_score": self.anomaly_score,
            "threshold": self.threshold,
            "normal_below": self.normal_below,
            "patch_distances": _summary(self.patch_distances),
            "anomaly_map": None if self.anomaly_map is None else _summary(self.anomaly_map),
            "defect_regions": None if regions is None else [one.to_dict() for one in regions],
            "request_id": self.request_id,
            "latency_ms": round(self.latency_ms, 3),
        }


@dataclass(frozen=True, eq=False)
class ZeroShotScore:
    """How one image of a batch differs from all others; there is no threshold and no verdict.

    Attributes:
        index: Number of the image in the batch, from 0.
        name: What it is called in the server's reports.
        sha256: Digest of its encoded bytes.
        anomaly_score: Image score, larger is odder; comparable within its batch only.
        patch_distances: ``(gh, gw)`` float32, tail statistic per patch, 0 where masked; read-only.
        anomaly_map: ``(H, W)`` float32 at the original image's size, in the unit of the patch
            distances, read-only; None when it was not asked for.
        masked: Whether backgrounds were masked.
        num_images: Images of the batch.
        num_bank_patches: Patches of all other images, which each patch was compared with.
        backbone: What computed the patch tokens.
        request_id: The id under which the server logged the request.
        latency_ms: Time from sending the request to having the answer, in milliseconds.
    """

    index: int
    name: str
    sha256: str
    anomaly_score: float
    patch_distances: NDArray[np.float32]
    anomaly_map: NDArray[np.float32] | None
    masked: bool
    num_images: int
    num_bank_patches: int
    backbone: Backbone
    request_id: str
    latency_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return the score for JSON: the arrays as shape and peak."""
        return {
            "index": self.index,
            "name": self.name,
            "sha256": self.sha256,
            "anomaly_score": self.anomaly_score,
            "patch_distances": _summary(self.patch_distances),
            "anomaly_map": None if self.anomaly_map is None else _summary(self.anomaly_map),
            "masked": self.masked,
            "num_images": self.num_images,
            "num_bank_patches": self.num_bank_patches,
            "backbone": record_to_json(self.backbone),
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
