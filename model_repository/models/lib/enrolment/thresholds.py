"""Which thresholds a new version decides by: as asked for, or as the version before has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from calibration import (
    BY_HAND,
    DEFAULT_FALSE_POSITIVE_RATE,
    DEFAULT_UNDECIDED_RATE,
    Thresholds,
)
from option_checks import is_number, require
from refusals import InspectionRefused
from version_record import Calibration, VersionRecord

FindThresholds = Callable[[float, float], Thresholds]
"""Thresholds at a false positive rate and an undecided rate, from the good parts."""


@dataclass(frozen=True)
class ThresholdChoice:
    """What the caller says of the thresholds; None where nothing was said.

    Attributes:
        threshold: Set by hand.
        normal_below: Set by hand, with ``threshold``; not above it.
        false_positive_rate: Share in (0, 1) of good parts that may be anomalous.
        undecided_rate: Share in [0, 1) of good parts that may be undecided besides.
    """

    threshold: float | None = None
    normal_below: float | None = None
    false_positive_rate: float | None = None
    undecided_rate: float | None = None

    def check(self, largest: float, unit: str) -> None:
        """Check what decides a verdict, in whichever way it was asked for.

        Args:
            largest: Largest score that makes sense.
            unit: What a score is, for the message.

        Raises:
            InspectionRefused: If a value is out of range, or two of them contradict each other.
        """
        rate, undecided = self.false_positive_rate, self.undecided_rate
        between = "a share between 0 and 1"
        require(
            rate is None or (is_number(rate) and 0 < rate < 1), "false_positive_rate", between, rate
        )
        fits = undecided is None or (is_number(undecided) and 0 <= undecided < 1)
        require(fits, "undecided_rate", "a share from 0 to below 1", undecided)
        for key in ("threshold", "normal_below"):
            value = getattr(self, key)
            fits = value is None or (is_number(value) and 0 <= value <= largest)
            require(fits, key, unit, value)
        if sum(self.rates) >= 1:
            raise InspectionRefused("false_positive_rate and undecided_rate together reach 1")
        if self.threshold is not None and (rate is not None or undecided is not None):
            raise InspectionRefused(
                "a threshold set by hand and a rate to find it by exclude each other"
            )
        below = self.normal_below
        if below is not None and (self.threshold is None or below > self.threshold):
            raise InspectionRefused(
                f"normal_below is {below}; it goes with a threshold set by hand that is not "
                f"below it, got {self.threshold}"
            )

    @property
    def rates(self) -> tuple[float, float]:
        """False positive and undecided rate, with the defaults for what is None."""
        rate, undecided = self.false_positive_rate, self.undecided_rate
        return (
            DEFAULT_FALSE_POSITIVE_RATE if rate is None else float(rate),
            DEFAULT_UNDECIDED_RATE if undecided is None else float(undecided),
        )

    def continued(self, earlier: VersionRecord) -> ThresholdChoice:
        """This choice, with that of an earlier version where nothing is said."""
        if self.threshold is not None:
            return self
        rate, undecided = self.false_positive_rate, self.undecided_rate
        if earlier.calibration.method != BY_HAND:
            # A rate that is not named stays as it was.
            before = earlier.calibration
            return replace(
                self,
                false_positive_rate=before.false_positive_rate if rate is None else rate,
                undecided_rate=before.undecided_rate if undecided is None else undecided,
            )
        if (rate, undecided) == (None, None):
            return ThresholdChoice(earlier.threshold, earlier.normal_below)
        return self


def decide_thresholds(
    choice: ThresholdChoice,
    find: FindThresholds,
    method: str,
    *,
    earlier: VersionRecord | None,
    good_images: list[dict[str, str]],
) -> tuple[Calibration, Thresholds]:
    """Thresholds as asked for: by hand, by rates, or as the earlier version has them.

    Args:
        choice: What was asked for, already checked.
        find: Finds them from the good parts.
        method: How the good parts were measured.
        earlier: The version this one continues, whose choice holds where nothing is said.
        good_images: Recorded with the calibration.

    Raises:
        InspectionRefused: If both rates together reach 1, or no defect would ever count.
    """
    if earlier is not None:
        choice = choice.continued(earlier)
    rate, undecided = choice.rates
    if rate + undecided >= 1:
        raise InspectionRefused(
            f"false_positive_rate {rate:g} and undecided_rate {undecided:g} together reach 1"
        )
    found = find(rate, undecided)
    if choice.threshold is None:
        return Calibration(method, rate, undecided, found.scores, good_images), found
    threshold = float(choice.threshold)
    below = threshold if choice.normal_below is None else float(choice.normal_below)
    found = replace(found, threshold=threshold, normal_below=below)
    return Calibration(BY_HAND, None, None, found.scores, good_images), found
