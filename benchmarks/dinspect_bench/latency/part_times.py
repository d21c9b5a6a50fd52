"""Times of the parts of a model's work, from the server's Prometheus metrics.

Decoding and resizing are both the `preprocess` model's, which Triton counts as a whole. The model
counts the two itself (``dinspect_decode_duration_us``, ``dinspect_resize_duration_us``); two
readings around a measurement give what was spent in between.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping

from dinspect_bench.errors import StatisticsError

PARTS = ("decode", "resize")
_TIMEOUT_S = 10.0
_US_PER_MS = 1e3
_SAMPLE = re.compile(r"^dinspect_(\w+)_duration_us\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# As the client's channel: no proxy leads to a server's metrics.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def parts_from_metrics(text: str, model: str) -> dict[str, float]:
    """Running totals of a model's parts.

    Args:
        text: Metrics in Prometheus' text format.
        model: Name of the model.

    Returns:
        Part to its total in microseconds since the model was loaded; empty if it counts none.
    """
    totals: dict[str, float] = {}
    for part, labels, value in _SAMPLE.findall(text):
        if dict(_LABEL.findall(labels)).get("model") == model:
            totals[part] = totals.get(part, 0.0) + float(value)
    return totals


def read_parts(metrics_url: str, model: str) -> dict[str, float]:
    """`parts_from_metrics` of a running server.

    Args:
        metrics_url: Such as ``http://localhost:8002/metrics``.
        model: Name of the model.

    Raises:
        StatisticsError: If it does not answer, or the model counts not all of `PARTS`.
    """
    try:
        with _DIRECTLY.open(metrics_url, timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode("utf-8")
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise StatisticsError(f"the metrics at {metrics_url} cannot be read: {error}") from error
    totals = parts_from_metrics(text, model)
    missing = [part for part in PARTS if part not in totals]
    if missing:
        raise StatisticsError(
            f"the metrics at {metrics_url} do not tell the time {model} takes to "
            f"{' and '.join(missing)}; was its repository assembled by an earlier version?"
        )
    return totals


def part_times_ms(
    before: Mapping[str, float], after: Mapping[str, float], num_requests: int
) -> dict[str, float]:
    """Mean time of each part per request between two readings, in milliseconds.

    Args:
        before: Totals in microseconds, as `read_parts` gives them.
        after: The same, later.
        num_requests: Requests in between, at least 1.

    Raises:
        StatisticsError: If a total went down, since the model was loaded anew in between.
    """
    times = {}
    for part in PARTS:
        spent_us = after[part] - before[part]
        if spent_us < 0:
            raise StatisticsError(f"the {part} time went down; the model was loaded anew")
        times[part] = spent_us / num_requests / _US_PER_MS
    return times
