"""Other thresholds for an L2BT product, without its images: a version with the same students."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from calibration import GOOD_IMAGES
from change_log import now
from refusals import InspectionRefused
from student_scoring import find_map_thresholds
from students_record import CROSS_FIT, StudentsRecord
from students_store import GOOD_PARTS_FILE, STUDENTS_FILE, StudentsStore
from thresholds import ThresholdChoice, decide_thresholds
from version_record import Change

LARGEST_SCORE = 1e6
SCORE_UNIT = "a score from 0"


def change_student_thresholds(
    store: StudentsStore, base: StudentsRecord, asked: dict[str, Any], operator: str
) -> StudentsRecord:
    """Set the thresholds by hand, or find them anew for other rates.

    Args:
        store: The products.
        base: The version to start from.
        asked: Of the fields of `ThresholdChoice`.
        operator: Who.

    Raises:
        InspectionRefused: If nothing is asked for, or a value is out of range.
    """
    if not asked:
        raise InspectionRefused("say at least one of threshold, false_positive_rate, ...")
    choice = ThresholdChoice(**asked)
    choice.check(LARGEST_SCORE, SCORE_UNIT)
    distances = store.read_good_parts(base)
    good_images = base.calibration.good_images
    size = (base.image_size[0], base.image_size[1])
    calibration, found = decide_thresholds(
        choice,
        partial(find_map_thresholds, distances, size, base.map_rule),
        GOOD_IMAGES if good_images else CROSS_FIT,
        earlier=base,
        good_images=good_images,
    )
    draft = replace(
        base,
        threshold=found.threshold,
        normal_below=found.normal_below,
        defect_threshold=found.defect_threshold,
        calibration=calibration,
        change=Change("thresholds", base.version, operator, now()),
    )
    with store.staging() as staging:
        store.require_in_force(base)
        staging.share(STUDENTS_FILE, base)
        staging.share(GOOD_PARTS_FILE, base)
        return staging.publish(draft)
