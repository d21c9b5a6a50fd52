"""What a product and an answer must be, from PyTorch and the slow reference alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from reference import anomaly_dino_reference as reference

from dinspect_export.backbone import ExportableBackbone

DISTANCE_TOLERANCE = 1e-4
MAP_TOLERANCE = 1e-3
MASK_MARGIN = 1e-3
"""A patch nearer to the threshold may fall on either side: tokens of two runtimes differ by 1e-4."""


class TorchTokens:
    """Patch tokens of one block, ``(H, W, 3)`` uint8 pixels to ``(N, D)``."""

    def __init__(self, network, layer):
        self._network, self._layer = network, layer
        self._backbones, self._known = {}, {}

    def __call__(self, pixels):
        key = (pixels.shape, pixels.tobytes())
        if key not in self._known:
            self._known[key] = self._compute(pixels)
        return self._known[key]

    def _compute(self, pixels):
        grid = (pixels.shape[0] // 14, pixels.shape[1] // 14)
        if grid not in self._backbones:
            self._backbones[grid] = ExportableBackbone(self._network, grid, [self._layer]).eval()
        with torch.inference_mode():
            return self._backbones[grid](torch.from_numpy(pixels.copy())[None])[0][0].numpy()


@dataclass
class Expected:
    """What the server must answer for one image."""

    distances: np.ndarray
    foreground: np.ndarray
    score: float
    map: np.ndarray


class SlowProduct:
    """A product, with the settings by which its images are scored.

    Args:
        tokens_of: `TorchTokens`.
        references: Files of good parts.
        resolution: Shorter edge in pixels.
        angles_deg: Of each reference in the bank.
        masks: Whether backgrounds are masked.
        num_neighbours: Rows each patch is compared with.
        image_score: Name of the image score.
    """

    def __init__(
        self, tokens_of, references, *, resolution=448, angles_deg=(0,), masks=False,
        num_neighbours=1, image_score="mean_top1p",
    ):  # fmt: skip
        self._tokens_of, self._resolution = tokens_of, resolution
        self._masks, self._num_neighbours = masks, num_neighbours
        self._image_score = image_score
        images = [reference.decoded(path) for path in references]
        self.bank = np.concatenate(
            [
                tokens_of(reference.prepared(reference.rotate(image, angle_deg), resolution))
                for image in images
                for angle_deg in angles_deg
            ]
        )

    def inspect(self, path):
        """What the server must answer for a file."""
        image = reference.decoded(path)
        pixels = reference.prepared(image, self._resolution)
        grid = (pixels.shape[0] // 14, pixels.shape[1] // 14)
        tokens = self._tokens_of(pixels)
        if self._num_neighbours == 1:
            flat = reference.patch_distances(tokens, self.bank)
        else:
            flat = reference.mean_of_k_nearest(tokens, self.bank, self._num_neighbours)
        foreground = expected_foreground(tokens, grid) if self._masks else np.ones(grid, bool)
        return expected_answer(flat.reshape(grid), foreground, self._image_score, *image.shape[:2])


def expected_foreground(tokens, grid):
    """The mask, of an image whose mask does not hang on rounding."""
    margin = np.abs(np.abs(reference.first_component(tokens)) - 10).min()
    assert margin > MASK_MARGIN, "choose another image: a patch lies on the mask's threshold"
    return reference.foreground_mask(tokens, grid)


def expected_answer(distances, foreground, image_score, height, width):
    """Of the distances of all patches."""
    distances = reference.masked(distances, foreground)
    score = reference.named_score(image_score, distances, foreground, height, width)
    map_ = reference.anomaly_map(distances, height, width)
    return Expected(distances, foreground, score, map_)


def assert_answers(answer, expected):
    """Distances and score to 1e-4, the map to 1e-3, and the very same patches masked.

    Args:
        answer: Outputs by name, of one image, without the batch dimension.
        expected: `Expected`.
    """
    distances = answer["patch_distances"]
    assert np.array_equal(distances > 0, expected.foreground)
    np.testing.assert_allclose(distances, expected.distances, rtol=0, atol=DISTANCE_TOLERANCE)
    np.testing.assert_allclose(answer["anomaly_map"], expected.map, rtol=0, atol=MAP_TOLERANCE)
    assert answer["anomaly_score"].item() == pytest.approx(expected.score, abs=DISTANCE_TOLERANCE)


def first_of(answer):
    """An answer without its batch dimension."""
    return {name: value[0] for name, value in answer.items()}
