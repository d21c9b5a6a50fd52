"""Which thresholds a new version decides by: as asked for, or as the version before has them."""

from __future__ import annotations

from dataclasses import replace

from bundle import Bundle, Calibration, Region
from calibration import BY_HAND, GoodParts, Thresholds, find_thresholds
from enrol_options import EnrolOptions, rates
from refusals import InspectionRefused


def decide_thresholds(
    options: EnrolOptions,
    parts: GoodParts,
    method: str,
    image_score: str,
    region: Region,
    image_size: tuple[int, int],
    *,
    earlier: Bundle | None,
    good_images: list[dict[str, str]],
) -> tuple[Calibration, Thresholds]:
    """Thresholds as asked for: by hand, by rates, or as the earlier version has them.

    Args:
        options: ``threshold``, ``normal_below``, ``false_positive_rate``, ``undecided_rate``.
        parts: The good parts.
        method: How they were measured.
        image_score: Name of the image score.
        region: What counts.
        image_size: Height and width of the references in pixels.
        earlier: The version this one continues, whose choice holds where nothing is said.
        good_images: Recorded with the calibration.

    Raises:
        InspectionRefused: If both rates together reach 1, or no defect would ever count.
    """
    by_hand, normal_below = options.threshold, options.normal_below
    rate, undecided = options.false_positive_rate, options.undecided_rate
    if earlier is not None and by_hand is None:
        if earlier.calibration.method != BY_HAND:
            # A rate that is not named stays as it was.
            rate = earlier.calibration.false_positive_rate if rate is None else rate
            undecided = earlier.calibration.undecided_rate if undecided is None else undecided
        elif (rate, undecided) == (None, None):
            by_hand, normal_below = earlier.threshold, earlier.normal_below
    rate, undecided = rates(rate, undecided)
    if rate + undecided >= 1:
        raise InspectionRefused(
            f"false_positive_rate {rate:g} and undecided_rate {undecided:g} together reach 1"
        )
    found = find_thresholds(
        parts,
        method,
        image_score,
        region,
        image_size,
        false_positive_rate=rate,
        undecided_rate=undecided,
    )
    if by_hand is None:
        return Calibration(method, rate, undecided, found.scores, good_images), found
    below = float(by_hand if normal_below is None else normal_below)
    found = replace(found, threshold=float(by_hand), normal_below=below)
    return Calibration(BY_HAND, None, None, found.scores, good_images), found
