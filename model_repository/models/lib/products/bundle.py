"""What one version of an AnomalyDINO product is: the record beside its memory bank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from version_record import VersionRecord

SEARCHES = ("exact", "ivf")
MAX_NEIGHBOURS = 64


@dataclass(frozen=True)
class Preprocessing:
    """What is done to references and inspected images besides resizing.

    Attributes:
        setting: Name in `preprocessing.SETTINGS`.
        rotated: What the engineer said of the parts: they come in any orientation.
        texture: What the engineer said of the parts: a surface without background.
        rotations_deg: Angles of each reference in the memory bank, counter-clockwise.
        masked: Whether the background of inspected images is masked.
        masking_test: Outcome on the first reference; None where nothing was left to test.
        foreground_share: Smallest and largest share of foreground among the inspected patches of
            the references; None when not masked.
    """

    setting: str
    rotated: bool
    texture: bool
    rotations_deg: list[int]
    masked: bool
    masking_test: dict[str, Any] | None
    foreground_share: list[float] | None


@dataclass(frozen=True)
class Scoring:
    """How patch tokens become a score.

    Attributes:
        num_neighbours: Rows of the bank each patch is compared with; the mean distance counts.
        image_score: Name in `image_score.IMAGE_SCORES`.
        search: ``exact`` or ``ivf`` (inverted lists).
        num_lists: Lists of the bank; 0 when exact.
        num_probes: Lists searched per patch; 0 when exact.
        coreset_fraction: Share of the references' patches kept in the bank.
        measured_loss: What search and coreset change, against exact search in all patches, on
            images that are in no bank; None when neither is in use.
    """

    num_neighbours: int
    image_score: str
    search: str
    num_lists: int
    num_probes: int
    coreset_fraction: float
    measured_loss: dict[str, Any] | None


@dataclass(frozen=True)
class Region:
    """Which part of the image counts.

    Attributes:
        inspected: One text per row of the patch grid, ``1`` where a patch is inspected.
        roi_px: ``[x, y, width, height]`` in pixels of the references; None for the whole image.
        ignore_mask_sha256: Digest of the mask image whose bright pixels are ignored, if any.
        min_defect_area_px: Smaller defect regions do not count; pixels of the references.
    """

    inspected: list[str]
    roi_px: list[int] | None
    ignore_mask_sha256: str | None
    min_defect_area_px: int

    @classmethod
    def everything(cls, grid: tuple[int, int]) -> Region:
        """The whole image, whatever the size of a defect."""
        return cls(["1" * grid[1]] * grid[0], None, None, 0)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """``(rows, columns)`` bool, True where a patch is inspected."""
        return np.array([[cell == "1" for cell in row] for row in self.inspected])


@dataclass(frozen=True)
class Bundle(VersionRecord):
    """One version of an AnomalyDINO product, but for the bank itself.

    Attributes:
        layer: One-based block whose tokens are compared.
        preprocessing, scoring, region: As those say.
        backbone: Has ``search_precision`` besides.
        bank_sha256: Digest of the bank's file.
        format_version: Version of this layout.
    """

    FORMAT_VERSION: ClassVar[int] = 2

    layer: int
    preprocessing: Preprocessing
    scoring: Scoring
    region: Region
    bank_sha256: str
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = self.grid
        inspected = self.region.inspected
        if len(inspected) != rows or any(len(row) != columns for row in inspected):
            raise ValueError(f"the inspected region is not of the grid {rows} x {columns}")
