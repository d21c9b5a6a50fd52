"""Triton model: what is enrolled on this server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bank_search import bank_size_bytes
from bank_store import BankStore
from refusals import InspectionRefused
from triton_requests import answer_each, start, text_tensor, texts
from wire import PRODUCT, PRODUCTS_REPORT


class TritonPythonModel:
    """Adapter around `bank_store`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store."""
        start(args)
        self.store = BankStore(Path(args["model_repository"]).parents[1] / "banks")

    def execute(self, requests: list[Any]) -> list[Any]:
        """List the products each request asks for."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        wanted = texts(request, PRODUCT)[0]
        if wanted:
            described = [self._describe(self.store.resolve(wanted)[0])]
        else:
            described = [self._describe_or_say_why(name) for name in self.store.products()]
        return [text_tensor(PRODUCTS_REPORT.name, [json.dumps(described)])]

    def _describe_or_say_why(self, name: str) -> dict[str, Any]:
        """One damaged product must not hide the others."""
        try:
            return self._describe(name)
        except InspectionRefused as refusal:
            return {"product": name, "error": str(refusal)}

    def _describe(self, name: str) -> dict[str, Any]:
        product, current = self.store.resolve(name)
        bundle = self.store.read_bundle(product, current)
        return {
            "product": product,
            "current": current,
            "versions": self.store.versions(product),
            "ensemble": bundle.ensemble,
            "grid": bundle.grid,
            "image_size": bundle.image_size,
            "threshold": bundle.threshold,
            "normal_below": bundle.normal_below,
            "preprocessing": bundle.preprocessing.setting,
            "masked": bundle.preprocessing.masked,
            "num_references": bundle.num_references,
            "num_patches": bundle.num_patches,
            "loaded_bytes": bank_size_bytes(
                bundle.num_patches,
                bundle.dim,
                bundle.backbone["search_precision"],
                bundle.scoring.num_lists,
            ),
            "created_at": bundle.created_at,
            "backbone_sha256": bundle.backbone["onnx_sha256"],
        }
