"""Segmentation figures against the slow reference, scikit-learn and cases done by hand."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from reference import pixel_metrics_reference as reference
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from dinspect_bench.accuracy.pixel_metrics import measure_pixels
from dinspect_bench.accuracy.pixel_scores import collect_pixel_scores
from dinspect_bench.accuracy.region_overlap import region_areas
from dinspect_bench.errors import MetricError

CLOSE = {"rel": 0, "abs": 1e-6}


def random_class(seed, num_levels=None, shapes=((9, 12), (14, 7), (10, 10), (8, 8))):
    """Maps with a defect's scores raised in part, the last image good.

    Args:
        seed: Of the random numbers.
        num_levels: Distinct scores at most; None for as many as there are pixels.
        shapes: Of the images.
    """
    generator = np.random.default_rng(seed)
    maps, masks = [], []
    for index, shape in enumerate(shapes):
        mask = np.zeros(shape, dtype=bool)
        for _ in range(3 if index < len(shapes) - 1 else 0):
            row, column = generator.integers(0, shape)
            height, width = generator.integers(1, 5, 2)
            mask[row : row + height, column : column + width] = True
        score_map = generator.normal(0, 1, shape) + mask * generator.normal(0.7, 1.5, shape)
        if num_levels:
            score_map = np.round((score_map + 5) / 10 * num_levels) / num_levels
        maps.append(score_map.astype(np.float32))
        masks.append(mask)
    return maps, masks


def assert_equal_to_reference(maps, masks):
    found = measure_pixels(maps, masks)
    at_30, at_05 = (reference.aupro_quartiles(maps, masks, limit) for limit in (0.3, 0.05))
    assert found.pixel_auroc == pytest.approx(reference.pixel_auroc(maps, masks), **CLOSE)
    assert found.pixel_f1_max == pytest.approx(reference.pixel_f1_max(maps, masks), **CLOSE)
    assert found.pixel_average_precision == pytest.approx(
        reference.pixel_average_precision(maps, masks), **CLOSE
    )
    assert found.aupro_30 == pytest.approx(reference.aupro(maps, masks, 0.3), **CLOSE)
    assert found.aupro_05 == pytest.approx(reference.aupro(maps, masks, 0.05), **CLOSE)
    assert found.aupro_30_quartiles == pytest.approx(at_30, **CLOSE)
    assert found.aupro_05_quartiles == pytest.approx(at_05, **CLOSE)
    if at_30[3] > 0:
        assert found.robustness_30 == pytest.approx(reference.robustness(at_30), **CLOSE)
    if at_05[3] > 0:
        assert found.robustness_05 == pytest.approx(reference.robustness(at_05), **CLOSE)
    assert found.num_regions == sum(len(reference.regions_of(mask)) for mask in masks)
    assert found.quartile_bounds_px == pytest.approx(reference.size_bounds_px(masks))


@pytest.mark.parametrize("num_levels", [None, 200, 20, 4, 2])
@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_reference(seed, num_levels):
    """Distinct scores, then ever more ties; sizes differ, regions touch borders and corners."""
    assert_equal_to_reference(*random_class(seed, num_levels))


def test_reference_knows_an_area_done_by_hand():
    """It must be right itself: one pixel tied with the highest of ten normal ones."""
    maps = [np.float32([[*range(10), 9]])]
    masks = [np.array([[False] * 10 + [True]])]
    assert reference.pro_points(maps, masks)[0][:3] == [0, 0.1, 0.2]
    assert reference.aupro(maps, masks, 0.05) == pytest.approx(0.25)
    assert reference.aupro(maps, masks, 0.3) == pytest.approx(5 / 6)


HAND_MADE_MASKS = {
    "one pixel": ["....", ".#..", "...."],
    "all but one pixel": ["####", "####", "###."],
    "a frame": ["####", "#..#", "####"],
    "a chessboard": ["#.#.", ".#.#", "#.#."],
}


@pytest.mark.parametrize("rows", HAND_MADE_MASKS.values(), ids=HAND_MADE_MASKS)
@pytest.mark.parametrize("order", [1, -1])
def test_shapes_of_defects_by_the_reference(rows, order):
    mask = np.array([[character == "#" for character in row] for row in rows])
    score_map = order * np.arange(12, dtype=np.float32).reshape(3, 4)
    assert_equal_to_reference([score_map], [mask])


def test_a_whole_image_may_be_a_defect():
    generator = np.random.default_rng(8)
    maps = list(generator.normal(0, 1, (2, 6, 7)).astype(np.float32))
    maps[0] += 1
    masks = [np.ones((6, 7), dtype=bool), np.zeros((6, 7), dtype=bool)]
    assert_equal_to_reference(maps, masks)
    assert measure_pixels(maps, masks).num_regions == 1


def test_equal_scores_everywhere_are_guessing():
    maps = [np.full((4, 5), 3, dtype=np.float32)] * 2
    masks = [np.zeros((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)]
    masks[0][:2] = True  # a quarter of all pixels
    found = measure_pixels(maps, masks)
    assert_equal_to_reference(maps, masks)
    assert found.pixel_auroc == 0.5
    assert (found.aupro_30, found.aupro_05) == pytest.approx((0.15, 0.025))
    assert found.pixel_average_precision == pytest.approx(0.25)
    assert found.pixel_f1_max == pytest.approx(2 * 0.25 / 1.25)


def test_perfect_maps_have_perfect_figures():
    _, masks = random_class(1)
    found = measure_pixels([mask.astype(np.float32) for mask in masks], masks)
    figures = found.to_record()
    del figures["num_regions"], figures["quartile_bounds_px"]
    assert set(figures.values()) == {1.0}


def test_upside_down_maps_find_nothing():
    _, masks = random_class(1)
    found = measure_pixels([-mask.astype(np.float32) for mask in masks], masks)
    assert found.pixel_auroc == found.aupro_30 == found.aupro_05 == 0
    assert found.robustness_30 == found.robustness_05 == 0
    share = np.mean(np.concatenate([mask.ravel() for mask in masks]))
    assert found.pixel_average_precision == pytest.approx(share)


@pytest.mark.parametrize("num_levels", [None, 30])
def test_figures_are_those_of_scikit_learn(num_levels):
    maps, masks = random_class(11, num_levels, shapes=((150, 220), (90, 80), (200, 120)))
    scores = np.concatenate([one.ravel() for one in maps])
    truth = np.concatenate([mask.ravel() for mask in masks])
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    found = measure_pixels(maps, masks)
    assert found.pixel_auroc == pytest.approx(roc_auc_score(truth, scores), **CLOSE)
    assert found.pixel_f1_max == pytest.approx(f1.max(), **CLOSE)
    assert found.pixel_average_precision == pytest.approx(
        average_precision_score(truth, scores), **CLOSE
    )


@pytest.mark.parametrize("limit", [0.05, 0.3])
def test_area_of_a_region_is_scikit_learns_partial_roc(limit):
    """It standardises the area between that of guessing and that of a perfect curve (McClish)."""
    maps, masks = random_class(12, 40)
    scores = collect_pixel_scores(maps, masks)
    for region, area in zip(scores.regions, region_areas(scores, [limit])[:, 0], strict=True):
        truth = np.repeat([True, False], [region.size, scores.normal.size])
        standardised = roc_auc_score(truth, np.concatenate([region, scores.normal]), max_fpr=limit)
        guessing = limit / 2
        assert area == pytest.approx(guessing + (2 * standardised - 1) * (1 - guessing), **CLOSE)


def test_larger_defects_are_no_false_positives_of_the_smaller_ones_bin():
    """A large defect that scores highest leaves Q1 as it is without that defect's pixels."""
    score_map = np.zeros((8, 8), dtype=np.float32)
    mask = np.zeros((8, 8), dtype=bool)
    mask[0, 0] = mask[0, 3] = mask[0, 6] = True
    mask[3:, :] = True
    score_map[3:, :] = 9
    score_map[0, 0] = score_map[0, 3] = score_map[0, 6] = 5
    found = measure_pixels([score_map], [mask])
    assert found.quartile_bounds_px == (1, 1, 10.75, 40)
    assert found.aupro_30_quartiles == (1, 1, 1, 1)


