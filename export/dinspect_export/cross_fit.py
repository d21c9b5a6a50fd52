"""Patch distances of cached images by students, above all by students that never saw them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dinspect_export.errors import TrainingError
from dinspect_export.students import (
    DEFAULT_OPTIONS,
    DistanceOptions,
    StudentDistance,
    TrainedStudents,
)
from dinspect_export.token_cache import TokenCache
from dinspect_export.training import OnStep, TrainingOptions, train_students
from dinspect_export.variants import BackboneVariant


def measure_distances(
    students: TrainedStudents,
    cache: TokenCache,
    indices: Sequence[int],
    grid: tuple[int, int],
    options: DistanceOptions = DEFAULT_OPTIONS,
) -> NDArray[np.float32]:
    """Distance of every patch of some images to what students expect of it, in FP32.

    Args:
        students: The networks.
        cache: Tokens of their backbone and blocks.
        indices: Which of its images to measure.
        grid: Patch grid ``(rows, columns)``.
        options: How the distance is computed.

    Returns:
        ``(len(indices), rows, columns)`` float32, see `StudentDistance`.

    Raises:
        TrainingError: If an image is not in the cache, or the cache's tokens are of other blocks.
        InvalidGeometryError: If the grid or the width is not that of the tokens.
    """
    cache.require_blocks(students.variant, students.layers)
    cache.require(indices)
    model = StudentDistance(students.pair, grid, options)
    device = next(students.pair.parameters()).device
    distances = np.empty((len(indices), *grid), dtype=np.float32)
    with torch.inference_mode():
        for row, index in enumerate(indices):
            tokens_j, tokens_k = (tokens.to(device) for tokens in cache.read([index]))
            distances[row] = model(tokens_j, tokens_k)[0].cpu().numpy()
    return distances


def cross_fit(
    cache: TokenCache,
    variant: BackboneVariant,
    layers: tuple[int, int],
    grid: tuple[int, int],
    options: TrainingOptions,
    distance_options: DistanceOptions = DEFAULT_OPTIONS,
    num_folds: int = 2,
    *,
    checkpoint_dir: Path | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> NDArray[np.float32]:
    """Distances of all images, each from students that never saw it.

    Students know the images they were trained on, and find them less anomalous than other good
    ones; a threshold above these distances would be too low. Image i is of fold
    ``i % num_folds``, and the students trained on the other folds measure it, after as many steps
    as students of all images take: with fewer they would know less of any image, and the threshold
    be too high. What remains is that they have seen fewer images.

    Args:
        cache: Tokens of good images.
        variant: Backbone the tokens are of.
        layers: One-based blocks ``(j, k)`` the tokens are of.
        grid: Patch grid ``(rows, columns)``.
        options: How to train on all images; the same seed for each fold.
        distance_options: How the distance is computed.
        num_folds: How often students are trained; each time on all images but one in so many.
        checkpoint_dir: Folder of the folds' checkpoints, see `train_students`.
        device: Where PyTorch trains, ``cpu`` or ``cuda``.
        on_step: Called after each step; its count begins anew with each fold.

    Returns:
        ``(images, rows, columns)`` float32.

    Raises:
        TrainingError: If there are fewer than two folds, or fewer images than folds.
        Others: Those of `train_students` and `measure_distances`.
    """
    num_images = cache.key.num_images
    if not 2 <= num_folds <= num_images:
        raise TrainingError(
            f"{num_images} images cannot be parted into {num_folds} folds, expected at least two "
            "folds and an image for each; give more images"
        )
    distances = np.empty((num_images, *grid), dtype=np.float32)
    for fold in range(num_folds):
        measured = range(fold, num_images, num_folds)
        others = [index for index in range(num_images) if index not in measured]
        checkpoint = checkpoint_dir and checkpoint_dir / f"fold_{fold}_of_{num_folds}.safetensors"
        students, _ = train_students(
            cache, others, variant, layers, _with_steps_of(options, num_images, len(others)),
            checkpoint=checkpoint, device=device, on_step=on_step,
        )  # fmt: skip
        distances[fold::num_folds] = measure_distances(
            students, cache, measured, grid, distance_options
        )
    return distances


def _with_steps_of(options: TrainingOptions, num_images: int, num_others: int) -> TrainingOptions:
    """Epochs of fewer images, at least as many steps as those of all images take."""
    steps_each = math.ceil(num_others / options.batch_images)
    steps = options.epochs * math.ceil(num_images / options.batch_images)
    return replace(options, epochs=math.ceil(steps / steps_each))
