"""Thresholds from good parts: what is left out, what is counted, which quantile."""

from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import anomaly_map as slow_map
from reference.anomaly_dino_reference import mean_of_k_nearest

from bundle import Region
from calibration import (
    BY_HAND,
    GOOD_IMAGES,
    LEAVE_ONE_OUT,
    MAX_LEFT_OUT,
    ROTATIONS,
    GoodParts,
    counted_score,
    find_thresholds,
    leave_one_out,
    left_out,
    threshold_at,
)
from defect_regions import defect_regions
from image_score import IMAGE_SCORES
from map_operator import anomaly_map
from nearest_neighbours import CosineSearch, unit_vectors
from refusals import InspectionRefused

GRID = (4, 5)
SIZE = (56, 70)
PATCHES, DIM = 20, 16
EVERYTHING = Region.everything(GRID)


def unit(*shape, seed=0):
    return unit_vectors(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def parts_of(*values, spikes=()):
    """Good parts whose patches all have the value given, but for spikes (part, at, value)."""
    distances = np.stack([np.full(GRID, value, np.float32) for value in values])
    for index, at, value in spikes:
        distances[index][at] = value
    return GoodParts(distances, np.ones((len(values), *GRID), bool))


def found(
    parts, *, method=LEAVE_ONE_OUT, name="mean_top1p", region=EVERYTHING, rate=0.05, band=0.0
):
    return find_thresholds(
        parts, method, name, region, SIZE, false_positive_rate=rate, undecided_rate=band
    )


def inspecting(mask, min_defect_area_px=0):
    rows = ["".join("1" if cell else "0" for cell in row) for row in mask]
    return Region(rows, [0, 0, 1, 1], None, min_defect_area_px)


# ----- the quantile -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (10, 0.5, 6.0),
        (10, 0.2, 9.0),
        (10, 0.1, 10.0),
        (10, 0.01, 10.0),
        (100, 0.05, 96.0),
        (100, 0.01, 100.0),
        (2, 0.3, 2.0),
        (1, 0.99, 1.0),
    ],
)
def test_threshold_keeps_the_share_of_rejected_in_bounds(count, rate, expected):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    threshold = threshold_at(scores, rate)
    assert threshold == expected
    assert (scores > threshold).mean() <= rate


def test_threshold_is_a_score_and_no_average_of_two():
    assert threshold_at(np.array([0.1, 0.2]), 0.5) == 0.2


def test_thresholds_and_band_by_hand():
    scores = np.linspace(0.1, 0.3, 21)  # steps of 0.01
    parts = parts_of(*scores)
    for rate, band, threshold, normal_below in [
        (0.05, 0.0, 0.29, 0.29),  # of 21 scores one is above
        (0.05, 0.1, 0.29, 0.27),  # two more are undecided
        (0.1, 0.4, 0.28, 0.2),
        (0.01, 0.0, 0.3, 0.3),
        (0.01, 0.98, 0.3, 0.11),
    ]:
        thresholds = found(parts, rate=rate, band=band)
        assert thresholds.threshold == pytest.approx(threshold)
        assert thresholds.normal_below == pytest.approx(normal_below)
        assert thresholds.scores == pytest.approx(scores)
        above = np.array(thresholds.scores)
        assert (above > thresholds.threshold).mean() <= rate
        undecided = (above > thresholds.normal_below) & (above <= thresholds.threshold)
        assert undecided.mean() <= band + 1e-9 or band == 0


@pytest.mark.parametrize("method", [LEAVE_ONE_OUT, GOOD_IMAGES, BY_HAND, ROTATIONS])
def test_rotations_of_the_only_reference_never_say_what_is_normal(method):
    thresholds = found(parts_of(0.1, 0.2, 0.3), method=method, band=0.3)
    assert thresholds.threshold == pytest.approx(0.3)
    assert thresholds.normal_below == pytest.approx(0.0 if method == ROTATIONS else 0.3)


# ----- what counts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGE_SCORES)
def test_every_image_score_has_its_own_threshold(name):
    parts = parts_of(0.1, 0.1, spikes=[(0, (1, 2), 0.9)])
    map_ = slow_map(parts.distances[0], *SIZE)
    expected = map_.max() if name == "max_map" else 0.9
    thresholds = found(parts, name=name)
    assert thresholds.threshold == pytest.approx(expected, abs=1e-6)
    assert thresholds.scores == pytest.approx([expected, 0.1], abs=1e-6)
    assert thresholds.defect_threshold == pytest.approx(map_.max(), abs=1e-6)


