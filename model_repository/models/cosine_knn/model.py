"""Triton model: patch tokens and a product to distances, score and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_cache import BankCache
from bank_store import BankStore
from map_operator import ANOMALY_DINO_MAP
from nearest_neighbours import search_precision
from scored_tensors import Answer, scored_tensors
from triton_requests import answer_each, array, start, texts
from wire import PRODUCT


class TritonPythonModel:
    """Adapter around `bank_cache` and `patch_scoring`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the store of bundles; banks load on first use."""
        parameters = start(args)
        # <repository>/models/<this model>: the banks live beside the models, not among them.
        store = BankStore(Path(args["model_repository"]).parents[1] / "banks")
        self.cache = BankCache(
            store,
            parameters["onnx_sha256"],
            search_precision(parameters["search_precision"]),
            int(parameters["max_bank_bytes"]),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Score each request's images."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        tokens = array(request, "patch_tokens")
        sizes = [(int(height), int(width)) for height, width in array(request, "image_size")]
        answers = [
            self._score(product, image, size)
            for product, image, size in zip(texts(request, PRODUCT), tokens, sizes, strict=True)
        ]
        return scored_tensors(answers)

    def _score(
        self, product: str, tokens: NDArray[np.float32], image_size: tuple[int, int]
    ) -> Answer:
        """Score one image, and hold on to no bank that the next one's may push out of memory."""
        scorer = self.cache.get(product)
        scored = scorer.score(tokens, image_size)
        area_px = scorer.bundle.region.min_defect_area_px
        return Answer(scorer.bundle, scored, ANOMALY_DINO_MAP, area_px)
