"""A bank is opened for search as its version says."""

from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import mean_of_k_nearest

from bank_search import bank_size_bytes, open_bank
from bundle import Scoring
from inverted_lists import InvertedLists, train_centroids
from memory_bank import MemoryBank
from nearest_neighbours import CosineSearch, search_size_bytes, unit_vectors

_random = np.random.default_rng(0)
ROWS = unit_vectors(_random.standard_normal((3000, 48)).astype(np.float32))
QUERIES = unit_vectors(_random.standard_normal((50, 48)).astype(np.float32))
NUM_LISTS = 32


def bank(centroids=None):
    return MemoryBank(ROWS, np.zeros(3000, np.int32), np.ones((1, 5, 10), bool), centroids)


def scoring(search="exact", num_probes=0, num_neighbours=3):
    return Scoring(num_neighbours, "mean_top1p", search, NUM_LISTS, num_probes, 1.0, None)


@pytest.mark.parametrize(("search", "precision"), [("exact", "fp32"), ("ivf", "fp16")])
def test_both_searches_answer_as_the_reference(search, precision):
    centroids = train_centroids(ROWS, NUM_LISTS, seed=0)
    opened = open_bank(bank(centroids), scoring(search, NUM_LISTS), len(QUERIES), precision)
    assert isinstance(opened, CosineSearch if search == "exact" else InvertedLists)
    expected = mean_of_k_nearest(QUERIES, ROWS, 3)
    np.testing.assert_allclose(opened.distances(QUERIES), expected, atol=4e-4)
    lists = NUM_LISTS if search == "ivf" else 0
    assert opened.size_bytes == bank_size_bytes(3000, 48, precision, lists)


def test_size_without_lists_is_that_of_the_exact_search():
    assert bank_size_bytes(3000, 48, "fp32") == search_size_bytes(3000, 48, "fp32")


def test_search_that_cannot_be_opened_is_refused():
    with pytest.raises(ValueError, match="needs centroids"):
        open_bank(bank(), scoring("ivf", 1), 50, "fp32")
    with pytest.raises(ValueError, match="cannot visit 0"):
        open_bank(bank(train_centroids(ROWS, 4, seed=0)), scoring("ivf", 0), 50, "fp32")
    with pytest.raises(ValueError, match="'hnsw' is no search"):
        open_bank(bank(), scoring("hnsw"), 50, "fp32")