def test_threshold_of_defects_is_a_quantile_of_the_peaks():
    values = np.linspace(0.1, 0.3, 21)
    assert found(parts_of(*values)).defect_threshold == pytest.approx(0.29)
    assert found(parts_of(*values), rate=0.5).defect_threshold == pytest.approx(0.2)


def test_what_lies_outside_the_region_does_not_count():
    mask = np.ones(GRID, bool)
    mask[1, 2] = False
    parts = parts_of(0.1, 0.2, spikes=[(0, (1, 2), 0.9)])
    for name in ("mean_top1p", "mean_top1p_foreground", "max"):
        thresholds = found(parts, name=name, region=inspecting(mask))
        assert thresholds.scores == pytest.approx([0.1, 0.2])
    assert thresholds.defect_threshold == pytest.approx(0.2)
    assert parts.distances[0, 1, 2] == np.float32(0.9)  # another region may want it


def test_masked_patches_count_as_the_image_score_says():
    """Of 4 x 50 patches two are the top percent, of the 100 in the foreground one."""
    distances = np.zeros((1, 4, 50), np.float32)
    distances[0, 0, :2] = (0.4, 0.2)
    foreground = np.zeros((1, 4, 50), bool)
    foreground[:, :2] = True
    scores = {
        name: find_thresholds(
            GoodParts(distances, foreground),
            LEAVE_ONE_OUT,
            name,
            Region.everything((4, 50)),
            (56, 700),
            false_positive_rate=0.05,
            undecided_rate=0.0,
        ).threshold
        for name in ("mean_top1p", "mean_top1p_foreground")
    }
    assert scores == {
        "mean_top1p": pytest.approx(0.3),
        "mean_top1p_foreground": pytest.approx(0.4),
    }


def test_small_defects_of_good_parts_do_not_count():
    """One part in twenty has a spike, which is a defect by the others' peaks."""
    values = [0.1] * 20
    parts = parts_of(*values, spikes=[(7, (1, 2), 0.9)])
    kept = found(parts, rate=0.1)
    assert max(kept.scores) == pytest.approx(0.9)
    assert kept.defect_threshold == pytest.approx(0.1, abs=1e-6)
    map_ = anomaly_map(parts.distances[7], SIZE)
    area = defect_regions(map_, kept.defect_threshold)[0].area_px
    everywhere = np.ones(GRID, bool)
    assert max(found(parts, rate=0.1, region=inspecting(everywhere, area)).scores) > 0.8
    dropped = found(parts, rate=0.1, region=inspecting(everywhere, area + 1))
    assert max(dropped.scores) == pytest.approx(0.1)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_smallest_defect_that_no_defect_reaches_is_refused(share):
    mask = np.ones(GRID, bool)
    if share < 1:
        mask[:] = False
        mask[:1] = True
    inspected_px = int(mask.sum()) * 14 * 14
    found(parts_of(0.1, 0.2), region=inspecting(mask, inspected_px))
    reason = f"has {inspected_px + 1} px, but what is inspected has {inspected_px} px, so that no"
    with pytest.raises(InspectionRefused, match=reason):
        found(parts_of(0.1, 0.2), region=inspecting(mask, inspected_px + 1))


def test_area_and_map_score_are_of_the_references():
    distances = parts_of(0.1, spikes=[(0, (1, 2), 0.9)]).distances[0]
    everywhere = np.ones(GRID, bool)
    area = defect_regions(anomaly_map(distances, SIZE), 0.3)[0].area_px
    peak = anomaly_map(distances, SIZE).max()
    for min_area, expected in [(area, peak), (area + 1, 0.1)]:
        score = counted_score(
            "max_map", distances, everywhere, inspecting(everywhere, min_area), SIZE, 0.3
        )
        assert score == pytest.approx(expected, abs=1e-6)


