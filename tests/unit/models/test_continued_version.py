"""Versions that continue another: appended images, kept thresholds, a changed region."""

from __future__ import annotations

from dataclasses import replace

import pytest
from enrolments import (
    GRID,
    IMAGE_SIZE,
    PATCHES,
    TEXTURE,
    append,
    close_all,
    enrol,
    part,
    surface,
    tokens_of,
)

from bank_search import open_bank
from enrol_options import EnrolOptions
from inspected_region import inspected_patches
from nearest_neighbours import unit_vectors
from product_changes import change_region, change_thresholds
from refusals import InspectionRefused
from wire import VERSION_FILES

SURFACES = [surface(seed) for seed in range(4)]
PARTS = [part(seed) for seed in range(4)]
UNROTATED = EnrolOptions(preprocessing="informed", texture=True)
BANK, GOOD_PARTS = VERSION_FILES[1:]


@pytest.fixture(autouse=True)
def _no_open_files():
    yield
    close_all()


def unit(image):
    return unit_vectors(tokens_of(image))


def file_bytes(store, bundle, name):
    return store.file(bundle.product, bundle.version, name).read_bytes()


# ----- appended -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        EnrolOptions(false_positive_rate=0.3, undecided_rate=0.2, num_neighbours=2),
        TEXTURE,
        UNROTATED,
        replace(TEXTURE, search="ivf"),
        EnrolOptions(preprocessing="informed", rotated=True, image_score="max_map"),
        replace(TEXTURE, threshold=0.3, normal_below=0.2),
    ],
    ids=["masked", "texture", "unrotated", "ivf", "informed", "by hand"],
)
def test_appended_version_equals_an_enrolment_of_all_images_at_once(tmp_path, options):
    images = [part(seed) for seed in range(5)]
    store, base = enrol(tmp_path, images[:3], options)
    appended = append(store, base, images[3:])
    other, at_once = enrol(tmp_path / "other", images, options)
    for name in (BANK, GOOD_PARTS):
        assert file_bytes(store, appended, name) == file_bytes(other, at_once, name)
    for field in (
        "threshold",
        "normal_below",
        "defect_threshold",
        "bank_sha256",
        "good_parts_sha256",
        "calibration",
        "references",
        "preprocessing",
        "region",
        "num_patches",
        "image_size",
    ):
        assert getattr(appended, field) == getattr(at_once, field), field
    assert (appended.change.action, appended.change.from_version) == ("appended", base.version)
    assert appended.created_at == base.created_at


def test_who_enrolled_and_who_went_on_are_both_recorded(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:2], replace(TEXTURE, operator="ada"))
    appended = append(store, base, SURFACES[2:3], EnrolOptions(append=True, operator="bob"))
    changed = change_thresholds(store, appended, {"threshold": 0.5}, "grace")
    assert [(v.created_by, v.change.operator) for v in (base, appended, changed)] == [
        ("ada", "ada"), ("ada", "bob"), ("ada", "grace"),
    ]  # fmt: skip


def test_one_appended_to_one_are_two_references(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:1])
    appended = append(store, base, SURFACES[1:2])
    assert appended.calibration.method == "leave_one_out"
    assert len(appended.calibration.reference_scores) == 2
    assert appended.normal_below == appended.threshold


def test_good_images_appended_keep_the_bank_and_those_there_were(tmp_path):
    good = [surface(seed) for seed in range(20, 26)]
    store, base = enrol(tmp_path, SURFACES[:2], good=good[:4])
    appended = append(store, base, [], good=good[4:])
    other, at_once = enrol(tmp_path / "other", SURFACES[:2], good=good)
    assert appended.change.action == "recalibrated"
    assert appended.bank_sha256 == base.bank_sha256
    bank_file = store.file("screw", appended.version, BANK)
    assert bank_file.samefile(store.file("screw", base.version, BANK))
    assert file_bytes(store, appended, GOOD_PARTS) == file_bytes(other, at_once, GOOD_PARTS)
    assert appended.calibration == at_once.calibration
    assert (appended.threshold, appended.normal_below) == (
        at_once.threshold,
        at_once.normal_below,
    )


def test_good_images_of_a_smaller_bank_are_given_up(tmp_path):
    """They would score lower in the larger one, and their tokens are not kept."""
    store, base = enrol(tmp_path, SURFACES[:2], good=[surface(20)])
    appended = append(store, base, SURFACES[2:3])
    assert appended.calibration.method == "leave_one_out"
    assert appended.calibration.good_images == []
    assert len(store.read_good_parts(appended).distances) == 3


def test_good_images_appended_to_a_single_reference_replace_its_rotations(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:1])
    assert base.normal_below == 0.0
    appended = append(store, base, [], good=[surface(20), surface(21)])
    assert appended.calibration.method == "good_images"
    assert appended.normal_below == appended.threshold > 0


def test_lists_are_kept_when_only_good_images_are_appended(tmp_path):
    store, base = enrol(tmp_path, SURFACES, replace(TEXTURE, search="ivf"))
    appended = append(store, base, [], good=[surface(20)])
    assert appended.scoring == base.scoring
    search = open_bank(store.read_bank(appended), appended.scoring, PATCHES, "fp32")
    assert search.distances(unit(SURFACES[0])).max() < 1e-6


