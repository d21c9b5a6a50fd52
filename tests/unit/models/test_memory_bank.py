"""The bank's file, and the rows on their way into one."""

from __future__ import annotations

import os

import numpy as np
import pytest
from bundles import DIM, make_bank, unit_rows

import memory_bank
from memory_bank import MemoryBank, RowFile, check_unit_rows
from refusals import InspectionRefused


def stored(**changes):
    return make_bank(num_lists=4).tensors() | changes


@pytest.mark.parametrize("num_lists", [0, 4])
def test_bank_comes_back_as_it_was_stored(num_lists):
    bank = make_bank(3, num_rotations=2, num_lists=num_lists)
    again = MemoryBank.from_tensors(bank.tensors())
    for name in ("tokens", "reference_index", "reference_foreground"):
        assert np.array_equal(getattr(again, name), getattr(bank, name))
    assert again.reference_foreground.dtype == bool
    if num_lists:
        assert np.array_equal(again.centroids, bank.centroids)
    else:
        assert again.centroids is None
        assert set(bank.tensors()) == {"memory_bank", "reference_index", "reference_foreground"}


@pytest.mark.parametrize("name", ["memory_bank", "reference_index", "reference_foreground"])
def test_bank_without_a_part_is_refused_by_its_name(name):
    lacking = {key: value for key, value in stored().items() if key != name}
    with pytest.raises(InspectionRefused, match=f"the memory bank lacks '{name}'"):
        MemoryBank.from_tensors(lacking)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("memory_bank", np.float64),
        ("memory_bank", np.float16),
        ("reference_index", np.int64),
        ("reference_foreground", np.float32),
        ("centroids", np.float64),
    ],
)
def test_other_types_are_refused(name, dtype):
    with pytest.raises(InspectionRefused, match=f"'{name}' is {np.dtype(dtype)}, expected"):
        MemoryBank.from_tensors(stored(**{name: stored()[name].astype(dtype)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 0.5, 3e38])
def test_row_that_cannot_be_searched_is_refused(value):
    """A NaN would be skipped as if that row were far away, a long row would be near everything."""
    tokens = unit_rows(12)
    tokens[5] = value
    with pytest.raises(InspectionRefused, match="rows that are no unit vectors"):
        MemoryBank.from_tensors(stored(memory_bank=tokens))


def test_last_row_of_many_blocks_is_checked_too():
    rows = np.tile(unit_rows(1, 2), (65_537, 1))
    check_unit_rows(rows)
    rows[-1] = np.nan
    with pytest.raises(InspectionRefused, match="no unit vectors"):
        check_unit_rows(rows)


def test_rows_may_be_off_by_rounding_only():
    for scale, fits in ((1.0005, True), (0.9995, True), (1.01, False), (0.99, False)):
        rows = unit_rows(12) * np.float32(scale)
        if fits:
            check_unit_rows(rows)
        else:
            with pytest.raises(InspectionRefused, match="no unit vectors"):
                check_unit_rows(rows)


@pytest.mark.parametrize("shape", [(0, 8), (12, 0), (96,), (2, 6, 8), ()])
def test_bank_that_is_no_matrix_or_empty_is_refused(shape):
    with pytest.raises(InspectionRefused, match="the memory bank is empty"):
        MemoryBank.from_tensors(stored(memory_bank=np.ones(shape, np.float32)))


@pytest.mark.parametrize("shape", [(11,), (13,), (12, 1), ()])
def test_every_row_says_where_it_comes_from(shape):
    with pytest.raises(InspectionRefused, match="where each of its rows comes from"):
        MemoryBank.from_tensors(stored(reference_index=np.zeros(shape, np.int32)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_centroids_that_attract_nothing_are_refused(value):
    centroids = unit_rows(4)
    centroids[1, 1] = value
    with pytest.raises(InspectionRefused, match="centroids are not finite"):
        MemoryBank.from_tensors(stored(centroids=centroids))


def test_rows_on_disk_are_those_appended(tmp_path):
    rows = RowFile(tmp_path)
    first, second = unit_rows(3, seed=1), unit_rows(5, seed=2)
    rows.append(first)
    rows.append(second.astype(np.float64))
    assert rows.num_rows == 8
    assert np.array_equal(rows.rows(), np.concatenate([first, second]))
    rows.append(first)  # also after they were read
    assert np.array_equal(rows.rows()[8:], first)
    assert rows.rows().shape == (11, DIM)
    rows.close()


def test_rows_are_mapped_and_not_read(tmp_path):
    rows = RowFile(tmp_path)
    rows.append(unit_rows(3))
    assert isinstance(rows.rows(), np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        rows.rows()[0, 0] = 1.0
    rows.close()


def test_rows_in_other_order_in_memory_are_appended_by_value(tmp_path):
    turned = np.asfortranarray(unit_rows(4))
    rows = RowFile(tmp_path)
    rows.append(turned)
    assert np.array_equal(rows.rows(), turned)
    rows.close()


def test_nothing_is_left_of_rows_on_disk(tmp_path):
    rows = RowFile(tmp_path)
    rows.append(unit_rows(1000))
    assert os.listdir(tmp_path) == []  # no name that a killed process could leave
    rows.close()
    with pytest.raises(ValueError, match="closed"):
        rows.append(unit_rows(1))


def test_no_rows_are_an_error(tmp_path):
    rows = RowFile(tmp_path)
    with pytest.raises(ValueError, match="empty"):
        rows.rows()
    rows.close()


def test_full_disk_is_told_before_it_is_full(tmp_path, monkeypatch):
    rows = RowFile(tmp_path)
    rows.append(unit_rows(3))
    monkeypatch.setattr(memory_bank, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(InspectionRefused, match=f"2 more patches need {2 * DIM * 4} and"):
        rows.append(unit_rows(2))
    assert rows.num_rows == 3
    rows.close()
