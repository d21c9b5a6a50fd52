"""Which pictures a person should look at, and how they are painted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Overlay = Callable[..., Rgb]

PICTURES_PER_SECTION = 3
MOST_ANOMALOUS = 6
_BAR_SIZE = (12, 256)  # rows, columns
_BAR_GREY = 128


@dataclass(frozen=True)
class Picture:
    """One inspected picture, twice.

    Attributes:
        original: ``(H, W, 3)`` uint8 RGB.
        overlay: The same with its anomaly map painted over it.
    """

    original: Rgb
    overlay: Rgb


@dataclass(frozen=True)
class Section:
    """Pictures that belong together.

    Attributes:
        title: Heading.
        note: One sentence on how they were chosen.
        images: Entries of the result's list of images, the most telling first.
    """

    title: str
    note: str
    images: tuple[Mapping[str, Any], ...]


def choose_sections(images: Sequence[Mapping[str, Any]], threshold: float) -> list[Section]:
    """Choose what to show; a picture may appear in several sections.

    Args:
        images: ``file``, ``label``, ``score`` and ``verdict`` of each, as the result lists them.
        threshold: The product's threshold.
    """
    by_score = sorted(images, key=lambda image: image["score"])
    misses = [i for i in by_score if (i["label"], i["verdict"]) == ("defective", "normal")]
    false_alarms = [
        i for i in by_score if (i["label"], i["verdict"]) == ("functional", "anomalous")
    ]
    passed = [i for i in by_score if (i["label"], i["verdict"]) == ("functional", "normal")]
    middle = max(0, (len(passed) - PICTURES_PER_SECTION) // 2)
    borderline = sorted(images, key=lambda image: abs(image["score"] - threshold))
    few = PICTURES_PER_SECTION
    return [
        Section(
            "Most anomalous",
            "The highest scores of all.",
            tuple(by_score[: -MOST_ANOMALOUS - 1 : -1]),
        ),
        Section("Borderline", "The scores closest to the threshold.", tuple(borderline[:few])),
        Section(
            "Worst misses",
            "Defective cells called normal, the lowest scores first.",
            tuple(misses[:few]),
        ),
        Section(
            "Worst false alarms",
            "Functional cells called anomalous, the highest scores first.",
            tuple(false_alarms[: -few - 1 : -1]),
        ),
        Section(
            "Ordinary",
            "Functional cells called normal, from the middle of their scores.",
            tuple(passed[middle : middle + few]),
        ),
    ]


def files_of(sections: Iterable[Section]) -> list[str]:
    """The files the sections show, each once, in order of appearance."""
    return list(dict.fromkeys(image["file"] for section in sections for image in section.images))


def colour_bar(overlay: Overlay, peak: float) -> Rgb:
    """The overlay's colours from 0 (left) to ``peak`` (right), over plain grey.

    Returns:
        ``(12, 256, 3)`` uint8 RGB.
    """
    ramp = np.tile(np.linspace(0, peak, _BAR_SIZE[1], dtype=np.float32), (_BAR_SIZE[0], 1))
    grey = np.full((*_BAR_SIZE, 3), _BAR_GREY, dtype=np.uint8)
    return overlay(grey, ramp, peak=peak)
