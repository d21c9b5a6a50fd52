"""Other thresholds are a version of its own, by hand or from the good parts that are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from trainings import GRID, IMAGE_SIZE, images, publish_trained

from refusals import InspectionRefused
from student_scoring import find_map_thresholds
from student_thresholds import change_student_thresholds
from students_store import StudentsStore

DISTANCES = np.random.default_rng(0).uniform(0.1, 0.9, (10, *GRID)).astype(np.float32)


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


@pytest.fixture
def base(store):
    return publish_trained(store, distances=DISTANCES, references=images(10))


def found_at(record, rate, undecided):
    return find_map_thresholds(DISTANCES, IMAGE_SIZE, record.map_rule, rate, undecided)


def thresholds_of(record):
    return record.threshold, record.normal_below, record.defect_threshold


def test_first_thresholds_are_those_of_the_default_rates(base):
    found = found_at(base, 0.05, 0.0)
    assert thresholds_of(base) == (found.threshold, found.normal_below, found.defect_threshold)
    assert base.calibration.reference_scores == found.scores
    assert (base.calibration.method, base.calibration.false_positive_rate) == ("cross_fit", 0.05)


def test_rates_find_thresholds_anew(store, base):
    made = change_student_thresholds(
        store, base, {"false_positive_rate": 0.3, "undecided_rate": 0.2}, "bob"
    )
    found = found_at(base, 0.3, 0.2)
    assert thresholds_of(made) == (found.threshold, found.normal_below, found.defect_threshold)
    assert found.threshold < base.threshold
    assert (made.version, made.calibration.false_positive_rate) == (2, 0.3)
    assert (made.change.action, made.change.from_version, made.change.operator) == (
        "thresholds", 1, "bob",
    )  # fmt: skip
    kept = replace(
        made, version=1, threshold=base.threshold, normal_below=base.normal_below,
        defect_threshold=base.defect_threshold, calibration=base.calibration, change=base.change,
    )  # fmt: skip
    assert kept == base
    # A rate that is not named stays as it was.
    again = change_student_thresholds(store, made, {"false_positive_rate": 0.1}, "bob")
    assert again.calibration.undecided_rate == 0.2
    assert again.normal_below == found_at(base, 0.1, 0.2).normal_below


def test_thresholds_by_hand_keep_the_defects_of_the_good_parts(store, base):
    made = change_student_thresholds(store, base, {"threshold": 1000, "normal_below": 0.25}, "")
    assert thresholds_of(made) == (1000.0, 0.25, base.defect_threshold)
    assert made.calibration.method == "by_hand"
    assert made.calibration.false_positive_rate is made.calibration.undecided_rate is None
    assert made.calibration.reference_scores == base.calibration.reference_scores
    alone = change_student_thresholds(store, made, {"threshold": 0.5}, "")
    assert thresholds_of(alone)[:2] == (0.5, 0.5)


def test_rates_after_a_hand_say_again_how_good_parts_were_measured(store, base):
    by_hand = change_student_thresholds(store, base, {"threshold": 0.5}, "")
    back = change_student_thresholds(store, by_hand, {"false_positive_rate": 0.05}, "")
    assert back.calibration == base.calibration
    assert thresholds_of(back) == thresholds_of(base)


def test_rates_after_a_hand_remember_the_good_images(store):
    base = publish_trained(
        store, "nut", distances=DISTANCES, good_images=images(10), calibration="good_images"
    )
    by_hand = change_student_thresholds(store, base, {"threshold": 0.5}, "")
    assert by_hand.calibration.good_images == images(10)
    back = change_student_thresholds(store, by_hand, {"undecided_rate": 0.1}, "")
    assert back.calibration.method == "good_images"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "say at least one of"),
        ({"threshold": -0.1}, "a score from 0"),
        ({"threshold": 1e7}, "a score from 0"),
        ({"threshold": "1"}, "a score from 0"),
        ({"threshold": True}, "a score from 0"),
        ({"threshold": float("nan")}, "a score from 0"),
        ({"normal_below": 0.1}, "goes with a threshold"),
        ({"threshold": 0.1, "normal_below": 0.2}, "not below it"),
        ({"threshold": 0.1, "undecided_rate": 0.1}, "exclude each other"),
        ({"false_positive_rate": 0}, "between 0 and 1"),
        ({"false_positive_rate": 1.0}, "between 0 and 1"),
        ({"undecided_rate": 1}, "below 1"),
        ({"undecided_rate": 0.97}, "together reach 1"),
        ({"false_positive_rate": 0.6, "undecided_rate": 0.4}, "together reach 1"),
    ],
)
def test_contradiction_makes_no_version(store, base, asked, reason):
    with pytest.raises(InspectionRefused, match=reason):
        change_student_thresholds(store, base, asked, "")
    assert store.products() == {"screw": [1]}


def test_version_that_another_replaced_is_not_continued(store, base):
    publish_trained(store, scale=2.0)
    with pytest.raises(InspectionRefused, match="version 2 .* came into force while"):
        change_student_thresholds(store, base, {"threshold": 0.5}, "")
    assert store.products() == {"screw": [1, 2]}
