"""The figures two runs are compared by."""

from __future__ import annotations

import numpy as np
import pytest

from dinspect_export.parity import (
    Inspections,
    cosine_distance_per_patch,
    inspect_tokens,
    max_cosine_distance,
    max_score_change,
    verdict_flips,
)


def tokens(*angles):
    """One image of unit tokens at the given angles from the first axis, in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


def test_one_bad_patch_is_not_hidden():
    reference = np.random.default_rng(0).normal(size=(1, 1000, 8)).astype(np.float32)
    run = reference.copy()
    run[0, 500] *= -1
    assert max_cosine_distance(run, reference) == pytest.approx(2.0)
    assert (cosine_distance_per_patch(run, reference) > 1e-6).sum() == 1


def test_length_does_not_matter_but_nan_does():
    reference = np.ones((1, 4, 8), np.float32)
    assert max_cosine_distance(3 * reference, reference) == pytest.approx(0.0, abs=1e-9)
    broken = reference.copy()
    broken[0, 0, 0] = np.nan
    assert max_cosine_distance(broken, reference) == float("inf")
    with pytest.raises(ValueError, match="expected"):
        max_cosine_distance(reference[:, :2], reference)


def test_score_and_threshold_by_hand():
    """Two patches an image: the score is the larger distance, 1 - cos of the smallest angle."""
    references = np.stack([tokens(0, 90), tokens(10, 90)])
    images = np.stack([tokens(5, 90), tokens(40, 90)])
    found = inspect_tokens(references, images)
    assert found.threshold == pytest.approx(1 - np.cos(np.radians(10)), abs=1e-6)
    expected = [1 - np.cos(np.radians(5)), 1 - np.cos(np.radians(30))]
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.anomalous.tolist() == [False, True]


def test_score_is_the_mean_of_one_patch_in_a_hundred():
    angles = np.zeros(300)
    angles[[5, 100, 200, 299]] = [20, 30, 40, 10]
    references = np.stack([tokens(*np.zeros(300)), tokens(*np.zeros(300))])
    (score,) = inspect_tokens(references, tokens(*angles)[None]).scores
    assert score == pytest.approx(np.mean(1 - np.cos(np.radians([20, 30, 40]))), abs=1e-6)


def test_many_patches_are_scored_in_blocks():
    rng = np.random.default_rng(1)
    references = rng.normal(size=(2, 1500, 4)).astype(np.float32)
    image = rng.normal(size=(1, 1500, 4)).astype(np.float32)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    distances = np.sort(1 - (unit(image[0]) @ unit(references).reshape(-1, 4).T).max(axis=1))
    (score,) = inspect_tokens(references, image).scores
    assert score == pytest.approx(distances[-15:].mean(), rel=1e-5)


def test_one_reference_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        inspect_tokens(tokens(0)[None], tokens(0)[None])


def test_changes_are_told_with_each_runs_own_threshold():
    reference = Inspections(np.array([0.10, 0.20, 0.40]), threshold=0.30)
    run = Inspections(np.array([0.10, 0.21, 0.39]), threshold=0.395)
    assert max_score_change(run, reference) == pytest.approx(0.05)
    assert verdict_flips(run, reference) == 1
    broken = Inspections(np.array([0.10, np.nan, 0.40]), threshold=0.30)
    assert max_score_change(broken, reference) == float("inf")
    assert verdict_flips(broken, reference) == 1  # what is not a number is not normal
