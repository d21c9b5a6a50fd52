from __future__ import annotations

import contextlib

import numpy as np
import pytest

import mutual_scoring
from memory_bank import RowFile
from mutual_scoring import num_nearest, tail_distances
from nearest_neighbours import unit_vectors


@pytest.fixture
def row_file(tmp_path):
    """Makes row files, written in pieces, as images are; they are closed afterwards."""
    with contextlib.ExitStack() as stack:

        def make(rows):
            file = stack.enter_context(contextlib.closing(RowFile(tmp_path)))
            for first in range(0, len(rows), 7):
                file.append(rows[first : first + 7])
            return file

        yield make


def brute_force(rows, own, count, statistic):
    """Equations 5 to 7, one patch after the other, in float64."""
    rows = rows.astype(np.float64)
    others = np.concatenate([rows[: own.start], rows[own.stop :]])
    found = []
    for row in rows[own]:
        nearest = np.sort(1 - others @ row)[:count]
        below = nearest[nearest < nearest[-1]]
        found.append(nearest[-1] if statistic == "max" or not len(below) else below.mean())
    return np.array(found)


@pytest.mark.parametrize(
    ("num_bank_rows", "alpha", "count"),
    [(306_176, 0.001, 306), (999, 0.001, 1), (1000, 0.001, 1), (2999, 0.001, 2), (10, 0.25, 2)],
)
def test_share_of_nearest_is_rounded_down_to_at_least_one(num_bank_rows, alpha, count):
    assert num_nearest(num_bank_rows, alpha) == count


def test_distances_by_hand(row_file):
    """Four directions; the patch (1, 0) is 0, 1 and 2 away from those of the other images."""
    rows = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    file = row_file(rows)
    own = slice(0, 1)
    assert [tail_distances(file, own, count)[0] for count in (1, 2, 3)] == [0, 1, 2]
    means = [tail_distances(file, own, count, "mean")[0] for count in (1, 2, 3)]
    assert means == [0, 0, 0.5]  # of one distance nothing is below it, so itself


@pytest.mark.parametrize("statistic", ["max", "mean"])
@pytest.mark.parametrize("count", [1, 5, 150, 290])
@pytest.mark.parametrize("own", [slice(0, 10), slice(130, 140), slice(290, 300)])
def test_equals_brute_force_whatever_the_blocks(row_file, monkeypatch, statistic, count, own):
    generator = np.random.default_rng(3)
    rows = unit_vectors(generator.standard_normal((300, 16)).astype(np.float32))
    rows[137] = rows[12]  # a twin in another image
    file = row_file(rows)
    expected = brute_force(rows, own, count, statistic)
    for block_rows, max_distances in ((1, 1 << 24), (64, 1), (64, 700), (1000, 1 << 24)):
        monkeypatch.setattr(mutual_scoring, "BLOCK_ROWS", block_rows)
        monkeypatch.setattr(mutual_scoring, "_MAX_DISTANCES", max_distances)
        found = tail_distances(file, own, count, statistic)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_own_patches_never_count(row_file):
    """An image of one colour has 1,000 patches alike; what others hold decides all the same."""
    rows = np.zeros((60, 4), np.float32)
    rows[:50, 0] = 1
    rows[50:, 1] = 1
    distances = tail_distances(row_file(rows), slice(0, 50), 10)
    np.testing.assert_array_equal(distances, 1)


def test_impossible_questions_are_errors(row_file):
    file = row_file(np.eye(4, dtype=np.float32))
    with pytest.raises(ValueError, match="expected one of max, mean"):
        tail_distances(file, slice(0, 1), 1, "median")
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"cannot take the {count} nearest of 3 rows"):
            tail_distances(file, slice(0, 1), count)


def test_rows_are_read_back_and_no_others(tmp_path, row_file):
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    file = row_file(rows)
    np.testing.assert_array_equal(file.read(6, 5), rows[6:11])
    file.append(rows[:1])  # reading moves no write position
    np.testing.assert_array_equal(file.read(20, 1), rows[:1])
    with pytest.raises(ValueError, match="rows 20 to 22 of 21"):
        file.read(20, 2)
    assert list(tmp_path.iterdir()) == []
