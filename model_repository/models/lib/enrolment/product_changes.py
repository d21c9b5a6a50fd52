"""What is changed about a product without its images: thresholds, region, import.

Each change makes a version of its own that shares the bank with the one it was made from.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_store import BankStore
from bundle import Bundle, Region
from calibration import GOOD_IMAGES, LEAVE_ONE_OUT, ROTATIONS, Thresholds, find_thresholds
from change_log import now
from enrol_options import LARGEST_DISTANCE
from image_preparation import decode_image, refuse_transparency
from inspected_region import foreground_share, inspected_patches
from option_checks import is_flag, is_integer, require
from refusals import InspectionRefused
from thresholds import ThresholdChoice, decide_thresholds
from version_files import BANK_FILE, GOOD_PARTS_FILE
from version_record import Calibration, Change

THRESHOLD_KEYS = ("threshold", "normal_below", "false_positive_rate", "undecided_rate")
REGION_KEYS = ("roi_px", "clear_ignore_mask", "min_defect_area_px")


def change_thresholds(
    store: BankStore, base: Bundle, asked: dict[str, Any], operator: str
) -> Bundle:
    """Set the thresholds by hand, or find them anew for other rates.

    Args:
        store: The products.
        base: The version to start from.
        asked: Of `THRESHOLD_KEYS`.
        operator: Who.

    Raises:
        InspectionRefused: If nothing is asked for, or a value is out of range.
    """
    if not asked:
        raise InspectionRefused(f"say at least one of {', '.join(THRESHOLD_KEYS)}")
    choice = ThresholdChoice(**asked)
    choice.check(LARGEST_DISTANCE, "a cosine distance in [0, 2]")
    return _recalibrated(store, base, choice, base.region, "thresholds", operator)


def change_region(
    store: BankStore, base: Bundle, asked: dict[str, Any], ignore_mask: bytes, operator: str
) -> Bundle:
    """Change what counts; the thresholds are found anew for it, unless set by hand.

    Args:
        store: The products.
        base: The version to start from.
        asked: Of `REGION_KEYS`; what is left out stays as it is.
        ignore_mask: An encoded image, bright where nothing counts; empty to leave it as it is.
        operator: Who.

    Raises:
        InspectionRefused: If nothing is asked for, or it does not fit the product's images.
    """
    if not asked and not ignore_mask:
        raise InspectionRefused(f"say at least one of {', '.join(REGION_KEYS)}, or send a mask")
    region = _changed_region(base, asked, ignore_mask)
    return _recalibrated(store, base, ThresholdChoice(), region, "region", operator)


def _changed_region(base: Bundle, asked: dict[str, Any], ignore_mask: bytes) -> Region:
    area = asked.get("min_defect_area_px", base.region.min_defect_area_px)
    require(is_integer(area, 0), "min_defect_area_px", "0 or more pixels", area)
    return replace(_changed_patches(base, asked, ignore_mask), min_defect_area_px=area)


def _changed_patches(base: Bundle, asked: dict[str, Any], ignore_mask: bytes) -> Region:
    roi_px = asked.get("roi_px", base.region.roi_px)
    roi_px = None if roi_px == [] else roi_px
    fits = isinstance(roi_px, list) and len(roi_px) == 4 and all(is_integer(v, 0) for v in roi_px)
    require(roi_px is None or fits, "roi_px", "[x, y, width, height] or []", roi_px)
    clear = asked.get("clear_ignore_mask", False)
    require(is_flag(clear), "clear_ignore_mask", "true or false", clear)
    had_mask = base.region.ignore_mask_sha256 is not None
    if had_mask and not ignore_mask and not clear and "roi_px" in asked:
        raise InspectionRefused(
            "the product has an ignore mask, of which only the outcome is kept; send it again with "
            "the new region of interest, or clear it"
        )
    keeps_patches = not ignore_mask and not clear and "roi_px" not in asked
    if keeps_patches:
        return base.region
    image = _decoded_mask(ignore_mask) if ignore_mask else None
    size = (base.image_size[0], base.image_size[1])
    patches = inspected_patches(base.patch_grid, size, roi_px, image)
    return Region(
        ["".join("1" if patch else "0" for patch in row) for row in patches],
        roi_px,
        hashlib.sha256(ignore_mask).hexdigest() if ignore_mask else None,
        0,
    )


def _decoded_mask(encoded: bytes) -> NDArray[np.uint8]:
    try:
        refuse_transparency(encoded)
        return decode_image(encoded)
    except InspectionRefused as refusal:
        raise InspectionRefused(f"the ignore mask: {refusal}") from None


def _recalibrated(
    store: BankStore,
    base: Bundle,
    choice: ThresholdChoice,
    region: Region,
    action: str,
    operator: str,
) -> Bundle:
    parts = store.read_good_parts(base)
    if not (parts.foreground & region.mask).any():
        raise InspectionRefused(
            "the region holds nothing but background of the good parts, which is never inspected; "
            "enlarge it"
        )
    image_size = (base.image_size[0], base.image_size[1])
    calibration, thresholds = decide_thresholds(
        choice,
        partial(
            find_thresholds, parts, _method(base), base.scoring.image_score, region, image_size
        ),
        _method(base),
        earlier=base,
        good_images=base.calibration.good_images,
    )
    if base.preprocessing.masked and region.inspected != base.region.inspected:
        foreground = store.read_bank(base).reference_foreground
        share = foreground_share(foreground, region.mask)
        base = replace(base, preprocessing=replace(base.preprocessing, foreground_share=share))
    change = Change(action, base.version, operator, now())
    return _published(store, base, _with(base, calibration, thresholds, region, change))


def _method(base: Bundle) -> str:
    """How the good parts were measured, also where thresholds were set by hand since."""
    if base.calibration.good_images:
        return GOOD_IMAGES
    return ROTATIONS if base.num_references == 1 else LEAVE_ONE_OUT


def _with(
    base: Bundle,
    calibration: Calibration,
    thresholds: Thresholds,
    region: Region,
    change: Change,
) -> Bundle:
    return replace(
        base,
        threshold=thresholds.threshold,
        normal_below=thresholds.normal_below,
        defect_threshold=thresholds.defect_threshold,
        region=region,
        calibration=calibration,
        change=change,
    )


def _published(store: BankStore, base: Bundle, draft: Bundle) -> Bundle:
    with store.staging() as staging:
        store.require_in_force(base)
        staging.share(BANK_FILE, base)
        staging.share(GOOD_PARTS_FILE, base)
        return staging.publish(draft)
