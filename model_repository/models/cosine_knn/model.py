"""Triton model: patch tokens and a product to distances, score and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_cache import BankCache
from bank_store import BankStore
from bundle import Bundle
from nearest_neighbours import search_precision
from patch_scoring import Scored
from triton_requests import answer_each, array, start, tensor, texts
from wire import (
    ANOMALY_SCORE,
    BUNDLE_VERSION,
    NORMAL_BELOW,
    PATCH_DISTANCES,
    PRODUCT,
    THRESHOLD,
    VERDICT,
)


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
        bundles, scored = [bundle for bundle, _ in answers], [one for _, one in answers]
        distances = np.stack([one.distances for one in scored])
        return [
            _column(ANOMALY_SCORE.name, [one.anomaly_score for one in scored], np.float32),
            _column(THRESHOLD.name, [bundle.threshold for bundle in bundles], np.float32),
            _column(NORMAL_BELOW.name, [bundle.normal_below for bundle in bundles], np.float32),
            _column(VERDICT.name, [one.verdict for one in scored], np.int32),
            _column(BUNDLE_VERSION.name, [bundle.version for bundle in bundles], np.int64),
            tensor(PATCH_DISTANCES.name, distances, np.float32),
            # The same numbers under a second name: a tensor that is both an ensemble's output and
            # a later step's input is pruned when a client asks for the map alone.
            tensor("distance_grid", distances, np.float32),
            tensor(
                "defect_settings",
                [(b.defect_threshold, b.region.min_defect_area_px, *b.image_size) for b in bundles],
                np.float32,
            ),
        ]

    def _score(
        self, product: str, tokens: NDArray[np.float32], image_size: tuple[int, int]
    ) -> tuple[Bundle, Scored]:
        """Score one image, and hold on to no bank that the next one's may push out of memory."""
        scorer = self.cache.get(product)
        return scorer.bundle, scorer.score(tokens, image_size)


def _column(name: str, values: list[Any], dtype: Any) -> Any:
    """One number per image."""
    return tensor(name, np.array(values)[:, None], dtype)
