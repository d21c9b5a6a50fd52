"""Distances of images, by students that never saw them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from random_networks import tiny
from reference import l2bt_reference as reference
from small_trainings import (
    LAYERS,
    OPTIONS,
    VARIANT,
    StopHereError,
    float64,
    make_cache,
    tokens_float64,
    train,
)

from dinspect_export.cross_fit import cross_fit, measure_distances
from dinspect_export.errors import (
    InvalidGeometryError,
    TrainingError,
)
from dinspect_export.students import DistanceOptions
from dinspect_export.training import (
    TrainingOptions,
    train_students,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("combination", ["product", "forward"])
def test_distances_are_those_of_the_reference(cache, combination):
    students, _ = train(cache)
    options = DistanceOptions(combination=combination)
    found = measure_distances(students, cache, [2, 0], (2, 3), options)
    assert found.dtype == np.float32
    for distances, index in zip(found, (2, 0), strict=True):
        tokens_j, tokens_k = (tokens[0] for tokens in tokens_float64(cache, [index]))
        forward, backward = students.pair.forward_student, students.pair.backward_student
        expected = reference.patch_distances(
            tokens_j, tokens_k, float64(forward), float64(backward),
            "l2", "euclidean", combination, (2, 3),
        )  # fmt: skip
        np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)


def test_another_grid_is_refused(cache):
    students, _ = train(cache)
    with pytest.raises(InvalidGeometryError, match="grid of 2 x 2"):
        measure_distances(students, cache, [0], (2, 2))


def test_students_that_measure_an_image_never_saw_it(tmp_path):
    cache = make_cache(tmp_path / "cache", num_images=5)
    folds = {(0, 3): [1, 2, 4], (1, 4): [0, 2, 3], (2,): [0, 1, 3, 4]}
    steps = []
    found = cross_fit(
        cache, VARIANT, LAYERS, (2, 3), OPTIONS, DistanceOptions(metric="cosine"), 3,
        on_step=lambda step, num_steps, loss: steps.append(num_steps),
    )  # fmt: skip
    assert (found.shape, found.dtype) == ((5, 2, 3), np.float32)
    # All five images take three epochs of three steps; a fold of three or four takes two an epoch.
    assert steps == [10] * 30
    for measured, trained_on in folds.items():
        students, _ = train(cache, dataclasses.replace(OPTIONS, epochs=5), trained_on)
        options = DistanceOptions(metric="cosine")
        expected = measure_distances(students, cache, measured, (2, 3), options)
        np.testing.assert_array_equal(found[list(measured)], expected)


def test_stopped_cross_fit_goes_on(cache, tmp_path):
    expected = cross_fit(cache, VARIANT, LAYERS, (2, 3), OPTIONS)
    steps = []

    def stop_in_the_second_fold(step, num_steps, loss):
        steps.append(step)
        if len(steps) == 8:
            raise StopHereError

    for on_step in (stop_in_the_second_fold, lambda step, *_: steps.append(step)):
        try:
            found = cross_fit(
                cache, VARIANT, LAYERS, (2, 3), OPTIONS,
                checkpoint_dir=tmp_path / "folds", on_step=on_step,
            )  # fmt: skip
        except StopHereError:
            continue
    np.testing.assert_array_equal(found, expected)
    # A fold has six epochs of one step; the second is stopped after the checkpoint of its second.
    assert steps == [*range(1, 7), *range(1, 7)]


@pytest.mark.parametrize("num_folds", [1, 4])
def test_folds_that_cannot_be_are_refused(cache, num_folds):
    with pytest.raises(TrainingError, match=f"3 images cannot be parted into {num_folds} folds"):
        cross_fit(cache, VARIANT, LAYERS, (2, 3), OPTIONS, num_folds=num_folds)


def anonymous_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    num_images, num_patches, dim = 16, 2048, 64
    cache = make_cache(tmp_path / "cache", num_images, num_patches, dim)
    options = TrainingOptions(epochs=1, batch_images=1)

    def most_bytes(indices):
        found = []
        students, _ = train_students(
            cache, indices, tiny(dim=dim), LAYERS, options,
            on_step=lambda *_: found.append(anonymous_bytes()),
        )  # fmt: skip
        measure_distances(students, cache, indices, (32, 64))
        return max(*found, anonymous_bytes())

    all_tokens_bytes = 2 * num_images * num_patches * dim * 4
    few = most_bytes([0, 1])
    assert most_bytes(range(num_images)) - few < all_tokens_bytes / 2
