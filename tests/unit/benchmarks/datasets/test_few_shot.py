"""Which images a few-shot run learns from."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinspect_bench.datasets.few_shot import select_shots
from dinspect_bench.errors import DatasetError

GOOD = [Path(f"{number:03d}.png") for number in range(10)]


def names(*arguments):
    return [path.stem for path in select_shots(GOOD, *arguments)]


def test_authors_take_consecutive_slices_of_the_sorted_names():
    assert names(1, 0) == ["000"]
    assert names(1, 2) == ["002"]
    assert names(2, 1) == ["002", "003"]
    assert names(4, 1) == ["004", "005", "006", "007"]


def test_all_are_taken_in_order_whatever_the_seed():
    assert names(None, 2) == [path.stem for path in GOOD]
    assert names(None, 2, "all") == [path.stem for path in GOOD]


def test_random_draw_depends_on_the_seed_and_grows():
    four = names(4, 0, "random")
    assert four == names(8, 0, "random")[:4]
    assert four != names(4, 1, "random")
    assert four != names(4, 0)
    assert sorted(names(10, 0, "random")) == [path.stem for path in GOOD]


def test_too_few_images_are_refused_with_the_numbers():
    assert names(5, 1) == [path.stem for path in GOOD[5:]]
    with pytest.raises(DatasetError, match="slice 2 of 4 shots needs 12 .* there are 10; ask"):
        names(4, 2)
    with pytest.raises(DatasetError, match="11 shots needs 11 .* there are 10"):
        names(11, 0, "random")


def test_selection_has_one_of_two_names():
    with pytest.raises(ValueError, match="selection is 'first', expected one of consecutive, ran"):
        names(1, 0, "first")
