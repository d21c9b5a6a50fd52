"""Triton model: patch distances to the original image's anomaly map, and the defects in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defect_regions import DefectRegion, brought_to, defect_regions
from map_operator import MapRule, anomaly_map
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
        maps, found = [], []
        for grid, size, numbers in zip(
            array(request, "distance_grid"), sizes, array(request, "map_settings"), strict=True
        ):
            map_, regions = _map_and_regions(grid, size, [float(number) for number in numbers])
            maps.append(map_)
            found.append(json.dumps([asdict(region) for region in regions]))
        return [
            tensor(ANOMALY_MAP.name, np.stack(maps), np.float32),
            text_tensor(DEFECT_REGIONS.name, found, shape=(len(found), 1)),
        ]


def _map_and_regions(
    grid: NDArray[np.float32], size: tuple[int, int], numbers: list[float]
) -> tuple[NDArray[np.float32], list[DefectRegion]]:
    """The map of an image, and the defects as the product's references would show them.

    Args:
        grid: ``(rows, columns)`` float32 patch distances.
        size: Height and width of the image in pixels.
        numbers: As `scored_tensors` puts them together.
    """
    limit, area, height, width = numbers[:4]
    rule, reference_size = MapRule.from_numbers(*numbers[4:]), (int(height), int(width))
    map_ = anomaly_map(grid, size, rule)
    if size == reference_size:
        return map_, defect_regions(map_, limit, int(area))
    found = defect_regions(anomaly_map(grid, reference_size, rule), limit, int(area))
    return map_, brought_to(found, reference_size, map_)
