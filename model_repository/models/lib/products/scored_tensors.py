"""The answers of whatever scores images, as the tensors that the ensembles expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from map_operator import MapRule
from patch_scoring import Scored
from triton_requests import tensor
from version_record import VersionRecord
from wire import (
    ANOMALY_SCORE,
    BUNDLE_VERSION,
    NORMAL_BELOW,
    PATCH_DISTANCES,
    THRESHOLD,
    VERDICT,
)


class Answer(NamedTuple):
    """What is known of one image, and what decided it.

    Attributes:
        record: The version that answered.
        scored: Distances, score and verdict.
        map_rule: How the distances become a map.
        min_defect_area_px: Smaller defect regions do not count.
    """

    record: VersionRecord
    scored: Scored
    map_rule: MapRule
    min_defect_area_px: int


def scored_tensors(answers: Sequence[Answer]) -> list[Any]:
    """One tensor per output, for the images of one request."""
    scored, records = [one.scored for one in answers], [one.record for one in answers]
    distances = np.stack([one.distances for one in scored])
    return [
        _column(ANOMALY_SCORE.name, [one.anomaly_score for one in scored], np.float32),
        _column(THRESHOLD.name, [record.threshold for record in records], np.float32),
        _column(NORMAL_BELOW.name, [record.normal_below for record in records], np.float32),
        _column(VERDICT.name, [one.verdict for one in scored], np.int32),
        _column(BUNDLE_VERSION.name, [record.version for record in records], np.int64),
        tensor(PATCH_DISTANCES.name, distances, np.float32),
        # The same numbers under a second name: a tensor that is both an ensemble's output and
        # a later step's input is pruned when a client asks for the map alone.
        tensor("distance_grid", distances, np.float32),
        tensor("map_settings", [_map_settings(one) for one in answers], np.float32),
    ]


def _map_settings(answer: Answer) -> tuple[float, ...]:
    record = answer.record
    return (
        record.defect_threshold,
        answer.min_defect_area_px,
        *record.image_size,
        *answer.map_rule.to_numbers(),
    )


def _column(name: str, values: list[Any], dtype: Any) -> Any:
    """One number per image."""
    return tensor(name, np.array(values)[:, None], dtype)
