"""Geometry of the plots."""

from __future__ import annotations

import math

import pytest

from dinspect_bench.plots import (
    DOT_RADIUS,
    beeswarm,
    cut_off,
    line_plot,
    roc_plot,
    sample_plot,
    scale_for,
    score_plot,
    stacked_bar,
)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 1.0], (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([0.013, 0.228], (0, 0.05, 0.1, 0.15, 0.2, 0.25)),
        ([95.0, 104.0], (94, 96, 98, 100, 102, 104)),
        ([5.0, 5.0], (5, 6)),
        ([0.0, 0.0], (0, 0.2)),
    ],
)
def test_scales_have_round_ends_that_enclose_the_values(values, ticks):
    scale = scale_for(values, 0, 100)
    assert scale.ticks == pytest.approx(ticks)
    assert (scale(scale.low), scale(scale.high)) == (0, 100)
    assert scale.low <= min(values)
    assert scale.high >= max(values)


def test_a_scale_may_start_at_zero_and_grow_upwards():
    scale = scale_for([95.0, 104.0], 200, 0, from_zero=True)
    assert scale(0) == 200
    assert scale(scale.high) == 0


def test_beeswarm_keeps_dots_apart_and_repeats_itself():
    xs = [50 + 0.7 * (i % 9) for i in range(40)]
    offsets = beeswarm(xs, 200)
    points = list(zip(xs, offsets, strict=True))
    gaps = [math.dist(a, b) for i, a in enumerate(points) for b in points[:i]]
    assert min(gaps) >= 2 * DOT_RADIUS
    assert offsets == beeswarm(xs, 200)


def test_beeswarm_stays_inside_its_row():
    assert max(abs(offset) for offset in beeswarm([10.0] * 50, 20)) <= 20


def test_score_plot_puts_each_image_at_its_score():
    images = [
        {"file": "a", "label": "functional", "score": 0.0, "verdict": "normal"},
        {"file": "b", "label": "defective", "score": 1.0, "verdict": "anomalous"},
    ]
    plot = score_plot(images, 0.5)
    good, bad = plot["dots"]
    assert (good["x"], bad["x"]) == (plot["left"], plot["right"])
    assert good["y"] < bad["y"]
    assert plot["threshold_x"] == pytest.approx((plot["left"] + plot["right"]) / 2)


def test_roc_plot_draws_detection_upwards():
    plot = roc_plot([[0, 0], [0, 1], [1, 1]], (0.0, 1.0))
    assert plot["point"] == (plot["left"], plot["top"])
    assert plot["line"].split()[0] == f"{plot['left']},{plot['bottom']}"
    assert plot["area"].split()[-1] == f"{plot['right']},{plot['bottom']}"


def test_sample_plot_keeps_the_order_and_moves_labels_apart():
    plot = sample_plot([100.0, 101.0, 250.0], {"p50": 101.0, "p99": 102.0})
    assert [dot["ms"] for dot in plot["dots"]] == [100.0, 101.0, 250.0]
    xs = [dot["x"] for dot in plot["dots"]]
    assert xs == sorted(xs)
    p50, p99 = plot["lines"]
    assert p50["label_y"] - p99["label_y"] >= 14.9
    far = sample_plot([1.0, 250.0], {"p50": 1.0, "p99": 250.0})["lines"]
    assert all(line["label_y"] == line["y"] for line in far)


def test_stacked_bar_shares_out_the_whole_and_ignores_noise_below_zero():
    bar = stacked_bar([("a", 30.0), ("noise", -0.1), ("b", 70.0)])
    assert [segment["share"] for segment in bar["segments"]] == pytest.approx([0.3, 0, 0.7])
    last = bar["segments"][-1]
    assert last["x"] + last["width"] == pytest.approx(bar["width"], abs=0.2)


def test_line_plot_draws_every_series_over_one_pair_of_axes():
    plot = line_plot(
        [("a", [(224, 10.0), (448, 20.0)]), ("b", [(224, 40.0), (672, 5.0)])], with_dots=True
    )
    assert [(line["name"], line["series"]) for line in plot["lines"]] == [("a", 2), ("b", 3)]
    first, second = (line["dots"] for line in plot["lines"])
    assert [(dot["at"], dot["value"]) for dot in first] == [(224, 10.0), (448, 20.0)]
    assert first[0]["x"] == second[0]["x"] < first[1]["x"] < second[1]["x"] <= plot["right"]
    assert second[0]["y"] < first[1]["y"] < first[0]["y"] < second[1]["y"] < plot["bottom"]
    points = " ".join(f"{dot['x']},{dot['y']}" for dot in first)
    assert plot["lines"][0]["points"] == points
    assert plot["y_ticks"][0] == {"at": plot["bottom"], "label": "0"}


def test_line_plot_keeps_to_its_ranges_and_draws_no_dots_unless_asked():
    plot = line_plot([("a", [(0, 0), (0.2, 0.5), (1, 1)])], x_range=(0, 0.3), y_range=(0, 1))
    corners = [tuple(map(float, p.split(","))) for p in plot["lines"][0]["points"].split()]
    assert corners[0] == (plot["left"], plot["bottom"])
    assert corners[-1][0] == plot["right"]
    assert len(corners) == 3
    assert plot["lines"][0]["dots"] == []
    assert (plot["x_ticks"][-1]["label"], plot["y_ticks"][-1]["label"]) == ("0.3", "1")


@pytest.mark.parametrize(
    ("points", "limit", "kept"),
    [
        ([(0, 0), (0.2, 0.6), (0.4, 0.8)], 0.3, [(0, 0), (0.2, 0.6), (0.3, 0.7)]),
        ([(0, 0), (0.3, 0.6), (0.4, 0.8)], 0.3, [(0, 0), (0.3, 0.6), (0.3, 0.6)]),
        ([(0, 0), (0.2, 0.6)], 0.3, [(0, 0), (0.2, 0.6)]),
        ([(0.4, 0.5), (1, 1)], 0.3, []),
        ([(0, 0), (0, 1), (1, 1)], 0.5, [(0, 0), (0, 1), (0.5, 1)]),
    ],
)
def test_line_is_cut_off_at_its_limit(points, limit, kept):
    cut = cut_off(points, limit)
    assert len(cut) == len(kept)
    for found, wanted in zip(cut, kept, strict=True):
        assert found == pytest.approx(wanted)
