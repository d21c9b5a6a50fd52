"""The demo's cells through the server: every answer checked and labelled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dinspect_bench.datasets.elpv import DemoSplit, relative_name
from dinspect_bench.demo.result import Enrolled, InspectedImage
from dinspect_bench.errors import DemoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dinspect_client import InspectionClient
    from dinspect_client.results import Inspection

_FLOAT32_EPS = 1e-6  # the threshold travels as float32 in one answer, as text in the other


def inspect_split(
    client: InspectionClient, product: str, split: DemoSplit, enrolled: Enrolled, method: str
) -> tuple[tuple[InspectedImage, ...], dict[str, NDArray[np.float32]]]:
    """Inspect every cell that was held out.

    Args:
        client: Connected to the server.
        product: What they are inspected as.
        split: The cells.
        enrolled: The version that must answer.
        method: ``anomaly_dino`` or ``l2bt``.

    Returns:
        The answers in the order of the split, and file name to ``(H, W)`` float32 map.

    Raises:
        DemoError: If another version answers, or a map is missing.
        InspectionError: If a cell cannot be inspected.
    """
    images, anomaly_maps = [], {}
    for path, is_defective in tqdm(list(_labelled(split)), unit="cell", leave=False, disable=None):
        answer = client.inspect(product, path, method=method, with_map=True)
        name = relative_name(path)
        _check_bundle(name, answer, enrolled)
        if answer.anomaly_map is None:
            raise DemoError(f"{name} came back without the map that was asked for")
        score = float(answer.anomaly_score)
        images.append(InspectedImage(name, is_defective, score, answer.verdict))
        anomaly_maps[name] = answer.anomaly_map
    return tuple(images), anomaly_maps


def _check_bundle(name: str, answer: Inspection, enrolled: Enrolled) -> None:
    """The bundle just enrolled, and no other, must have answered."""
    same_threshold = math.isclose(answer.threshold, enrolled.threshold, rel_tol=_FLOAT32_EPS)
    if answer.bundle_version != enrolled.bundle_version or not same_threshold:
        raise DemoError(
            f"{name} was answered by version {answer.bundle_version} with threshold "
            f"{answer.threshold}, enrolled is version {enrolled.bundle_version} with "
            f"{enrolled.threshold}"
        )


def _labelled(split: DemoSplit) -> Iterator[tuple[Path, bool]]:
    """Held-out cells with their truth."""
    yield from ((path, False) for path in split.functional)
    yield from ((path, True) for path in split.defective)
