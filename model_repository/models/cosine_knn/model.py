"""Triton model: patch tokens and a product to distances, score and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_cache import BankCache, LoadedBundle
from bank_store import BankStore
from image_preparation import same_aspect
from image_score import top_fraction_mean, verdict
from nearest_neighbours import search_precision, unit_vectors
from refusals import InspectionRefused
from triton_requests import answer_each, array, start, tensor, texts
from wire import (
    ANOMALY_SCORE,
    BUNDLE_VERSION,
    PATCH_DISTANCES,
    PRODUCT,
    THRESHOLD,
    VERDICT,
)


class TritonPythonModel:
    """Adapter around `bank_cache`, `nearest_neighbours` and `image_score`."""

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
        products = texts(request, PRODUCT)
        sizes = array(request, "image_size")
        loaded = [self.cache.get(product) for product in products]
        for one, size in zip(loaded, sizes, strict=True):
            _check_geometry(one, (int(size[0]), int(size[1])))
        distances = np.stack(
            [_distances(one, image) for one, image in zip(loaded, tokens, strict=True)]
        )
        scores = [top_fraction_mean(grid) for grid in distances]
        thresholds = [one.bundle.threshold for one in loaded]
        verdicts = [
            verdict(score, one.bundle.normal_below, one.bundle.threshold)
            for score, one in zip(scores, loaded, strict=True)
        ]
        versions = [one.bundle.version for one in loaded]
        return [
            tensor(ANOMALY_SCORE.name, np.array(scores)[:, None], np.float32),
            tensor(THRESHOLD.name, np.array(thresholds)[:, None], np.float32),
            tensor(VERDICT.name, np.array(verdicts)[:, None], np.int32),
            tensor(BUNDLE_VERSION.name, np.array(versions)[:, None], np.int64),
            tensor(PATCH_DISTANCES.name, distances, np.float32),
            # The same numbers under a second name: a tensor that is both an ensemble's output and
            # a later step's input is pruned when a client asks for the map alone.
            tensor("distance_grid", distances, np.float32),
        ]


def _distances(loaded: LoadedBundle, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = loaded.search.distances(unit_vectors(tokens))
    return flat.reshape(loaded.bundle.grid)


def _check_geometry(loaded: LoadedBundle, size: tuple[int, int]) -> None:
    bundle = loaded.bundle
    height, width = bundle.image_size
    if not same_aspect(size, (height, width)):
        raise InspectionRefused(
            f"the image is {size[1]} x {size[0]} px, but product '{bundle.product}' was enrolled "
            f"from {width} x {height} px; a product has one camera geometry"
        )
