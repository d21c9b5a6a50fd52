"""Geometry of the report's plots: data in, coordinates out; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DOT_RADIUS = 4.0
_LABEL_HEIGHT = 15.0
_DOT_SPACING = 2.15 * DOT_RADIUS
_LINE_SERIES = (2, 3, 4, 6, 1, 5)  # colours of the style sheet, the strongest first


@dataclass(frozen=True)
class Scale:
    """A linear map from data to pixels.

    Attributes:
        low: Data value at ``start``.
        high: Data value at ``end``.
        start: Pixel of ``low``.
        end: Pixel of ``high``; below ``start`` for an axis that grows upwards.
        ticks: Round data values to label.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """Pixel of a data value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def scale_for(
    values: Sequence[float], start: float, end: float, *, from_zero: bool = False
) -> Scale:
    """A scale whose ends are round and enclose all values.

    Args:
        values: Finite values, at least one.
        start: Pixel of the low end.
        end: Pixel of the high end.
        from_zero: Whether the low end is 0 at most.
    """
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
    step = _round_step((high - low) or abs(high) or 1.0)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    # Multiplying, unlike adding up, keeps 0.1 + 0.2 out of the labels.
    ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, four to eight of which make the span."""
    magnitude = 10.0 ** math.floor(math.log10(span / 5))
    return next(m * magnitude for m in (1, 2, 5, 10) if span / (m * magnitude) <= 8)


def beeswarm(xs: Sequence[float], max_offset: float) -> list[float]:
    """Vertical offsets that keep dots at the given horizontal pixels from covering each other.

    Args:
        xs: Horizontal pixels.
        max_offset: Largest offset to either side; where there is no room left, dots do overlap.

    Returns:
        One offset per dot, in the order of ``xs``; the same for the same input.
    """
    candidates = [0.0]
    while candidates[-1] < max_offset:
        candidates.append(candidates[-1] + 1.0)
    candidates = [sign * offset for offset in candidates for sign in (1, -1)]
    placed: list[tuple[float, float]] = []
    offsets = [0.0] * len(xs)
    for index in sorted(range(len(xs)), key=lambda i: xs[i]):
        x = xs[index]
        near = [(px, py) for px, py in placed if abs(px - x) < _DOT_SPACING]
        offset = next((y for y in candidates if _is_free(x, y, near)), 0.0)
        placed.append((x, offset))
        offsets[index] = offset
    return offsets


def _is_free(x: float, y: float, near: Sequence[tuple[float, float]]) -> bool:
    return all(math.hypot(px - x, py - y) >= _DOT_SPACING for px, py in near)


