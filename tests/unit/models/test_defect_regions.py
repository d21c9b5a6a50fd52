"""Defects as connected regions of the map, and scores without the small ones."""

from __future__ import annotations

import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from defect_regions import (
    MAX_REGIONS,
    DefectRegion,
    brought_to,
    defect_regions,
    without_small_defects,
)
from map_operator import anomaly_map


def drawn(*rows):
    """A map from a drawing: a digit is so many tenths, a dot nothing."""
    values = [[0 if cell == "." else int(cell) for cell in row] for row in rows]
    return np.array(values, np.float32) / np.float32(10)


def found(map_, threshold=0.15, min_area_px=0):
    regions = defect_regions(map_, threshold, min_area_px)
    return [(r.box_px, r.area_px, round(r.peak, 4), r.peak_at_px) for r in regions]


def test_box_area_and_peak_by_hand():
    map_ = drawn(
        "........",
        "..24....",
        "..3.....",
        "........",
    )
    assert found(map_) == [((2, 1, 2, 2), 3, 0.4, (3, 1))]


def test_regions_are_told_by_their_peak_the_highest_first():
    map_ = drawn(
        "2...9...",
        "2...2...",
        "........",
        "55......",
        "55....7.",
    )
    assert found(map_) == [
        ((4, 0, 1, 2), 2, 0.9, (4, 0)),
        ((6, 4, 1, 1), 1, 0.7, (6, 4)),
        ((0, 3, 2, 2), 4, 0.5, (0, 3)),
        ((0, 0, 1, 2), 2, 0.2, (0, 0)),
    ]


def test_pixels_that_touch_at_a_corner_are_one_region():
    assert found(drawn("2...", ".3..", "..4.", "....")) == [((0, 0, 3, 3), 3, 0.4, (2, 2))]
    assert found(drawn("..2.", ".3..", "4...", "....")) == [((0, 0, 3, 3), 3, 0.4, (0, 2))]
    assert len(found(drawn("2.3.", "....", "4...", "...."))) == 3


def test_a_higher_peak_of_another_region_in_the_box_is_not_its_own():
    map_ = drawn(
        "22222",
        "2....",
        "2..9.",
        "2....",
        "4....",
    )
    assert found(map_) == [((3, 2, 1, 1), 1, 0.9, (3, 2)), ((0, 0, 5, 5), 9, 0.4, (0, 4))]


def test_equal_peaks_are_told_row_by_row():
    regions = found(drawn("5.5.", "....", "5.55"))
    assert [region[3] for region in regions] == [(0, 0), (2, 0), (0, 2), (2, 2)]
    assert regions[3] == ((2, 2, 2, 1), 2, 0.5, (2, 2))


def test_what_equals_the_threshold_is_no_defect():
    map_ = drawn("2233")
    assert found(map_, threshold=float(np.float32(0.2))) == [((2, 0, 2, 1), 2, 0.3, (2, 0))]
    assert found(map_, threshold=float(np.float32(0.3))) == []


def test_regions_below_the_smallest_area_are_left_out():
    map_ = drawn("9...", "....", "22..", "2...")
    assert [region[1] for region in found(map_, min_area_px=1)] == [1, 3]
    assert [region[1] for region in found(map_, min_area_px=3)] == [3]
    assert found(map_, min_area_px=4) == []


def test_no_more_than_the_highest_are_told():
    map_ = np.zeros((40, 40), np.float32)
    peaks = np.random.default_rng(0).permutation(400).reshape(20, 20) + 1
    map_[::2, ::2] = peaks
    regions = defect_regions(map_, 0.5)
    assert MAX_REGIONS == 100
    assert [region.peak for region in regions] == list(range(400, 300, -1))


def test_the_whole_image_may_be_one_defect():
    assert found(np.full((30, 50), 0.7, np.float32)) == [((0, 0, 50, 30), 1500, 0.7, (0, 0))]


@pytest.mark.parametrize("value", [0.0, 0.15, np.nan])
def test_a_map_without_defects_has_no_regions(value):
    assert found(np.full((30, 50), value, np.float32)) == []


def test_regions_are_json():
    region = defect_regions(drawn(".3", "3."), 0.1)[0]
    assert region == DefectRegion((0, 0, 2, 2), 2, pytest.approx(0.3), (1, 0))
    assert json.loads(json.dumps(asdict(region))) == {
        "box_px": [0, 0, 2, 2],
        "area_px": 2,
        "peak": pytest.approx(0.3),
        "peak_at_px": [1, 0],
    }


GRID = (8, 10)
SIZE = (224, 280)  # patches of 28 px


def with_a_spike(grid=GRID, at=(3, 4), value=1.0, rest=0.05):
    distances = np.full(grid, rest, np.float32)
    distances[at] = value
    return distances


def spike_area(distances, size, threshold=0.2):
    regions = defect_regions(anomaly_map(distances, size), threshold)
    assert len(regions) == 1
    return regions[0].area_px


