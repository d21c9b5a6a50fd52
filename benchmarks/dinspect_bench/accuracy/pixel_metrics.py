"""How well anomaly maps show where the defects are, by every figure of both papers.

All are exact: every score that occurs is a threshold. Scikit-learn has three of them, but sorts an
index of 8 bytes a pixel, and a class of VisA has 300 million.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinspect_bench.accuracy.pixel_scores import PixelScores, collect_pixel_scores
from dinspect_bench.accuracy.region_overlap import pro_curve, region_areas
from dinspect_bench.accuracy.size_quartiles import (
    Quartiles,
    quartile_bounds_px,
    quartile_means,
    robustness,
)

_FPR_LIMITS = (0.3, 0.05, 1.0)  # AUPRO@30 %, AUPRO@5 %, and the whole curve for the AUROC


@dataclass(frozen=True)
class PixelMetrics:
    """Segmentation figures of one class; those without a unit lie in [0, 1], higher is better.

    Attributes:
        pixel_auroc: Area under the ROC curve of all pixels.
        pixel_f1_max: Largest F1 of any threshold over all pixels.
        pixel_average_precision: Mean precision over the defective pixels, each at its own score
            as the threshold.
        aupro_30: Area under the per-region overlap up to a false positive rate of 30 %.
        aupro_05: The same up to 5 %.
        aupro_30_quartiles: `aupro_30` of the smallest quarter, half and three quarters of the
            regions, and of all.
        aupro_05_quartiles: The same of `aupro_05`.
        robustness_30: Robustness to the size of defects (Eq. 4 of L2BT), from `aupro_30_quartiles`.
        robustness_05: The same from `aupro_05_quartiles`.
        num_regions: Defect regions in all masks.
        quartile_bounds_px: Largest region of each quartile bin, in pixels.
        pro_curve: At most 300 points (false positive rate, mean overlap) of the curve, to draw it.
    """

    pixel_auroc: float
    pixel_f1_max: float
    pixel_average_precision: float
    aupro_30: float
    aupro_05: float
    aupro_30_quartiles: Quartiles
    aupro_05_quartiles: Quartiles
    robustness_30: float
    robustness_05: float
    num_regions: int
    quartile_bounds_px: Quartiles
    pro_curve: list[tuple[float, float]]

    def to_record(self) -> dict[str, Any]:
        """The figures under the flat keys of an accuracy record; the curve is not among them."""
        record: dict[str, Any] = {
            "pixel_auroc": self.pixel_auroc,
            "pixel_f1_max": self.pixel_f1_max,
            "pixel_average_precision": self.pixel_average_precision,
            "aupro_30": self.aupro_30,
            "aupro_05": self.aupro_05,
            "robustness_30": self.robustness_30,
            "robustness_05": self.robustness_05,
            "num_regions": self.num_regions,
            "quartile_bounds_px": list(self.quartile_bounds_px),
        }
        for number, (at_30, at_05) in enumerate(
            zip(self.aupro_30_quartiles, self.aupro_05_quartiles, strict=True), start=1
        ):
            record |= {f"aupro_30_q{number}": at_30, f"aupro_05_q{number}": at_05}
        return record


def measure_pixels(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> PixelMetrics:
    """Every segmentation figure of one class, from the maps of all its test images.

    Args:
        maps: Anomaly map of each test image at the resolution of its ground truth, padding
            removed, ``(H, W)`` float32, finite, higher is worse. Sizes may differ between images.
        masks: Ground truth of each, ``(H, W)`` bool, True on a defect; all False for a good image.
            Both are read once and in order, so they may load an item when it is asked for. What is
            held of all of them is about 4 bytes a normal pixel and 8 a defective one.

    Raises:
        MetricError: If there is no image, the lengths differ, a map and its mask do not fit each
            other, a value is not finite, or no pixel at all is defective or none is normal.
    """
    scores = collect_pixel_scores(maps, masks)
    sizes_px = scores.region_sizes_px
    areas_30, areas_05, areas_whole = region_areas(scores, _FPR_LIMITS).T
    quartiles_30 = quartile_means(areas_30, sizes_px)
    quartiles_05 = quartile_means(areas_05, sizes_px)
    f1_max, average_precision = _f1_max_and_average_precision(scores)
    return PixelMetrics(
        pixel_auroc=float(np.average(areas_whole, weights=sizes_px)),
        pixel_f1_max=f1_max,
        pixel_average_precision=average_precision,
        aupro_30=quartiles_30[3],
        aupro_05=quartiles_05[3],
        aupro_30_quartiles=quartiles_30,
        aupro_05_quartiles=quartiles_05,
        robustness_30=robustness(quartiles_30),
        robustness_05=robustness(quartiles_05),
        num_regions=len(scores.regions),
        quartile_bounds_px=quartile_bounds_px(sizes_px),
        pro_curve=pro_curve(scores),
    )


def _f1_max_and_average_precision(scores: PixelScores) -> tuple[float, float]:
    """Both over all pixels.

    Only scores of defective pixels can be the best threshold: one lowered to a normal pixel's
    adds false positives and nothing else.
    """
    defective = np.sort(np.concatenate(scores.regions))
    f1_max = precision_sum = 0.0
    for region in scores.regions:  # together, every defective pixel; apart, they need less memory
        true_positives = defective.size - np.searchsorted(defective, region, side="left")
        positives = true_positives + scores.num_false_positives(region)
        f1 = 2 * true_positives / (positives + defective.size)
        f1_max = max(f1_max, float(f1.max()))
        precision_sum += float((true_positives / positives).sum())
    return f1_max, precision_sum / defective.size
