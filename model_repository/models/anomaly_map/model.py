"""Triton model: patch distances to the original image's anomaly map, and the defects in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defect_regions import DefectRegion, brought_to, defect_regions
from map_operator import anomaly_map
from refusals import InspectionRefused
from triton_requests import answer_each, array, start, tensor, text_tensor
from wire import ANOMALY_MAP, DEFECT_REGIONS


class TritonPythonModel:
    """Adapter around `map_operator` and `defect_regions`."""

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
        found = [
            json.dumps([asdict(region) for region in _regions(grid, map_, settings)])
            for grid, map_, settings in zip(
                grids, maps, array(request, "defect_settings"), strict=True
            )
        ]
        return [
            tensor(ANOMALY_MAP.name, maps, np.float32),
            text_tensor(DEFECT_REGIONS.name, found, shape=(len(found), 1)),
        ]


def _regions(
    grid: NDArray[np.float32], map_: NDArray[np.float32], settings: NDArray[np.float32]
) -> list[DefectRegion]:
    """Defects as the product's references would show them, in pixels of the inspected image."""
    limit, area, height, width = settings
    size = (int(height), int(width))
    if map_.shape == size:
        return defect_regions(map_, float(limit), int(area))
    found = defect_regions(anomaly_map(grid, size), float(limit), int(area))
    return brought_to(found, size, map_)