def test_a_defect_counts_from_the_smallest_area_on():
    distances = with_a_spike()
    area = spike_area(distances, SIZE)
    assert 20**2 < area < 60**2  # about a patch
    kept = without_small_defects(distances, SIZE, 0.2, area)
    assert np.array_equal(kept, distances)
    dropped = without_small_defects(distances, SIZE, 0.2, area + 1)
    assert dropped[3, 4] == 0
    assert dropped.max() == np.float32(0.05)  # the score falls to the rest
    assert (dropped == 0).sum() == 1
    assert distances[3, 4] == 1  # what was given is unchanged


def test_a_large_defect_stays_when_a_small_one_goes():
    distances = with_a_spike(at=(1, 1))
    distances[4:7, 5:9] = 0.8
    areas = [r.area_px for r in defect_regions(anomaly_map(distances, SIZE), 0.2)]
    assert len(areas) == 2
    found = without_small_defects(distances, SIZE, 0.2, max(areas))
    assert found[1, 1] == 0
    assert np.array_equal(found[4:7, 5:9], distances[4:7, 5:9])
    assert (found == 0).sum() == 1


def test_what_is_above_no_threshold_stays_however_small():
    distances = with_a_spike(value=0.15)
    assert np.array_equal(without_small_defects(distances, SIZE, 0.2, 10_000), distances)


def test_patches_outside_every_region_stay():
    """The background of the labels is a region too; its area must not matter."""
    distances = np.full(GRID, 0.9, np.float32)
    distances[0, 0] = 0.1
    found = without_small_defects(distances, SIZE, 0.3, 2000)
    assert np.array_equal(found, distances)


@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((32, 42), (300, 400)),  # cropped at the right
        ((42, 32), (400, 300)),  # and below
        ((32, 42), (1512, 2016)),
        ((32, 32), (300, 300)),
        ((8, 10), (97, 121)),
        ((5, 7), (70, 98)),
    ],
)
def test_the_patch_under_the_region_is_the_one_that_goes(grid, size):
    last = (grid[0] - 1, grid[1] - 1)
    for at in ((0, 0), (0, last[1]), (last[0], 0), last, (grid[0] // 2, grid[1] // 3)):
        distances = with_a_spike(grid, at)
        peak = float(anomaly_map(distances, size).max())
        threshold = 0.05 + 0.9 * (peak - 0.05)
        found = without_small_defects(distances, size, threshold, size[0] * size[1])
        assert np.argwhere(found == 0).tolist() == [list(at)]


def test_a_defect_of_two_patches_goes_as_a_whole():
    """Where patches are small for the smoothing, the peak of two equal ones lies between them."""
    size = (64, 80)
    distances = np.full(GRID, 0.02, np.float32)
    distances[3, 4:6] = 1.0
    distances[3, 6] = 0.1
    threshold = 0.97 * float(anomaly_map(distances, size).max())
    assert [r.area_px for r in defect_regions(anomaly_map(distances, size), threshold)] < [30]
    found = without_small_defects(distances, size, threshold, 30)
    assert np.argwhere(found == 0).tolist() == [[3, 4], [3, 5]]
    assert found[3, 6] == np.float32(0.1)  # beside it, and below the threshold


def test_a_patch_of_a_large_defect_stays_beside_a_small_one():
    distances = np.full(GRID, 0.0, np.float32)
    distances[:3] = 0.8
    distances[5, 4] = 1.0
    regions = defect_regions(anomaly_map(distances, SIZE), 0.3)
    large, small = sorted((r.area_px for r in regions), reverse=True)
    assert small < 2000 < large
    found = without_small_defects(distances, SIZE, 0.3, 2000)
    assert np.array_equal(found[:3], distances[:3])
    assert found[3:].max() == 0


def test_a_number_that_is_none_is_never_dropped():
    distances = with_a_spike(value=np.nan)
    found = without_small_defects(distances, SIZE, 0.0, 10**9)
    assert np.isnan(found[3, 4])


@pytest.mark.parametrize("factor", [0.5, 1, 3])
def test_regions_are_brought_to_another_size_of_the_same_map(factor):
    small = np.zeros((40, 60), np.float32)
    small[10:20, 30:36] = 0.5
    small[30:32, 4:8] = 0.9
    found = defect_regions(small, 0.3)
    size = (int(40 * factor), int(60 * factor))
    other = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
    brought = brought_to(found, (40, 60), other)
    assert brought == defect_regions(other, 0.3)


def test_region_smaller_than_a_pixel_of_the_other_size_stays_one_pixel():
    large = np.zeros((40, 60), np.float32)
    large[39, 59] = 0.9
    small = np.zeros((4, 6), np.float32)
    (region,) = brought_to(defect_regions(large, 0.3), (40, 60), small)
    assert (region.box_px, region.area_px, region.peak_at_px) == ((5, 3, 1, 1), 1, (5, 3))
