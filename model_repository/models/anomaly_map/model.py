"""Triton model: patch distances to the anomaly map of the original image."""

from __future__ import annotations

from typing import Any

import numpy as np

from map_operator import anomaly_map
from refusals import InspectionRefused
from triton_requests import answer_each, array, start, tensor
from wire import ANOMALY_MAP


class TritonPythonModel:
    """Adapter around `map_operator`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the interpreter."""
        start(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Draw each request's maps."""
        return answer_each(requests, self._answer)

    def _answer(self, request: Any) -> list[Any]:
        sizes = [(int(height), int(width)) for height, width in array(request, "image_size")]
        if len(set(sizes)) > 1:
            raise InspectionRefused(
                f"one request asks for maps of images of {len(set(sizes))} different sizes, which "
                "one tensor cannot hold; send them as separate requests"
            )
        grids = array(request, "distance_grid")
        maps = np.stack([anomaly_map(grid, size) for grid, size in zip(grids, sizes, strict=True)])
        return [tensor(ANOMALY_MAP.name, maps, np.float32)]
