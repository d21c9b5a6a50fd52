"""The trained students of the fake server: versions by l2bt, and how they are published."""

from __future__ import annotations

import json
from typing import Any

from fake_products import AT, FakeProducts, product_report, version_report

from dinspect_client import wire

STUDENTS_ENSEMBLE = "l2bt_screw_448"


def students_product(name: str, **changes: Any) -> dict[str, Any]:
    """A product by l2bt as `products` lists it."""
    report = {
        "method": "l2bt",
        "current": 2,
        "versions": [1, 2],
        "ensemble": wire.l2bt_model(name, "448"),
        "preprocessing": "pad",
        "masked": False,
        "num_references": 20,
    }
    return product_report(name, **(report | changes))


def students_report(product: str, version: int, **changes: Any) -> dict[str, Any]:
    """The record of a version by l2bt, with some of its fields changed."""
    bank = version_report(product, version)
    backbone = {key: bank["backbone"][key] for key in bank["backbone"] if key != "search_precision"}
    report = {
        "product": product,
        "version": version,
        "method": "l2bt",
        "ensemble": wire.l2bt_model(product, "448"),
        "grid": [32, 32],
        "image_size": [300, 400],
        "layers": [8, 12],
        "dim": 384,
        "num_references": 20,
        "num_patches": 15360,
        "threshold": 0.5,
        "normal_below": 0.25,
        "defect_threshold": 0.625,
        "distance": {"normalisation": "l2", "metric": "euclidean", "combination": "product"},
        "smoothing": "gaussian",
        "sigma_px": 4.0,
        "image_score": "mean_top01p_map",
        "training": {"epochs": 50, "seed": 0},
        "calibration": bank["calibration"] | {"method": "cross_fit"},
        "backbone": backbone,
        "references": bank["references"],
        "created_at": AT,
        "created_by": "ada",
        "change": bank["change"] | {"action": "published"},
        "students_sha256": "",
        "good_parts_sha256": "",
        "format_version": 1,
    }
    return report | changes


class FakeStudents(FakeProducts):
    """Answers ``manage`` for l2bt: versions are published, and neither read nor imported."""

    names = wire.TRAINING_FILES
    digest_key = "students_sha256"

    def _fill(self) -> None:
        first = students_report("screw", 1)
        for number, action in ((1, "published"), (2, "thresholds")):
            made = first["change"] | {"action": action, "from_version": number - 1 or None}
            report = first | {"version": number, "change": made}
            self.add(report, b"students", b"parts", action)

    def _publish(self, name, asked, content):
        files = self._gather(asked, content, wire.TRAINING_FILES)
        if files is None:
            if "activate" in asked:
                raise ValueError("activate goes with the last part")
            return self._received(name, asked, content)
        training, students, parts = files
        number = max(self.versions.get(name, {0: {}})) + 1
        report = students_report(name, number, training=json.loads(training))
        made = self.add(report, students, parts, "published", activate=asked["activate"])
        return number, made, b""

    def _refuse(self, name, *others):
        raise ValueError("this is for anomaly_dino alone")

    _region = _read = _import = _refuse
