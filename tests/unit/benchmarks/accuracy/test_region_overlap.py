"""Areas under the overlap of single regions, and the curve, against arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import auc

from dinspect_bench.accuracy.pixel_scores import PixelScores
from dinspect_bench.accuracy.region_overlap import pro_curve, region_areas
from dinspect_bench.errors import MetricError


def scores_of(normal, *regions):
    return PixelScores(
        np.sort(np.float32(normal)), tuple(np.sort(np.float32(one)) for one in regions)
    )


TEN = range(10)


@pytest.mark.parametrize(
    ("defect", "limit", "area"),
    [
        (10, 0.3, 1),  # above all normal pixels
        (8.5, 0.3, 2 / 3),  # one above it: the step is at a tenth
        (8.5, 1.0, 0.9),
        (7.5, 0.05, 0),  # found later than the limit
        (6.5, 0.3, 0),  # found exactly there
        (-1, 0.3, 0),
        (-1, 1.0, 0),
        (9, 0.1, 0.5),  # tied with the highest: a slope from 0 to a tenth
        (9, 0.05, 0.25),  # cut half way up, where it is one half
        (9, 0.3, 5 / 6),  # the slope, then two tenths in full
        (7, 0.25, 0.05),  # a slope from two tenths, cut at its half
        (0, 1.0, 0.05),
    ],
)
def test_area_of_one_pixel_among_ten_normal_ones(defect, limit, area):
    found = region_areas(scores_of(TEN, [defect]), [limit])
    assert found == pytest.approx(np.array([[area]]), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equal_scores_everywhere_make_the_diagonal(limit):
    found = region_areas(scores_of([4] * 7, [4, 4, 4]), [limit])
    assert found == pytest.approx(np.array([[limit / 2]]))


def test_a_region_is_the_mean_of_its_pixels_and_keeps_its_place():
    scores = scores_of(TEN, [10, 8.5, -1, -1], [8.5], [10])
    assert region_areas(scores, [0.3, 1.0]) == pytest.approx(
        np.array([[5 / 12, 1.9 / 4], [2 / 3, 0.9], [1, 1]])
    )


def test_scores_next_to_each_other_in_float32_are_told_apart():
    one = np.float32(1)
    just_above = np.nextafter(one, np.float32(2))
    assert region_areas(scores_of([one], [just_above]), [0.3]) == pytest.approx(1)
    assert region_areas(scores_of([just_above], [one]), [0.3]) == pytest.approx(0)


def test_zero_has_no_sign():
    assert region_areas(scores_of([0.0, -0.0], [-0.0, 0.0]), [1.0]) == pytest.approx(0.5)


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, float("nan")])
def test_limits_out_of_range_are_refused(limit):
    with pytest.raises(MetricError, match=rf"limit {limit} .* must lie in \(0, 1\]"):
        region_areas(scores_of(TEN, [1]), [0.3, limit])


def test_curve_of_few_pixels_has_all_its_points():
    scores = scores_of([1, 2, 2, 5], [6, 2], [0])
    # At 6 half of one region of two, then nothing new at 5, the rest of it at 2, the other at 0.
    assert pro_curve(scores) == [
        (0, 0),
        (0, 0.25),
        (0.25, 0.25),
        (0.75, 0.5),
        (1, 0.5),
        (1, 1),
    ]


def test_curve_of_a_perfect_map_has_the_corner():
    assert pro_curve(scores_of([1], [2])) == [(0, 0), (0, 1), (1, 1)]


def test_curve_slopes_from_the_origin_where_the_highest_scores_tie():
    assert pro_curve(scores_of([1, 2, 3, 3], [3])) == [(0, 0), (0.5, 1), (0.75, 1), (1, 1)]


def test_curve_has_few_points_that_all_lie_on_it_and_enclose_its_area():
    generator = np.random.default_rng(3)
    normal = generator.normal(0, 1, 20_000)
    scores = scores_of(normal, generator.normal(2, 1, 900), generator.normal(1, 2, 30))
    points = pro_curve(scores)
    assert 250 < len(points) <= 300
    assert points == sorted(points)
    assert points[0] == (0, 0)
    assert points[-1] == (1, 1)
    assert sum(rate <= 0.05 for rate, _ in points) > 60
    for rate, overlap in points[2:-1]:
        threshold = np.sort(scores.normal)[::-1][round(rate * 20_000) - 1]
        shares = [float((region >= threshold).mean()) for region in scores.regions]
        assert overlap == pytest.approx(np.mean(shares))
    area = auc(*np.transpose(points))
    assert area == pytest.approx(region_areas(scores, [1.0]).mean(), abs=1e-3)


@pytest.mark.parametrize("max_points", [4, 5, 50])
def test_curve_keeps_to_the_number_of_points_it_is_given(max_points):
    points = pro_curve(scores_of(range(1000), range(-100, 1100, 7)), max_points)
    assert len(points) == max_points
