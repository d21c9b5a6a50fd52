"""Which input size takes an image."""

from __future__ import annotations

import dataclasses
import json

import pytest
from test_enrolment import SERVED

from refusals import InspectionRefused
from served_size import choose_size, read_served_sizes


def size(label, grid):
    return dataclasses.replace(SERVED, label=label, grid=grid)


SIZES = [
    size("224", (16, 16)),
    size("672", (48, 48)),
    size("448", (32, 32)),
    size("448x588", (32, 42)),
]


def test_default_resolution_comes_first():
    assert choose_size(SIZES, (300, 300), None).label == "448"


def test_resolution_and_aspect_ratio_decide():
    assert choose_size(SIZES, (300, 300), 672).label == "672"
    assert choose_size(SIZES, (480, 640), None).label == "448x588"


def test_smallest_serves_where_the_default_is_missing():
    assert choose_size([SIZES[1], SIZES[0]], (300, 300), None).label == "224"


@pytest.mark.parametrize(
    ("image_size", "resolution", "needed"),
    [((300, 300), 896, "896x896"), ((300, 600), None, "448x896"), ((600, 300), None, "896x448")],
)
def test_refusal_names_the_size_needed(image_size, resolution, needed):
    with pytest.raises(
        InspectionRefused, match=rf"needs input size {needed} .*448, 448x588, 224, 672"
    ):
        choose_size(SIZES, image_size, resolution)


def test_reads_what_the_assembler_writes():
    text = json.dumps([dataclasses.asdict(SERVED)])
    assert read_served_sizes(text) == [SERVED]
