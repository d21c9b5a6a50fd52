"""How pixels are parted by the ground truth, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dinspect_bench.accuracy.pixel_scores import collect_pixel_scores
from dinspect_bench.errors import MetricError

SCORES = np.arange(12, dtype=np.float32).reshape(3, 4)
NO_DEFECT = np.zeros((3, 4), dtype=bool)


def mask_of(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


ONE_PIXEL = mask_of("....", ".#..", "....")


def regions_of(score_map, mask):
    return sorted(region.tolist() for region in collect_pixel_scores([score_map], [mask]).regions)


def test_pixels_are_parted_by_the_mask_and_sorted():
    scores = collect_pixel_scores([SCORES[::-1], 100 + SCORES], [ONE_PIXEL, NO_DEFECT])
    assert scores.normal.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, *range(100, 112)]
    assert [region.tolist() for region in scores.regions] == [[5]]
    assert scores.normal.dtype == scores.regions[0].dtype == np.float32


def test_regions_touch_by_side_or_corner():
    mask = mask_of("#..#", ".#..", "...#")
    assert regions_of(SCORES, mask) == [[0, 5], [3], [11]]


def test_regions_of_a_comb_are_one():
    """Its teeth are met one by one and joined only in the last row."""
    mask = mask_of("#.#.", "#.#.", "###.")
    assert regions_of(SCORES, mask) == [[0, 2, 4, 6, 8, 9, 10]]


def test_a_region_is_sorted():
    assert regions_of(-SCORES, mask_of("....", "####", "....")) == [[-7, -6, -5, -4]]


def test_regions_of_two_images_stay_apart():
    scores = collect_pixel_scores([SCORES, 100 + SCORES], [ONE_PIXEL, ONE_PIXEL])
    assert [region.tolist() for region in scores.regions] == [[5], [105]]
    assert scores.region_sizes_px.tolist() == [1, 1]


def test_sizes_are_in_the_order_of_the_regions():
    scores = collect_pixel_scores([SCORES], [mask_of("##..", "....", "...#")])
    assert scores.region_sizes_px.tolist() == [region.size for region in scores.regions]
    assert sorted(scores.region_sizes_px) == [1, 2]


def test_maps_may_differ_in_size():
    wide = np.full((1, 9), 50, dtype=np.float32)
    scores = collect_pixel_scores([wide, SCORES], [np.zeros((1, 9), dtype=bool), ONE_PIXEL])
    assert scores.normal.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, *[50] * 9]


def test_a_mask_may_cover_a_whole_image():
    scores = collect_pixel_scores([SCORES, SCORES], [~NO_DEFECT, NO_DEFECT])
    assert scores.normal.tolist() == scores.regions[0].tolist() == list(range(12))


def test_views_that_are_not_contiguous_are_read_as_they_look():
    plain = collect_pixel_scores([SCORES.T.copy()], [ONE_PIXEL.T.copy()])
    turned = collect_pixel_scores([SCORES.T], [ONE_PIXEL.T])
    assert turned.normal.tolist() == plain.normal.tolist()
    assert turned.regions[0].tolist() == plain.regions[0].tolist() == [5]


def test_a_map_that_is_read_only_stays_as_it_is():
    frozen = SCORES[::-1].copy()
    frozen.setflags(write=False)
    collect_pixel_scores([frozen], [ONE_PIXEL])
    assert frozen.tolist() == SCORES[::-1].tolist()


def test_thresholds_count_the_normal_pixels_they_call_defective():
    scores = collect_pixel_scores([np.float32([[1, 2, 2, 3, 9]])], [mask_of("....#")])
    thresholds = np.float32([0, 2, 2.5, 3, 9])
    assert scores.num_false_positives(thresholds).tolist() == [4, 3, 1, 1, 0]
    assert scores.num_normal_above(thresholds).tolist() == [4, 1, 1, 0, 0]


class LoadedWhenAsked:
    """A sequence that notes which of its items were asked for; a fake only in that."""

    def __init__(self, items):
        self.items, self.asked = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.items[index].copy()


def test_each_map_and_mask_is_loaded_once_and_in_order():
    maps = LoadedWhenAsked([SCORES, SCORES, SCORES])
    masks = LoadedWhenAsked([NO_DEFECT, ONE_PIXEL, NO_DEFECT])
    collect_pixel_scores(maps, masks)
    assert maps.asked == masks.asked == [0, 1, 2]


def test_nothing_at_all_is_refused():
    with pytest.raises(MetricError, match="there are no maps; give"):
        collect_pixel_scores([], [])


def test_maps_and_masks_must_pair_up():
    with pytest.raises(MetricError, match="2 maps and 1 masks must pair up"):
        collect_pixel_scores([SCORES, SCORES], [ONE_PIXEL])


@pytest.mark.parametrize(
    ("mask", "missing"), [(NO_DEFECT, "is defective"), (~NO_DEFECT, "is normal")]
)
def test_both_classes_are_needed(mask, missing):
    with pytest.raises(MetricError, match=f"no pixel of the 2 masks {missing}"):
        collect_pixel_scores([SCORES, SCORES], [mask, mask])


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mask", [NO_DEFECT, ~NO_DEFECT])
def test_a_score_that_is_no_number_is_named_by_its_place(score, mask):
    broken = SCORES.copy()
    broken[2, 1] = broken[2, 3] = score
    with pytest.raises(MetricError, match=f"score {score} of map 1 at row 2, column 1 is not"):
        collect_pixel_scores([SCORES, broken], [ONE_PIXEL, mask])


@pytest.mark.parametrize(
    ("score_map", "shape"),
    [(SCORES.T, r"\(4, 3\)"), (SCORES[None], r"\(1, 3, 4\)"), (SCORES[:, :1], r"\(3, 1\)")],
)
def test_a_map_of_another_shape_than_its_mask_is_named(score_map, shape):
    with pytest.raises(MetricError, match=rf"map 1 has shape {shape} and its mask \(3, 4\)"):
        collect_pixel_scores([SCORES, score_map], [ONE_PIXEL, NO_DEFECT])


def test_a_map_and_a_mask_with_channels_are_refused():
    with pytest.raises(MetricError, match=r"map 0 has shape \(3, 4, 1\)"):
        collect_pixel_scores([SCORES[..., None]], [ONE_PIXEL[..., None]])


@pytest.mark.parametrize(
    ("score_map", "mask", "found"),
    [
        (SCORES.astype(np.float64), ONE_PIXEL, "float64 and bool"),
        (SCORES, ONE_PIXEL.astype(np.uint8), "float32 and uint8"),
    ],
)
def test_other_types_are_refused_and_not_rounded(score_map, mask, found):
    with pytest.raises(MetricError, match=f"map and mask 1 are {found}, expected float32 and bool"):
        collect_pixel_scores([SCORES, score_map], [ONE_PIXEL, mask])
