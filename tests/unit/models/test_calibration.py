from __future__ import annotations

import numpy as np
import pytest
from reference.anomaly_dino_reference import image_score, patch_distances

from calibration import MAX_LEFT_OUT, leave_one_out_scores, rotations, threshold_at
from nearest_neighbours import unit_vectors


def references(images, patches=150, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    return unit_vectors(rng.normal(size=(images, patches, dim)).astype(np.float32))


def test_each_reference_is_scored_against_all_others():
    tokens = references(5)
    found = leave_one_out_scores(tokens, "fp32")
    for index in range(5):
        others = np.delete(tokens, index, axis=0).reshape(-1, 16)
        assert found[index] == pytest.approx(
            image_score(patch_distances(tokens[index], others)), abs=1e-6
        )


def test_a_stranger_among_the_references_stands_out():
    tokens = np.repeat(references(1), 4, axis=0)
    tokens[2] *= -1
    found = leave_one_out_scores(tokens, "fp32")
    assert found[[0, 1, 3]] == pytest.approx([0, 0, 0], abs=1e-6)
    assert found[2] > 0.5


def test_many_references_are_sampled_evenly():
    assert len(leave_one_out_scores(references(100, patches=4), "fp32")) == MAX_LEFT_OUT


@pytest.mark.parametrize(("rate", "expected"), [(0.5, 6.0), (0.1, 10.0), (0.2, 9.0), (0.01, 10.0)])
def test_threshold_keeps_the_share_of_rejected_in_bounds(rate, expected):
    scores = np.arange(1.0, 11.0)
    threshold = threshold_at(scores, rate)
    assert threshold == expected
    assert (scores > threshold).mean() <= rate


def test_rotations_keep_size_and_reflect_the_border():
    image = np.random.default_rng(0).integers(100, 256, (60, 60, 3), dtype=np.uint8)
    turned = rotations(image)
    assert len(turned) == 7
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in turned)
    assert min(one.min() for one in turned) >= 100  # no black corners


def test_sampled_references_reach_from_the_first_to_the_last():
    tokens = np.repeat(references(1, patches=4), 100, axis=0)
    tokens[99] *= -1
    found = leave_one_out_scores(tokens, "fp32")
    assert found[-1] > 0.5
    assert found[:-1] == pytest.approx(np.zeros(MAX_LEFT_OUT - 1), abs=1e-6)


def test_half_a_turn_is_half_a_turn():
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    half = rotations(image)[3]
    # The centre of rotation is a pixel's corner, so row and column 0 come from the border.
    assert np.array_equal(half[1:, 1:], image[::-1, ::-1][:-1, :-1])