# ----- leave one out ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_neighbours", [1, 3])
@pytest.mark.parametrize("rotations", [1, 8])
def test_each_reference_is_scored_against_all_rows_of_the_others(rotations, num_neighbours):
    """No row of the left-out image may be seen, also none of its rotations."""
    rows = unit(5, rotations * PATCHES, DIM)
    groups = np.repeat(np.arange(5, dtype=np.int32), rotations * PATCHES)
    search = CosineSearch(rows.reshape(-1, DIM), PATCHES, "fp32", num_neighbours, groups)
    foreground = [np.ones(GRID, bool)] * 5
    parts = leave_one_out(
        search.distances_without, [row[:PATCHES] for row in rows], range(5), foreground
    )
    assert parts.distances.shape == (5, *GRID)
    for index in range(5):
        others = np.delete(rows, index, axis=0).reshape(-1, DIM)
        expected = mean_of_k_nearest(rows[index, :PATCHES], others, num_neighbours)
        np.testing.assert_allclose(parts.distances[index].ravel(), expected, atol=1e-6)
        assert parts.distances[index].min() > 0.01  # its own rows would be at 0


def test_a_stranger_among_the_references_stands_out():
    rows = np.repeat(unit(1, PATCHES, DIM), 4, axis=0)
    rows[2] *= -1
    groups = np.repeat(np.arange(4, dtype=np.int32), PATCHES)
    search = CosineSearch(rows.reshape(-1, DIM), PATCHES, "fp32", 1, groups)
    parts = leave_one_out(search.distances_without, rows, range(4), [np.ones(GRID, bool)] * 4)
    scores = found(parts).scores
    assert [scores[index] for index in (0, 1, 3)] == pytest.approx([0, 0, 0], abs=1e-6)
    assert scores[2] > 0.5


@pytest.mark.parametrize(
    ("num_references", "expected"),
    [
        (1, [0]),
        (3, [0, 1, 2]),
        (MAX_LEFT_OUT, list(range(MAX_LEFT_OUT))),
    ],
)
def test_few_references_are_all_left_out(num_references, expected):
    assert left_out(num_references).tolist() == expected


@pytest.mark.parametrize("num_references", [65, 100, 127, 200, 5000])
def test_many_references_are_sampled_evenly_from_the_first_to_the_last(num_references):
    chosen = left_out(num_references)
    assert len(chosen) == MAX_LEFT_OUT
    assert (chosen[0], chosen[-1]) == (0, num_references - 1)
    steps = np.diff(chosen)
    assert steps.max() - steps.min() <= 1


# ----- what is kept -------------------------------------------------------------------------------


def test_measured_parts_are_zero_where_masked():
    foreground = np.ones((2, *GRID), bool)
    foreground[1, 0] = False
    flat = [np.full(PATCHES, value, np.float32) for value in (0.1, 0.2)]
    parts = GoodParts.measured(flat, list(foreground))
    assert parts.distances.dtype == np.float32
    assert (parts.distances[0] == np.float32(0.1)).all()
    assert (parts.distances[1, 0] == 0).all()
    assert (parts.distances[1, 1:] == np.float32(0.2)).all()


def test_parts_follow_each_other():
    both = parts_of(0.1, 0.2).followed_by(parts_of(0.3))
    assert both.distances[:, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert both.foreground.shape == (3, *GRID)


def test_parts_are_read_as_they_were_stored():
    parts = parts_of(0.1, 0.2)
    parts.foreground[1, 2, 3] = False
    read = GoodParts.from_tensors(parts.tensors(), GRID)
    assert np.array_equal(read.distances, parts.distances)
    assert np.array_equal(read.foreground, parts.foreground)
    assert read.foreground.dtype == bool


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda stored: stored.pop("foreground"), "the good parts lack 'foreground'"),
        (lambda stored: stored.pop("patch_distances"), "lack 'patch_distances'"),
        (
            lambda stored: stored.update(foreground=stored["foreground"][:1]),
            r"are \(2, 4, 5\), expected",
        ),
        (
            lambda stored: stored.update({name: value[:0] for name, value in stored.items()}),
            r"are \(0, 4, 5\), expected",
        ),
        (
            lambda stored: stored.update(
                {name: value.swapaxes(1, 2) for name, value in stored.items()}
            ),
            r"are \(2, 5, 4\), expected \(images, \*\(4, 5\)\)",
        ),
        (lambda stored: stored["patch_distances"].fill(np.nan), r"no cosine distances"),
        (lambda stored: stored["patch_distances"].fill(-0.1), r"no cosine distances"),
        (lambda stored: stored["patch_distances"].fill(3), r"no cosine distances"),
    ],
)
def test_parts_of_another_grid_are_refused(change, reason):
    stored = parts_of(0.1, 0.2).tensors()
    change(stored)
    with pytest.raises(InspectionRefused, match=reason):
        GoodParts.from_tensors(stored, GRID)
