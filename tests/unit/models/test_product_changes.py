"""Thresholds and regions are changed in versions of their own, from the images measured before."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, replace
from datetime import datetime, timezone

import numpy as np
import pytest
from bundles import AT, IMAGE_SIZE, make_bank, make_good_parts, publish
from PIL import Image

from bank_store import BankStore
from bundle import Region
from calibration import GoodParts
from product_changes import change_region, change_thresholds, now
from refusals import InspectionRefused
from version_files import BANK_FILE, GOOD_PARTS_FILE
from version_record import Calibration

BACKGROUND = np.array([[False, True, True], [True, True, True]])
# One row per good part, one number per patch: the score of each is its largest.
DISTANCES = np.array(
    [
        [[0.10, 0.11, 0.12], [0.13, 0.14, 0.50]],
        [[0.10, 0.11, 0.12], [0.13, 0.40, 0.15]],
        [[0.10, 0.11, 0.12], [0.30, 0.14, 0.15]],
        [[0.10, 0.11, 0.20], [0.13, 0.14, 0.15]],
    ],
    np.float32,
)


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def base(store, monkeypatch):
    """A product whose good parts score 0.5, 0.4, 0.3 and 0.2."""
    parts = GoodParts(DISTANCES, np.ones(DISTANCES.shape, bool))
    monkeypatch.setattr("bundles.make_good_parts", lambda bank, seed: parts)
    return publish(store, bank=make_bank(4))


def mask(*bright_px, size=IMAGE_SIZE, form="PNG"):
    """An ignore mask, bright in rectangles ``x, y, width, height``."""
    pixels = np.zeros((*size, 3), np.uint8)
    for x, y, width, height in bright_px:
        pixels[y : y + height, x : x + width] = 255
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, form)
    return encoded.getvalue()


def same_but(changed, base, *names):
    """Whether two versions differ in nothing but their thresholds and what is named."""
    differs = {"version", "change", "threshold", "normal_below", "defect_threshold", *names}
    ours, theirs = asdict(changed), asdict(base)
    return {name for name in ours if ours[name] != theirs[name]} <= differs


# Thresholds


def test_threshold_by_hand_makes_a_version_that_shares_the_bank(store, base):
    changed = change_thresholds(store, base, {"threshold": 0.25}, "bob")
    assert (changed.version, changed.threshold, changed.normal_below) == (2, 0.25, 0.25)
    assert store.resolve("screw") == ("screw", 2)
    assert store.read_bundle("screw", 2) == changed
    assert store.read_bundle("screw", 1) == base
    for name in (BANK_FILE, GOOD_PARTS_FILE):
        assert store.file("screw", 1, name).samefile(store.file("screw", 2, name))
    assert same_but(changed, base, "calibration")
    assert changed.defect_threshold == base.defect_threshold
    assert changed.calibration.method == "by_hand"
    assert changed.calibration.false_positive_rate is None
    assert changed.calibration.undecided_rate is None
    assert changed.calibration.reference_scores == pytest.approx([0.5, 0.4, 0.3, 0.2])


def test_change_says_who_and_from_what(store, base):
    before = datetime.now(timezone.utc).replace(microsecond=0)
    change = change_thresholds(store, base, {"threshold": 0.25}, "bob").change
    assert (change.action, change.from_version, change.operator, change.origin) == (
        "thresholds", 1, "bob", "",
    )  # fmt: skip
    assert before <= datetime.fromisoformat(change.at) <= datetime.now(timezone.utc)
    assert store.changes("screw")[-1] == {
        "at": change.at, "operator": "bob", "action": "thresholds", "product": "screw", "version": 2,
        "in_force": True,
    }  # fmt: skip
    assert len(now()) == len(AT)


def test_two_thresholds_by_hand_leave_a_band_between(store, base):
    changed = change_thresholds(store, base, {"threshold": 0.45, "normal_below": 0.2}, "")
    assert (changed.threshold, changed.normal_below) == (0.45, 0.2)


@pytest.mark.parametrize(
    ("asked", "threshold", "normal_below"),
    [
        ({"false_positive_rate": 0.05}, 0.5, 0.5),
        ({"false_positive_rate": 0.3}, 0.5, 0.5),
        ({"false_positive_rate": 0.34}, 0.4, 0.4),
        ({"false_positive_rate": 0.67}, 0.3, 0.3),
        ({"undecided_rate": 0.3}, 0.5, 0.4),
        ({"undecided_rate": 0.94}, 0.5, 0.3),
        ({"false_positive_rate": 0.34, "undecided_rate": 0.34}, 0.4, 0.3),
    ],
)
def test_rates_find_the_thresholds_among_the_good_parts(
    store, base, asked, threshold, normal_below
):
    """Quantiles of 0.2, 0.3, 0.4 and 0.5, the higher of two scores."""
    changed = change_thresholds(store, base, asked, "ada")
    assert changed.threshold == pytest.approx(threshold)
    assert changed.normal_below == pytest.approx(normal_below)
    assert changed.calibration.method == "leave_one_out"
    assert changed.calibration.false_positive_rate == asked.get("false_positive_rate", 0.05)
    assert changed.calibration.undecided_rate == asked.get("undecided_rate", 0.0)


def test_rate_that_is_not_named_stays_as_it_was(store, base):
    second = change_thresholds(store, base, {"undecided_rate": 0.4}, "")
    third = change_thresholds(store, second, {"false_positive_rate": 0.34}, "")
    assert third.calibration.undecided_rate == 0.4
    assert (third.threshold, third.normal_below) == pytest.approx((0.4, 0.3))
    fourth = change_thresholds(store, third, {"undecided_rate": 0.0}, "")
    assert fourth.calibration.false_positive_rate == 0.34
    assert (fourth.threshold, fourth.normal_below) == pytest.approx((0.4, 0.4))


def test_rates_that_together_reach_one_are_refused_also_where_one_was_said_before(store, base):
    second = change_thresholds(store, base, {"undecided_rate": 0.6}, "")
    with pytest.raises(InspectionRefused, match="together reach 1"):
        change_thresholds(store, second, {"false_positive_rate": 0.5}, "")
    assert store.versions("screw") == [1, 2]


def test_rates_after_a_threshold_by_hand_begin_with_the_defaults(store, base):
    by_hand = change_thresholds(store, base, {"threshold": 0.1}, "")
    found = change_thresholds(store, by_hand, {"undecided_rate": 0.4}, "")
    assert found.calibration.method == "leave_one_out"
    assert (found.calibration.false_positive_rate, found.calibration.undecided_rate) == (0.05, 0.4)
    assert (found.threshold, found.normal_below) == pytest.approx((0.5, 0.4))


def test_method_is_what_measured_the_good_parts(store):
    good_image = {"name": "good.png", "sha256": "d" * 64}
    bank = make_bank(1)
    scores = [float(make_good_parts(bank).distances.max())]
    for name, good_images, method in (
        ("alone", [], "rotations_of_the_only_reference"),
        ("good", [good_image], "good_images"),
    ):
        calibration = Calibration("by_hand", None, None, scores, good_images)
        base = publish(store, name, bank=bank, calibration=calibration)
        changed = change_thresholds(store, base, {"false_positive_rate": 0.1}, "")
        assert changed.calibration.method == method
        assert changed.calibration.good_images == good_images
        # Nothing that rotations say is enough to call a part normal.
        assert (changed.normal_below == 0.0) == (not good_images)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "say at least one of threshold, normal_below, false_positive_rate, undecided_rate"),
        ({"threshold": -1}, "a cosine distance"),
        ({"threshold": 0.5, "false_positive_rate": 0.1}, "exclude each other"),
        ({"normal_below": 0.1}, "goes with a threshold"),
        ({"threshold": 0.1, "normal_below": 0.2}, "goes with a threshold"),
        ({"false_positive_rate": 10**400}, "between 0 and 1"),
        ({"undecided_rate": "1"}, "below 1"),
    ],
)
def test_thresholds_that_decide_nothing_are_refused(store, base, asked, reason):
    with pytest.raises(InspectionRefused, match=reason):
        change_thresholds(store, base, asked, "")
    assert store.versions("screw") == [1]


# Region


def test_region_of_interest_is_brought_to_the_patches(store, base):
    """Patches of 100 x 150 px images are 50 px wide."""
    changed = change_region(store, base, {"roi_px": [60, 0, 50, 40]}, b"", "bob")
    assert changed.region == Region(["011", "000"], [60, 0, 50, 40], None, 0)
    assert same_but(changed, base, "region", "calibration")
    assert changed.change.action == "region"
    assert store.changes("screw")[-1]["action"] == "region"


def test_thresholds_are_found_anew_for_the_region(store, base):
    changed = change_region(store, base, {"roi_px": [0, 0, 150, 50]}, b"", "")
    assert changed.threshold == pytest.approx(0.2)  # the upper row's largest, not 0.5
    assert changed.calibration.reference_scores == pytest.approx([0.12, 0.12, 0.12, 0.20])
    assert changed.calibration.false_positive_rate == 0.05
    assert changed.defect_threshold < base.defect_threshold


def test_thresholds_by_hand_and_rates_outlive_a_change_of_the_region(store, base):
    by_hand = change_thresholds(store, base, {"threshold": 0.45, "normal_below": 0.1}, "")
    changed = change_region(store, by_hand, {"roi_px": [0, 0, 150, 50]}, b"", "")
    assert (changed.threshold, changed.normal_below) == (0.45, 0.1)
    assert changed.calibration.method == "by_hand"
    rated = change_thresholds(store, changed, {"undecided_rate": 0.4}, "")
    again = change_region(store, rated, {"roi_px": []}, b"", "")
    assert again.calibration.undecided_rate == 0.4
    assert (again.threshold, again.normal_below) == pytest.approx((0.5, 0.4))


def test_ignore_mask_is_bright_where_nothing_counts(store, base):
    picture = mask((100, 50, 50, 50))
    changed = change_region(store, base, {}, picture, "")
    digest = hashlib.sha256(picture).hexdigest()
    assert changed.region == Region(["111", "110"], None, digest, 0)
    assert changed.threshold == pytest.approx(0.4)


def test_region_and_mask_count_together(store, base):
    picture = mask((0, 0, 50, 100))
    changed = change_region(store, base, {"roi_px": [0, 0, 100, 100]}, picture, "")
    assert changed.region.inspected == ["010", "010"]


def test_mask_keeps_the_region_of_interest(store, base):
    second = change_region(store, base, {"roi_px": [0, 0, 100, 100]}, b"", "")
    third = change_region(store, second, {}, mask((0, 0, 50, 100)), "")
    assert third.region.inspected == ["010", "010"]
    assert third.region.roi_px == [0, 0, 100, 100]
    fourth = change_region(store, third, {"clear_ignore_mask": True}, b"", "")
    assert fourth.region == second.region


def test_region_of_interest_needs_the_mask_again(store, base):
    second = change_region(store, base, {}, mask((0, 0, 50, 100)), "")
    with pytest.raises(InspectionRefused, match="send it again with the new region"):
        change_region(store, second, {"roi_px": [0, 0, 100, 100]}, b"", "")
    third = change_region(
        store, second, {"roi_px": [0, 0, 100, 100], "clear_ignore_mask": True}, b"", ""
    )
    assert third.region.inspected == ["110", "110"]
    assert third.region.ignore_mask_sha256 is None


def test_empty_region_of_interest_is_the_whole_image(store, base):
    second = change_region(store, base, {"roi_px": [0, 0, 100, 100]}, b"", "")
    third = change_region(store, second, {"roi_px": []}, b"", "")
    assert third.region == Region.everything((2, 3))


def test_smallest_defect_leaves_the_patches_as_they_are(store, base):
    second = change_region(store, base, {}, mask((0, 0, 50, 100)), "")
    third = change_region(store, second, {"min_defect_area_px": 30}, b"", "")
    assert third.region == replace(second.region, min_defect_area_px=30)
    fourth = change_region(store, third, {"clear_ignore_mask": True}, b"", "")
    assert fourth.region.min_defect_area_px == 30
    fifth = change_region(store, fourth, {"min_defect_area_px": 0}, b"", "")
    assert fifth.region == base.region
    assert fifth.threshold == base.threshold


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "say at least one of roi_px, clear_ignore_mask, min_defect_area_px, or send a mask"),
        ({"roi_px": 0}, r"'roi_px' is 0, expected \[x, y, width, height\] or \[\]"),
        ({"roi_px": False}, "expected"),
        ({"roi_px": ""}, "expected"),
        ({"roi_px": {}}, "expected"),
        ({"roi_px": [0, 0, 10]}, "expected"),
        ({"roi_px": [0, 0, 10, 10.0]}, "expected"),
        ({"roi_px": [0, 0, True, 10]}, "expected"),
        ({"roi_px": [-1, 0, 10, 10]}, "expected"),
        ({"roi_px": "0 0 10 10"}, "expected"),
        ({"roi_px": [0, 0, 0, 10]}, "not inside"),
        ({"roi_px": [100, 0, 51, 10]}, "not inside"),
        ({"roi_px": [0, 0, 10**400, 10]}, "not inside"),
        ({"clear_ignore_mask": 1}, "true or false"),
        ({"min_defect_area_px": -1}, "'min_defect_area_px' is -1"),
        ({"min_defect_area_px": 1.5}, "'min_defect_area_px' is 1.5"),
        ({"min_defect_area_px": True}, "'min_defect_area_px' is True"),
        ({"min_defect_area_px": 15_200}, "px"),
        ({"min_defect_area_px": 10**400}, "px"),
        ({"min_defect_area_px": 2501, "roi_px": [0, 0, 10, 10]}, "px"),
    ],
)
def test_region_that_fits_nothing_is_refused(store, base, asked, reason):
    with pytest.raises(InspectionRefused, match=reason):
        change_region(store, base, asked, b"", "")
    assert store.versions("screw") == [1]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (b"no image", "no image in a known format"),
        (mask()[:-30], "damaged or truncated"),
        (mask(size=(150, 100)), "the ignore mask is 100 x 150 px, the product's images are 150 x"),
        (mask((0, 0, 150, 100)), "no patch is left to inspect"),
    ],
)
def test_mask_that_fits_nothing_is_refused(store, base, picture, reason):
    with pytest.raises(InspectionRefused, match=reason):
        change_region(store, base, {}, picture, "")
    assert store.versions("screw") == [1]


def test_region_that_shows_background_only_is_refused(store):
    """Masked patches score 0, so every part would be normal."""
    base = publish(store, bank=make_bank(2, foreground=BACKGROUND))
    with pytest.raises(InspectionRefused, match="nothing but background of the good parts"):
        change_region(store, base, {"roi_px": [0, 0, 50, 50]}, b"", "")
    changed = change_region(store, base, {"roi_px": [0, 0, 100, 50]}, b"", "")
    assert changed.preprocessing.foreground_share == [0.5, 0.5]
    assert base.preprocessing.foreground_share == [5 / 6, 5 / 6]
    store.read_bank(changed)
    again = change_region(store, changed, {"roi_px": []}, b"", "")
    assert again.preprocessing == base.preprocessing


# Two engineers at once


@pytest.mark.parametrize(
    "change",
    [
        lambda store, base: change_thresholds(store, base, {"threshold": 0.5}, "bob"),
        lambda store, base: change_region(store, base, {"min_defect_area_px": 5}, b"", "bob"),
    ],
)
def test_change_of_a_version_that_is_not_in_force_any_more_is_refused(store, base, change):
    """Else it would silently take back what somebody else has changed meanwhile."""
    region = change_region(store, base, {"roi_px": [0, 0, 100, 100]}, b"", "ada")
    with pytest.raises(InspectionRefused, match="version 2 .* came into force .* begin again"):
        change(store, base)
    assert store.versions("screw") == [1, 2]
    assert change(store, region).region.roi_px == [0, 0, 100, 100]


def test_change_of_a_product_that_was_deleted_is_refused(store, base):
    store.delete("screw", None, "ada", AT)
    with pytest.raises(InspectionRefused, match="calibration of version 1 .* is missing"):
        change_thresholds(store, base, {"threshold": 0.5}, "bob")
    assert store.products() == {}


@pytest.mark.parametrize("name", [BANK_FILE, GOOD_PARTS_FILE])
def test_damaged_version_is_not_continued(store, base, name):
    store.file("screw", 1, name).write_bytes(b"damaged")
    with pytest.raises(InspectionRefused, match="damaged"):
        change_thresholds(store, base, {"threshold": 0.5}, "bob")
    assert store.versions("screw") == [1]


def test_ignore_mask_with_transparent_pixels_is_refused(store, base):
    buffer = io.BytesIO()
    Image.new("RGBA", (base.image_size[1], base.image_size[0])).save(buffer, "PNG")
    with pytest.raises(InspectionRefused, match="the ignore mask: .* transparent pixels"):
        change_region(store, base, {}, buffer.getvalue(), "ada")