def test_a_rate_that_is_not_named_stays_as_it_was(tmp_path):
    images = [surface(seed) for seed in range(11)]
    options = replace(UNROTATED, false_positive_rate=0.1, undecided_rate=0.3)
    store, base = enrol(tmp_path, images[:10], options)
    appended = append(store, base, images[10:], EnrolOptions(append=True, false_positive_rate=0.2))
    assert (appended.calibration.false_positive_rate, appended.calibration.undecided_rate) == (
        0.2,
        0.3,
    )
    ordered = sorted(appended.calibration.reference_scores)
    assert (appended.threshold, appended.normal_below) == (ordered[8], ordered[5])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (0.3, 0.2, "by_hand")),
        ({"threshold": 0.5}, (0.5, 0.5, "by_hand")),
        ({"threshold": 0.5, "normal_below": 0.1}, (0.5, 0.1, "by_hand")),
        ({"false_positive_rate": 0.05}, (None, None, "leave_one_out")),
        ({"undecided_rate": 0.5}, (None, None, "leave_one_out")),
    ],
)
def test_thresholds_by_hand_stay_until_something_else_is_asked_for(tmp_path, asked, expected):
    store, base = enrol(tmp_path, SURFACES[:2], replace(TEXTURE, threshold=0.3, normal_below=0.2))
    appended = append(store, base, SURFACES[2:3], EnrolOptions(append=True, **asked))
    threshold, normal_below, method = expected
    assert appended.calibration.method == method
    scores = sorted(appended.calibration.reference_scores)
    if threshold is None:
        threshold, normal_below = scores[-1], scores[1 if "undecided_rate" in asked else -1]
    assert (appended.threshold, appended.normal_below) == (threshold, normal_below)


def test_rates_that_reach_1_only_together_with_the_earlier_ones_are_refused(tmp_path):
    store, base = enrol(tmp_path, SURFACES, replace(TEXTURE, undecided_rate=0.5))
    reason = "false_positive_rate 0.6 and undecided_rate 0.5 together reach 1"
    with pytest.raises(InspectionRefused, match=reason):
        append(store, base, [surface(9)], EnrolOptions(append=True, false_positive_rate=0.6))
    with pytest.raises(InspectionRefused, match=reason):
        change_thresholds(store, base, {"false_positive_rate": 0.6}, "ada")
    assert store.products() == {"screw": [1]}


def test_a_version_that_is_no_longer_in_force_is_not_appended_to(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:2])
    enrol(tmp_path, SURFACES[1:])
    with pytest.raises(InspectionRefused, match="version 2 of product 'screw' came into force whi"):
        append(store, base, SURFACES[3:])
    assert store.products() == {"screw": [1, 2]}


# ----- a region -----------------------------------------------------------------------------------


def in_region(store, base, roi_px, **more):
    return change_region(store, base, {"roi_px": roi_px, **more}, b"", "ada")


def test_a_region_is_kept_and_counts_for_what_is_appended(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:3], UNROTATED)
    changed = in_region(store, base, [0, 0, 42, 28])
    appended = append(store, changed, SURFACES[3:])
    assert appended.region == changed.region
    assert changed.region.mask.sum() == 6
    parts = store.read_good_parts(appended)
    assert parts.distances[:, ~changed.region.mask].min() > 0  # all of them are kept
    scores = [distances[:2, :3].max() for distances in parts.distances]
    assert appended.calibration.reference_scores == pytest.approx(scores, abs=1e-6)


def test_share_of_foreground_is_that_of_the_region_in_force(tmp_path):
    """Else a part missing from the region would not be noticed for what is shown beside it."""
    store, base = enrol(tmp_path, PARTS[:3], EnrolOptions())
    assert base.preprocessing.foreground_share == [0.3, 0.3]
    left = in_region(store, base, [0, 0, 70, 168])  # five columns, of which two are foreground
    assert left.preprocessing.foreground_share == [12 / 60, 12 / 60]
    assert inspected_patches(GRID, IMAGE_SIZE, [0, 0, 70, 168]).sum() == 60
    appended = append(store, left, PARTS[3:])
    assert appended.preprocessing.foreground_share == [12 / 60, 12 / 60]
    inside = in_region(store, appended, [56, 56, 70, 56])
    assert inside.preprocessing.foreground_share == [1.0, 1.0]
    whole = in_region(store, inside, [])
    assert whole.preprocessing == replace(
        appended.preprocessing, foreground_share=base.preprocessing.foreground_share
    )


def test_a_smallest_defect_larger_than_the_region_is_refused(tmp_path):
    store, base = enrol(tmp_path, SURFACES[:3], UNROTATED)
    with pytest.raises(InspectionRefused, match="has 1177 px, but what is inspected has 1176 px"):
        in_region(store, base, [0, 0, 42, 28], min_defect_area_px=6 * 14 * 14 + 1)
    changed = in_region(store, base, [0, 0, 42, 28], min_defect_area_px=6 * 14 * 14)
    with pytest.raises(InspectionRefused, match="so that no defect would ever count"):
        in_region(store, changed, [0, 0, 14, 14])
    assert store.products() == {"screw": [1, 2]}
