"""Triton model: what is enrolled, and trained, on this server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bank_search import bank_size_bytes
from bank_store import BankStore
from bundle import Bundle
from refusals import InspectionRefused
from student_runner import students_size_bytes
from students_record import StudentsRecord
from students_store import STUDENTS_FILE, STUDENTS_FOLDER, StudentsStore
from triton_requests import answer_each, start, text_tensor, texts
from version_record import VersionRecord
from version_store import VersionStore
from wire import PRODUCT, PRODUCTS_REPORT, Method, parse_product


class TritonPythonModel:
    """Adapter around `bank_store` and `students_store`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the stores."""
        start(args)
        repository = Path(args["model_repository"]).parents[1]
        self.banks = BankStore(repository / "banks")
        self.students = StudentsStore(repository / STUDENTS_FOLDER)

    def execute(self, requests: list[Any]) -> list[Any]:
        """List the products each request asks for."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        wanted = texts(request, PRODUCT)[0]
        described = self._of_name(wanted) if wanted else self._all()
        return [text_tensor(PRODUCTS_REPORT.name, [json.dumps(described)])]

    def _of_name(self, wanted: str) -> list[dict[str, Any]]:
        """A product by each method that has it; by one at least."""
        name = _plain_name(wanted)
        is_enrolled, is_trained = (name in one.products() for one in (self.banks, self.students))
        if is_enrolled and is_trained:
            return [self._enrolled_or_why_not(name), self._trained_or_why_not(name)]
        return [self._trained(name) if is_trained else self._enrolled(name)]  # or says it is none

    def _all(self) -> list[dict[str, Any]]:
        enrolled = [self._enrolled_or_why_not(name) for name in self.banks.products()]
        return enrolled + [self._trained_or_why_not(name) for name in self.students.products()]

    def _enrolled_or_why_not(self, name: str) -> dict[str, Any]:
        return _or_why_not(self._enrolled, name, Method.ANOMALY_DINO)

    def _trained_or_why_not(self, name: str) -> dict[str, Any]:
        return _or_why_not(self._trained, name, Method.L2BT)

    def _enrolled(self, name: str) -> dict[str, Any]:
        product, current = self.banks.resolve(name)
        bundle = self.banks.read_bundle(product, current)
        return _described(bundle, self.banks) | {
            "preprocessing": bundle.preprocessing.setting,
            "masked": bundle.preprocessing.masked,
            "loaded_bytes": _bank_bytes(bundle),
        }

    def _trained(self, name: str) -> dict[str, Any]:
        product, current = self.students.resolve(name)
        record = self.students.read_bundle(product, current)
        return _described(record, self.students) | {
            "preprocessing": "pad",
            "masked": False,
            "loaded_bytes": self._students_bytes(record),
        }

    def _students_bytes(self, record: StudentsRecord) -> int:
        file = self.students.file(record.product, record.version, STUDENTS_FILE)
        return students_size_bytes(file, record.patch_grid, record.dim)


def _plain_name(reference: str) -> str:
    """The product of a reference that may be pinned to a version.

    Raises:
        InspectionRefused: If it is none.
    """
    try:
        return parse_product(reference)[0]
    except ValueError as error:
        raise InspectionRefused(str(error)) from None


def _or_why_not(
    describe: Callable[[str], dict[str, Any]], name: str, method: str
) -> dict[str, Any]:
    """One damaged product must not hide the others."""
    try:
        return describe(name)
    except InspectionRefused as refusal:
        return {"product": name, "method": method, "error": str(refusal)}


def _described(record: VersionRecord, store: VersionStore[Any]) -> dict[str, Any]:
    """What is told of a product by whichever method."""
    return {
        "product": record.product,
        "method": record.method,
        "current": record.version,
        "versions": store.versions(record.product),
        "ensemble": record.ensemble,
        "grid": record.grid,
        "image_size": record.image_size,
        "threshold": record.threshold,
        "normal_below": record.normal_below,
        "num_references": record.num_references,
        "num_patches": record.num_patches,
        "created_at": record.created_at,
        "backbone_sha256": record.backbone["onnx_sha256"],
    }


def _bank_bytes(bundle: Bundle) -> int:
    return bank_size_bytes(
        bundle.num_patches,
        bundle.dim,
        bundle.backbone["search_precision"],
        bundle.scoring.num_lists,
    )