def score_plot(images: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """Every image as a dot at its score, one row per label, with the threshold as a line."""
    width, row_height, top = 658.0, 128.0, 34.0
    rows: list[dict[str, Any]] = [
        {"label": label, "y": top + row_height * (index + 0.5)}
        for index, label in enumerate(("functional", "defective"))
    ]
    x = scale_for([*(image["score"] for image in images), threshold], 92.0, width - 14.0)
    dots = []
    for row in rows:
        members = [image for image in images if image["label"] == row["label"]]
        xs = [x(image["score"]) for image in members]
        offsets = beeswarm(xs, row_height / 2 - 10)
        dots += [
            {"x": dot_x, "y": round(row["y"] + offset, 1), **image}
            for image, dot_x, offset in zip(members, xs, offsets, strict=True)
        ]
    bottom = top + 2 * row_height
    return {
        "width": width,
        "height": bottom + 44,
        "top": top,
        "bottom": bottom,
        "left": x.start,
        "right": x.end,
        "rows": rows,
        "ticks": _ticks(x),
        "dots": dots,
        "threshold_x": x(threshold),
        "radius": DOT_RADIUS,
    }


def roc_plot(
    points: Sequence[Sequence[float]], operating_point: tuple[float, float]
) -> dict[str, Any]:
    """The ROC curve with the point the calibrated threshold works at."""
    size, left, top = 250.0, 54.0, 14.0
    x = scale_for([0.0, 1.0], left, left + size)
    y = scale_for([0.0, 1.0], top + size, top)
    corners = [f"{x(point[0])},{y(point[1])}" for point in points]
    return {
        "width": left + size + 10,
        "height": top + size + 50,
        "left": left,
        "right": left + size,
        "top": top,
        "bottom": top + size,
        "line": " ".join(corners),
        "area": " ".join([*corners, f"{x(1)},{y(0)}"]),
        "x_ticks": _ticks(x),
        "y_ticks": _ticks(y),
        "point": (x(operating_point[0]), y(operating_point[1])),
    }


def sample_plot(samples_ms: Sequence[float], summary: Mapping[str, float]) -> dict[str, Any]:
    """Every latency sample in the order it was taken: drift and outliers show here."""
    width, bottom, left, top = 1034.0, 190.0, 60.0, 14.0
    y = scale_for([*samples_ms, summary["p99"]], bottom, top, from_zero=True)
    x = Scale(0.5, len(samples_ms) + 0.5, left, width - 44)
    return {
        "width": width,
        "height": bottom + 38,
        "left": left,
        "right": x.end,
        "top": top,
        "bottom": bottom,
        "dots": [
            {"x": x(number), "y": y(value), "ms": value}
            for number, value in enumerate(samples_ms, start=1)
        ],
        "y_ticks": _ticks(y),
        "lines": _percentile_lines(y(summary["p50"]), y(summary["p99"])),
        "count": len(samples_ms),
    }


def _percentile_lines(p50_y: float, p99_y: float) -> list[dict[str, Any]]:
    """Both lines, their labels moved apart where they would cover each other."""
    overlap = max(0.0, _LABEL_HEIGHT - (p50_y - p99_y))
    return [
        {"name": "p50", "y": p50_y, "label_y": round(p50_y + overlap / 2, 1)},
        {"name": "p99", "y": p99_y, "label_y": round(p99_y - overlap / 2, 1)},
    ]


def line_plot(
    series: Sequence[tuple[str, Sequence[Sequence[float]]]],
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    with_dots: bool = False,
) -> dict[str, Any]:
    """Several lines over one pair of axes.

    Args:
        series: Name and points ``(x, y)`` of each line, ascending in ``x``; at least one point.
        x_range: Ends of the horizontal axis, at which lines are cut off; None for the data's own.
        y_range: The same for the vertical axis, which otherwise begins at 0; nothing is cut off.
        with_dots: Whether each point is drawn as a dot too.
    """
    width, bottom, left, top = 500.0, 270.0, 60.0, 14.0
    cut = [
        (name, points if x_range is None else cut_off(points, x_range[1]))
        for name, points in series
    ]
    xs = [point[0] for _, points in cut for point in points]
    ys = [point[1] for _, points in cut for point in points]
    x = scale_for(x_range or xs, left, width - 14)
    y = scale_for(y_range or ys, bottom, top, from_zero=True)
    return {
        "width": width,
        "height": bottom + 50,
        "left": left,
        "right": x.end,
        "top": top,
        "bottom": bottom,
        "x_ticks": _ticks(x),
        "y_ticks": _ticks(y),
        "lines": [
            {
                "name": name,
                "series": _LINE_SERIES[number % len(_LINE_SERIES)],
                "points": " ".join(f"{x(point[0])},{y(point[1])}" for point in points),
                "dots": [
                    {"x": x(point[0]), "y": y(point[1]), "at": point[0], "value": point[1]}
                    for point in points
                    if with_dots
                ],
            }
            for number, (name, points) in enumerate(cut)
        ],
    }


def cut_off(points: Sequence[Sequence[float]], limit: float) -> list[tuple[float, float]]:
    """The part of a line up to a limit, ending exactly there where it goes beyond.

    Args:
        points: ``(x, y)``, ascending in ``x``.
        limit: Largest ``x``.
    """
    kept = [(point[0], point[1]) for point in points if point[0] <= limit]
    beyond = next((point for point in points if point[0] > limit), None)
    if beyond is not None and kept:
        (x, y), (next_x, next_y) = kept[-1], beyond
        kept.append((limit, y + (next_y - y) * (limit - x) / (next_x - x)))
    return kept


def stacked_bar(parts: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Parts of a whole side by side.

    Args:
        parts: Name and size of each; a negative one (noise around zero) is drawn as nothing.
    """
    width, height = 1034.0, 40.0
    whole = sum(max(size, 0.0) for _, size in parts) or 1.0
    segments, x = [], 0.0
    for index, (name, size) in enumerate(parts):
        share = max(size, 0.0) / whole
        segments.append(
            {
                "name": name,
                "x": round(x, 1),
                "width": round(share * width, 1),
                "share": share,
                "series": index + 1,
            }
        )
        x += share * width
    return {"width": width, "height": height, "segments": segments}


def _ticks(scale: Scale) -> list[dict[str, Any]]:
    return [{"at": scale(value), "label": f"{value:g}"} for value in scale.ticks]