def test_a_small_defect_counts_as_much_as_a_large_one():
    """The large one is found, the pixel is not: half the overlap, nearly all of the pixels."""
    score_map = np.ones((10, 10), dtype=np.float32)
    mask = np.zeros((10, 10), dtype=bool)
    mask[:5], mask[9, 9] = True, True
    score_map[:5], score_map[9, 9] = 2, 0
    found = measure_pixels([score_map], [mask])
    assert found.aupro_30 == pytest.approx(0.5)
    assert found.pixel_auroc == pytest.approx(50 / 51)
    assert found.aupro_30_quartiles == pytest.approx((0, 0, 0, 0.5))


def test_good_images_count_as_normal_pixels():
    maps, masks = random_class(5)
    better = measure_pixels([*maps[:-1], maps[-1] - 10], masks)
    worse = measure_pixels([*maps[:-1], maps[-1] + 10], masks)
    without = measure_pixels(maps[:-1], masks[:-1])
    assert worse.aupro_30 < without.aupro_30 < better.aupro_30
    assert worse.pixel_auroc < without.pixel_auroc < better.pixel_auroc


def test_order_of_images_and_scale_of_scores_do_not_matter():
    maps, masks = random_class(6)
    record = measure_pixels(maps, masks).to_record()
    turned = measure_pixels(maps[::-1], masks[::-1]).to_record()
    scaled = measure_pixels([np.exp2(one) for one in maps], masks).to_record()
    for other in (turned, scaled):
        assert other.pop("quartile_bounds_px") == record["quartile_bounds_px"]
        assert other == pytest.approx({name: record[name] for name in other})


