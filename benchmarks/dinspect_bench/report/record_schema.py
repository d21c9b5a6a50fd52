"""What a record must hold to be shown in a report, kind by kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from dinspect_client.wire import METHODS

SCENARIOS = ("single_stream", "multi_stream", "server", "offline")


class Field(NamedTuple):
    """What a key must hold.

    Attributes:
        words: In words, for a message.
        holds: Whether a value is of that form.
    """

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> Field:
        """The same, or null."""
        return Field(f"{self.words} or null", lambda value: value is None or self.holds(value))


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_environment(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("cpu"), Mapping)


def _is_curves(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(points, list) and all(_is_point(point) for point in points)
        for points in value.values()
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _is_worst(value: Any) -> bool:
    keys = {"file", "label", "score", "picture"}
    return isinstance(value, list) and all(
        isinstance(entry, Mapping) and keys <= entry.keys() and is_number(entry["score"])
        for entry in value
    )


def _is_null_system(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        is_number(value.get(name)) for name in ("p50_ms", "p99_ms")
    )


def _is_floors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values())


_TEXT = Field("a text", lambda value: isinstance(value, str) and value != "")
_TRUTH = Field("true or false", lambda value: isinstance(value, bool))
_COUNT = Field("a count", _is_count)
_NUMBER = Field("a number, 0 or more", lambda value: is_number(value) and value >= 0)
_SHARE = Field("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
_METHOD = Field(" or ".join(METHODS), lambda value: value in METHODS)
_RATES = Field(
    "numbers by name",
    lambda value: (
        isinstance(value, Mapping) and all(one is None or is_number(one) for one in value.values())
    ),
)
_SETTING = {"method": _METHOD, "backbone": _TEXT, "resolution": _COUNT, "shots": _COUNT.or_null()}
IMAGE_FIGURES = ("image_auroc", "image_f1_max", "image_average_precision")
PIXEL_FIGURES = (
    "pixel_auroc", "pixel_f1_max", "pixel_average_precision", "aupro_30", "aupro_05"
)  # fmt: skip
ROBUSTNESS = ("robustness_30", "robustness_05")
QUARTILES = tuple(f"aupro_{limit}_q{number}" for limit in ("30", "05") for number in (1, 2, 3, 4))

EVERY_KIND = {
    "created": Field("a time with its zone, as ISO 8601", _is_time),
    "environment": Field("an environment with its cpu", _is_environment),
}
"""What a record of any kind must hold."""
KINDS: dict[str, dict[str, Field]] = {
    "accuracy": {
        "dataset": _TEXT,
        "category": _TEXT,
        **_SETTING,
        "seed": _COUNT.or_null(),
        "preprocessing": _TEXT.or_null(),
        **dict.fromkeys(IMAGE_FIGURES, _SHARE),
        **dict.fromkeys((*PIXEL_FIGURES, *ROBUSTNESS, *QUARTILES), _SHARE.or_null()),
        "num_good": _COUNT,
        "num_defective": _COUNT,
        "num_regions": _COUNT.or_null(),
        "curves": Field("lists of points [x, y] by name", _is_curves),
        "worst": Field("a list of images with file, label, score and picture", _is_worst),
        "backbone_sha256": _TEXT,
    },
    "latency": {
        "scenario": Field(f"one of {', '.join(SCENARIOS)}", lambda value: value in SCENARIOS),
        **_SETTING,
        "method": _METHOD.or_null(),  # of a part that both methods have
        "bank_patches": _COUNT.or_null(),
        "masking": _TRUTH.or_null(),
        "rotation": Field("true, false or a text", lambda v: isinstance(v, (bool, str))).or_null(),
        "with_map": _TRUTH,
        "precision": _TEXT,
        "runtime": _TEXT,
        **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "mean_ms", "std_ms"), _NUMBER.or_null()),
        "num_samples": _COUNT,
        "num_failed": _COUNT,
    },
    "null_system": {"p50_ms": _NUMBER, "p99_ms": _NUMBER},
    "peak": {"matrix_product_flops": _RATES, "copy_bytes_per_s": _NUMBER},
    "peer_latency": {
        "case": _TEXT,
        "system": _TEXT,
        "p50_ms": _NUMBER.or_null(),
        "ratio_to_dinspect": _NUMBER.or_null(),
        "num_samples": _COUNT,
    },
}
"""Kinds of records and what each must hold; whatever else a record holds is kept."""
OPTIONAL: dict[str, dict[str, Field]] = {
    "accuracy": {
        "weights_sha256": _TEXT.or_null(),
        "epochs": _COUNT.or_null(),
        "selection": _TEXT.or_null(),
        "runtime": _TEXT.or_null(),
        "precision": _TEXT.or_null(),
        "search_precision": _TEXT.or_null(),
        "students_precision": _TEXT.or_null(),
    },
    "latency": {
        "stages_ms": _RATES.or_null(),
        "stages_sum_share": _NUMBER.or_null(),
        "floor_by_step": Field("figures by name for each stage", _is_floors).or_null(),
        "memory_bank_s": _NUMBER.or_null(),
        "memory_bank_std_s": _NUMBER.or_null(),
        "preprocessing": _TEXT.or_null(),
        "transport": _TEXT.or_null(),
        "null_system": Field("a null system with p50_ms and p99_ms", _is_null_system).or_null(),
    },
    "peer_latency": {"image_auroc": _SHARE.or_null(), "not_run": _TEXT.or_null()},
}
"""What is checked where a record has it."""
OTHER_KINDS = (
    "copy", "device", "engine", "metrics_speed", "not_run", "parity", "product", "step", "wheel",
)  # fmt: skip
"""Kinds that have pages of their own; a report only counts them."""
