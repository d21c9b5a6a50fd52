"""The input sizes a server has, and which of them takes an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_preparation import PATCH_SIZE, patch_grid
from refusals import InspectionRefused

DEFAULT_RESOLUTION = 448

TokensOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Runs the served backbone: ``(H, W, 3)`` uint8 pixels to ``(N, D)`` float32 patch tokens."""


@dataclass(frozen=True)
class ServedSize:
    """One input size with the backbone that serves it.

    Attributes:
        label: ``448`` or ``448x588``.
        ensemble: Model that inspects at this size.
        backbone: Model that computes patch tokens.
        grid: Patch grid.
        layer: One-based block whose tokens are compared.
        name, onnx_sha256, weights_sha256: Identity of the backbone.
        file_sha256: Digest of the file that runs: the graph, or the engine built from it.
        native_runtime: Triton backend that runs it; empty when the model itself tells.
        native_precision: Precision of the graph it runs; empty likewise.
        dim: Width of a patch token; None where it was not told.
        layers: All blocks whose tokens the backbone puts out.
    """

    label: str
    ensemble: str
    backbone: str
    grid: tuple[int, int]
    layer: int
    name: str
    onnx_sha256: str
    weights_sha256: str
    file_sha256: str
    native_runtime: str
    native_precision: str
    dim: int | None = None
    layers: tuple[int, ...] = ()

    def identity(self) -> dict[str, str]:
        """Which backbone it is, as a version's record has it."""
        return {
            "name": self.name,
            "onnx_sha256": self.onnx_sha256,
            "weights_sha256": self.weights_sha256,
            "file_sha256": self.file_sha256,
        }

    @property
    def resolution(self) -> int:
        """Shorter edge of its input in pixels."""
        return PATCH_SIZE * min(self.grid)


def read_served_sizes(parameter: str) -> list[ServedSize]:
    """The input sizes that the assembler put into a model's ``served_sizes`` parameter."""
    return [
        ServedSize(**one | {"grid": tuple(one["grid"]), "layers": tuple(one.get("layers", ()))})
        for one in json.loads(parameter)
    ]


def choose_size(
    served: Iterable[ServedSize], image_size: tuple[int, int], resolution: int | None
) -> ServedSize:
    """The input size for images of a size in pixels.

    Args:
        served: What there is.
        image_size: Height and width of an image.
        resolution: Shorter edge asked for; None for `DEFAULT_RESOLUTION`, else the smallest that
            fits.

    Raises:
        InspectionRefused: If none is served for that aspect ratio and resolution.
    """
    known = sorted(
        served, key=lambda one: (one.resolution != DEFAULT_RESOLUTION, one.resolution, one.label)
    )
    for one in known:
        if resolution in (None, one.resolution) and one.grid == patch_grid(
            image_size, one.resolution
        ):
            return one
    rows, columns = patch_grid(image_size, resolution or known[0].resolution)
    raise InspectionRefused(
        f"a {image_size[1]} x {image_size[0]} px image needs input size "
        f"{rows * PATCH_SIZE}x{columns * PATCH_SIZE} (height x width), but this server has "
        f"{', '.join(one.label for one in known)}; export and assemble that size"
    )
