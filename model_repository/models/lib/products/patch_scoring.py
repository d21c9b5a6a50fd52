"""From an image's patch tokens to distances, score and verdict, as a product's version says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bank_search import Search
from bundle import Bundle
from calibration import counted_score
from foreground import foreground_mask
from image_preparation import same_aspect
from image_score import verdict
from inspected_region import area_px
from nearest_neighbours import unit_tokens
from refusals import InspectionRefused
from wire import Verdict

MIN_FOREGROUND = 0.5
"""Share of the references' smallest foreground below which a mask is not believed."""


@dataclass(frozen=True)
class Scored:
    """What is known of one image.

    Attributes:
        distances: ``(rows, columns)`` float32, 0 where masked or outside the region.
        anomaly_score: The version's image score.
        verdict: What the score means.
    """

    distances: NDArray[np.float32]
    anomaly_score: float
    verdict: Verdict


class PatchScorer:
    """Scores images by one version.

    Args:
        bundle: The version.
        search: Its bank, ready to search.
    """

    def __init__(self, bundle: Bundle, search: Search) -> None:
        self.bundle = bundle
        self._search = search
        self._inspected = bundle.region.mask
        self._min_area_px = bundle.region.min_defect_area_px

    def score(self, tokens: NDArray[np.float32], image_size: tuple[int, int]) -> Scored:
        """Score one image.

        Args:
            tokens: ``(N, D)`` float32 patch tokens as the backbone puts them out.
            image_size: Height and width of the image in pixels.

        Raises:
            InspectionRefused: If the image has another geometry than the product's.
            ValueError: If the tokens are a broken backbone's, see `unit_tokens`.
        """
        self._check_geometry(image_size)
        bundle = self.bundle
        distances = self._search.distances(unit_tokens(tokens)).reshape(bundle.patch_grid)
        foreground = np.ones(bundle.patch_grid, bool)
        if bundle.preprocessing.masked:
            foreground = foreground_mask(tokens, bundle.patch_grid)
        distances = np.where(foreground & self._inspected, distances, np.float32(0))
        score = counted_score(
            bundle.scoring.image_score,
            distances,
            foreground,
            bundle.region,
            (bundle.image_size[0], bundle.image_size[1]),
            bundle.defect_threshold,
        )
        said = verdict(score, bundle.normal_below, bundle.threshold)
        if said is Verdict.NORMAL and not self._would_show(foreground):
            said = Verdict.UNDECIDED
        return Scored(distances, score, said)

    def _would_show(self, foreground: NDArray[np.bool_]) -> bool:
        """Whether a defect could have raised the score at all.

        A part that is missing, or taken for background, has nothing that could look odd; nor has
        one with less to look at than the smallest defect that counts. Where a reference has no
        foreground either, nobody knows how much a whole part has.
        """
        counted = foreground & self._inspected
        height, width = self.bundle.image_size
        if not counted.any() or area_px(counted, (height, width)) < self._min_area_px:
            return False
        known = self.bundle.preprocessing.foreground_share
        if known is None:
            return True
        share = counted.sum() / self._inspected.sum()
        return bool(known[0] > 0 and share >= MIN_FOREGROUND * known[0])

    def _check_geometry(self, size: tuple[int, int]) -> None:
        height, width = self.bundle.image_size
        if not same_aspect(size, (height, width)):
            raise InspectionRefused(
                f"the image is {size[1]} x {size[0]} px, but product '{self.bundle.product}' was "
                f"enrolled from {width} x {height} px; a product has one camera geometry"
            )
