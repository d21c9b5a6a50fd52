"""What an approximate search loses, measured and not guessed."""

from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import mean_of_k_nearest

import search_loss
from bank_search import open_bank
from bundle import Scoring
from coreset import greedy_coreset
from image_score import top_fraction_mean
from inverted_lists import train_centroids
from memory_bank import MemoryBank
from nearest_neighbours import CosineSearch, offered_precisions, unit_vectors
from search_loss import exact_distances, measure_loss


def unit(rows, seed, dim=24):
    return unit_vectors(np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32))


class Made:
    """A search that answers what it is told to."""

    size_bytes = 0

    def __init__(self, *answers):
        self._answers = list(answers)

    def distances(self, queries):
        answer = self._answers.pop(0)
        assert len(answer) == len(queries)
        return np.array(answer, np.float32)


@pytest.mark.parametrize("num_neighbours", [1, 3, 10])
@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_exact_distances_equal_the_reference_whatever_the_blocks(
    monkeypatch, num_neighbours, block_rows
):
    monkeypatch.setattr(search_loss, "_BLOCK_ROWS", block_rows)
    rows, queries = unit(150, 0), unit(20, 1)
    found = exact_distances(rows, queries, num_neighbours)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, mean_of_k_nearest(queries, rows, num_neighbours), atol=1e-6)


def test_rows_may_lie_on_disk(tmp_path):
    rows, queries = unit(100, 0), unit(10, 1)
    on_disk = np.memmap(tmp_path / "rows", np.float32, "w+", shape=rows.shape)
    on_disk[:] = rows
    assert np.array_equal(exact_distances(on_disk, queries, 2), exact_distances(rows, queries, 2))


def test_a_row_that_is_in_the_bank_is_at_distance_zero():
    rows = unit(50, 0)
    found = exact_distances(rows, np.concatenate([rows[:2], -rows[:1]]), 1)
    assert found[:2] == pytest.approx([0, 0], abs=1e-6)
    assert (found >= 0).all()
    assert found[2] == pytest.approx(1 + (rows @ rows[0]).min(), abs=1e-6)


def test_loss_by_hand():
    """The bank's only row is at right angles to two patches and opposite to the others."""
    rows = np.array([[1, 0]], np.float32)
    right, opposite = np.array([[0, 1]], np.float32), np.array([[-1, 0]], np.float32)
    probes = [np.concatenate([right, opposite]), np.concatenate([right, right])]
    # Exact: 1, 2 and 1, 1. The score of so few patches is the largest.
    search = Made([1.0, 2.5], [1.25, 1.0])
    assert measure_loss(search, rows, probes, 1) == {
        "images": 2,
        "max_distance_error": pytest.approx(0.5),
        "mean_distance_error": pytest.approx(0.75 / 4),
        "max_score_change": pytest.approx(0.25),  # 2.5 / 2 and 1.25 / 1
    }


def test_a_smaller_score_is_a_change_too():
    rows = np.array([[1, 0]], np.float32)
    found = measure_loss(Made([0.4]), rows, [np.array([[0, 1]], np.float32)], 1)
    assert found["max_distance_error"] == pytest.approx(0.6)
    assert found["max_score_change"] == pytest.approx(0.6)


def test_an_image_of_the_bank_itself_has_no_share_to_lose():
    rows = np.array([[1, 0]], np.float32)
    found = measure_loss(Made([0.0]), rows, [rows], 1)
    assert (found["max_distance_error"], found["max_score_change"]) == (0.0, 0.0)


@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_exact_search_in_fp32_loses_nothing(num_neighbours):
    rows, probes = unit(500, 0), [unit(40, 1), unit(40, 2)]
    search = CosineSearch(rows, 40, "fp32", num_neighbours)
    found = measure_loss(search, rows, probes, num_neighbours)
    assert found["max_distance_error"] < 1e-6
    assert found["max_score_change"] < 1e-6


@pytest.mark.parametrize("kind", ["coreset", "ivf", "rounded"])
def test_no_patch_of_the_probes_is_off_by_more_than_what_is_recorded(kind):
    rows, probes, k = unit(1000, 0), [unit(150, 1), unit(150, 2)], 2
    bank = MemoryBank(rows, np.zeros(1000, np.int32), np.ones((1, 10, 15), bool))
    scoring = Scoring(k, "mean_top1p", "exact", 0, 0, 1.0, None)
    if kind == "coreset":
        kept = greedy_coreset(rows, 100)
        bank = MemoryBank(rows[kept], np.zeros(100, np.int32), bank.reference_foreground)
    if kind == "ivf":
        centroids = train_centroids(rows, 16, seed=0)
        bank = MemoryBank(rows, bank.reference_index, bank.reference_foreground, centroids)
        scoring = Scoring(k, "mean_top1p", "ivf", 16, 2, 1.0, None)
    precision = offered_precisions()[0] if kind == "rounded" else "fp32"
    if (kind, precision) == ("rounded", "fp32"):
        pytest.skip("this processor rounds nothing")
    search = open_bank(bank, scoring, 150, precision)
    loss = measure_loss(search, rows, probes, k)
    changes = []
    for probe in probes:
        truth = mean_of_k_nearest(probe, rows, k)
        error = np.abs(search.distances(probe) - truth)
        assert error.max() <= loss["max_distance_error"] + 1e-6
        score = top_fraction_mean(truth)
        changes.append(abs(top_fraction_mean(search.distances(probe)) - score) / score)
    assert max(changes) == pytest.approx(loss["max_score_change"], abs=1e-5)
    assert 0 < loss["mean_distance_error"] < loss["max_distance_error"]