def test_a_shifted_mask_and_maps_of_other_images_lower_every_figure():
    generator = np.random.default_rng(2)
    maps, masks = [], []
    for _ in range(6):
        mask = np.zeros((40, 60), dtype=bool)
        row, column = generator.integers(2, 28), generator.integers(2, 40)
        mask[row : row + 8, column : column + 10] = True
        maps.append(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2) + 1)
        masks.append(mask)
    right = measure_pixels(maps, masks)
    shifted = measure_pixels(maps, [np.roll(mask, 9, axis=1) for mask in masks])
    swapped = measure_pixels(maps[1:] + maps[:1], masks)
    for wrong in (shifted, swapped):
        assert wrong.aupro_30 < right.aupro_30 - 0.2
        assert wrong.aupro_05 < right.aupro_05 - 0.2
        assert wrong.pixel_f1_max < right.pixel_f1_max - 0.2
        assert wrong.pixel_average_precision < right.pixel_average_precision - 0.2
        assert wrong.pixel_auroc < right.pixel_auroc - 0.05


def test_record_has_the_figures_flat_and_is_json():
    found = measure_pixels(*random_class(7))
    record = found.to_record()
    assert set(record) == {
        "pixel_auroc", "pixel_f1_max", "pixel_average_precision", "aupro_30", "aupro_05",
        "aupro_30_q1", "aupro_30_q2", "aupro_30_q3", "aupro_30_q4",
        "aupro_05_q1", "aupro_05_q2", "aupro_05_q3", "aupro_05_q4",
        "robustness_30", "robustness_05", "num_regions", "quartile_bounds_px",
    }  # fmt: skip
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    for limit in ("30", "05"):
        quartiles = [record[f"aupro_{limit}_q{number}"] for number in (1, 2, 3, 4)]
        assert quartiles == list(getattr(found, f"aupro_{limit}_quartiles"))
        assert quartiles[3] == record[f"aupro_{limit}"]
        assert len(set(quartiles)) == 4
    assert record["robustness_30"] == found.robustness_30 != found.robustness_05
    assert record["robustness_05"] == found.robustness_05


def test_curve_goes_with_the_figures():
    maps, masks = random_class(7)
    found = measure_pixels(maps, masks)
    exact = np.transpose(reference.pro_points(maps, masks))
    assert 100 < len(found.pro_curve) <= 300
    for point in found.pro_curve:
        assert np.abs(exact - point).sum(axis=1).min() < 1e-9
    assert json.loads(json.dumps(found.pro_curve)) == [list(point) for point in found.pro_curve]


def test_what_cannot_be_measured_is_an_error():
    maps, masks = random_class(9)
    with pytest.raises(MetricError, match="no pixel of the 4 masks is defective"):
        measure_pixels(maps, [np.zeros_like(mask) for mask in masks])
    with pytest.raises(MetricError, match="no pixel of the 4 masks is normal"):
        measure_pixels(maps, [np.ones_like(mask) for mask in masks])
    with pytest.raises(MetricError, match="there are no maps"):
        measure_pixels([], [])
