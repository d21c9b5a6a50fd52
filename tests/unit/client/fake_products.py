"""The products of the fake server: versions, files, changes, as far as a client can see them."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dinspect_client import wire

ENSEMBLE = "anomaly_dino_448"
AT = "2026-01-01T00:00:00+00:00"


def product_report(name: str, **changes: Any) -> dict[str, Any]:
    report = {
        "product": name,
        "method": "anomaly_dino",
        "current": 3,
        "versions": [1, 2, 3],
        "ensemble": ENSEMBLE,
        "grid": [32, 32],
        "image_size": [300, 400],
        "threshold": 0.41,
        "normal_below": 0.35,
        "preprocessing": "agnostic",
        "masked": True,
        "num_references": 32,
        "num_patches": 32768,
        "loaded_bytes": 50331648,
        "created_at": AT,
        "backbone_sha256": "ab" * 32,
    }
    return report | changes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def version_report(product: str, version: int, **changes: Any) -> dict[str, Any]:
    """The record of a version, with some of its fields changed."""
    report = {
        "product": product,
        "version": version,
        "method": "anomaly_dino",
        "ensemble": ENSEMBLE,
        "grid": [4, 5],
        "image_size": [300, 400],
        "layer": 12,
        "num_references": 2,
        "num_patches": 2048,
        "dim": 384,
        "threshold": 0.5,
        "normal_below": 0.25,
        "defect_threshold": 0.625,
        "preprocessing": {
            "setting": "agnostic",
            "rotated": False,
            "texture": False,
            "rotations_deg": [0, 45, 90, 135, 180, 225, 270, 315],
            "masked": True,
            "masking_test": {"passed": True, "reason": "the part stands out"},
            "foreground_share": [0.25, 0.5],
        },
        "scoring": {
            "num_neighbours": 1,
            "image_score": "mean_top1p",
            "search": "exact",
            "num_lists": 0,
            "num_probes": 0,
            "coreset_fraction": 1.0,
            "measured_loss": None,
        },
        "region": {
            "inspected": ["11111", "11111", "11111", "11111"],
            "roi_px": None,
            "ignore_mask_sha256": None,
            "min_defect_area_px": 0,
        },
        "calibration": {
            "method": "leave_one_out",
            "false_positive_rate": 0.01,
            "undecided_rate": 0.1,
            "reference_scores": [0.25, 0.375],
            "good_images": [],
        },
        "backbone": {
            "name": "vits14",
            "onnx_sha256": "ab" * 32,
            "weights_sha256": "cd" * 32,
            "file_sha256": "ef" * 32,
            "runtime": "openvino 1.0",
            "precision": "fp16",
            "search_precision": "fp16",
        },
        "references": [
            {"name": "a.png", "sha256": "01" * 32},
            {"name": "b.png", "sha256": "02" * 32},
        ],
        "created_at": AT,
        "created_by": "ada",
        "change": {
            "action": "enrolled",
            "from_version": None,
            "operator": "ada",
            "at": AT,
            "origin": "",
        },
        "bank_sha256": "",
        "good_parts_sha256": "",
        "format_version": 2,
    }
    return report | changes


def change_line(
    action: str, version: int | None, *, product: str = "screw", in_force: bool = True
) -> dict[str, Any]:
    return {
        "at": AT,
        "operator": "ada",
        "action": action,
        "product": product,
        "version": version,
        "in_force": in_force,
    }


class FakeProducts:
    """Answers ``manage`` as the server does for one method, from what it holds in memory.

    Attributes:
        names: Names of a version's files.
        digest_key: Where a version's record has the digest of the second one.
        versions: Records by product and version.
        files: Contents of a version's files by ``(product, version)``.
        current: The version in force by product.
        changes: The record of changes.
        part_bytes: Largest part of a file in one answer.
        imports: Files of open imports by session.
    """

    names = wire.VERSION_FILES
    digest_key = "bank_sha256"

    def __init__(self) -> None:
        self.versions: dict[str, dict[int, dict[str, Any]]] = {}
        self.files: dict[tuple[str, int], dict[str, bytes]] = {}
        self.current: dict[str, int] = {}
        self.changes: list[dict[str, Any]] = []
        self.part_bytes = 1000
        self.imports: dict[str, dict[str, bytearray]] = {}
        self._fill()

    def _fill(self) -> None:
        first = version_report("screw", 1)
        for number, action in ((1, "enrolled"), (2, "appended"), (3, "thresholds")):
            made = first["change"] | {"action": action, "from_version": number - 1 or None}
            report = first | {"version": number, "change": made}
            self.add(report, b"bank %d " % number * 400, b"parts" * 300, action)

    def add(
        self,
        report: dict[str, Any],
        bank: bytes,
        parts: bytes,
        action: str = "enrolled",
        *,
        activate: bool = True,
    ) -> dict[str, Any]:
        """Keep a version with its files."""
        digests = {self.digest_key: sha256(bank), "good_parts_sha256": sha256(parts)}
        report = report | digests
        product, number = report["product"], report["version"]
        self.versions.setdefault(product, {})[number] = report
        contents = (json.dumps(report).encode(), bank, parts)
        self.files[product, number] = dict(zip(self.names, contents, strict=True))
        if activate:
            self.current[product] = number
        self.changes.append(change_line(action, number, product=product, in_force=activate))
        return report

    def manage(self, reference: str, asked: dict[str, Any], content: bytes):
        """Version, report and content of an answer.

        Raises:
            ValueError: If the request is refused.
        """
        name, number = wire.parse_product(reference)
        operation = asked["operation"]
        if operation in (wire.ManageOperation.IMPORT, wire.ManageOperation.PUBLISH):
            return getattr(self, f"_{operation}")(name, asked, content)
        if name not in self.versions:
            raise ValueError(f"unknown product '{name}'")
        if number is not None and number not in self.versions[name]:
            raise ValueError(f"product '{name}' has no version {number}")
        return getattr(self, f"_{operation}")(name, number, asked, content)

    def _history(self, name, number, asked, content):
        report = {
            "product": name,
            "current": self.current[name],
            "versions": list(self.versions[name].values()),
            "changes": [line for line in self.changes if line["product"] == name],
        }
        return self.current[name], report, b""

    def _activate(self, name, number, asked, content):
        self.current[name] = number
        self.changes.append(change_line("activated", number, product=name))
        return number, self.versions[name][number], b""

    def _delete(self, name, number, asked, content):
        if number is not None and number == self.current[name]:
            raise ValueError(f"version {number} of product '{name}' is in force")
        deleted = list(self.versions[name]) if number is None else [number]
        for one in deleted:
            del self.versions[name][one]
        if number is None:
            del self.versions[name], self.current[name]
        return number or 0, {"product": name, "deleted": deleted}, b""

    def _threshold(self, name, number, asked, content):
        chosen = {"threshold": asked.get("threshold", 0.5)}
        chosen["normal_below"] = asked.get("normal_below", chosen["threshold"])
        return self._changed(name, chosen, "thresholds")

    def _region(self, name, number, asked, content):
        region = {
            "inspected": ["00000", "01100", "01100", "00000"],
            "roi_px": asked.get("roi_px") or None,
            "ignore_mask_sha256": sha256(content) if content else None,
            "min_defect_area_px": asked.get("min_defect_area_px", 0),
        }
        return self._changed(name, {"region": region}, "region")

    def _changed(self, name, fields, action):
        base = self.versions[name][self.current[name]]
        number = max(self.versions[name]) + 1
        files = self.files[name, base["version"]]
        _, bank, parts = (files[one] for one in self.names)
        made = base["change"] | {"action": action, "from_version": base["version"]}
        fields = fields | {"version": number, "change": made}
        report = self.add(base | fields, bank, parts, action)
        return number, report, b""

    def _read(self, name, number, asked, content):
        number = number or self.current[name]
        file = self.files[name, number][asked["file"]]
        part = file[asked["offset"] : asked["offset"] + self.part_bytes]
        return number, {"product": name, "file_bytes": len(file)}, part

    def _gather(self, asked, content, names):
        """Files of a session with this part; None while more follow."""
        files = self.imports.setdefault(asked["session"], {})
        file = files.setdefault(asked["file"], bytearray())
        if len(file) != asked["offset"]:
            del self.imports[asked["session"]]
            raise ValueError(f"{asked['file']} has {len(file)} bytes so far")
        file += content
        if not asked["commit"]:
            return None
        del self.imports[asked["session"]]
        return [bytes(files[one]) for one in names]

    def _received(self, name, asked, content):
        return 0, {"product": name, "received": asked["offset"] + len(content)}, b""

    def _import(self, name, asked, content):
        files = self._gather(asked, content, wire.VERSION_FILES)
        if files is None:
            return self._received(name, asked, content)
        record, bank, parts = files
        number = max(self.versions.get(name, {0: {}})) + 1
        told = json.loads(record)
        change = told["change"] | {"action": "imported", "origin": f"{told['product']}@1"}
        told |= {"product": name, "version": number, "change": change}
        return number, self.add(told, bank, parts, "imported"), b""
