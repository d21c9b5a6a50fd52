"""AUPRO by the size of the defects, and the robustness to it, as L2BT's paper defines them.

Section IV-A.2 parts the defects of a class by cumulative quartiles of their size: Q1 holds the
smallest quarter, Q2 and Q3 the smaller half and three quarters, Q4 all of them, so that Q4's AUPRO
is the usual one. What it leaves open is read as the authors' code does it (`B_infer_VisA.py`,
`utils/metrics_utils.py`):

* A defect is a region of 8-connected pixels, its size their number at the ground truth's own
  resolution, and the quartiles are those of all regions of the class's test set together
  (`numpy.quantile`, linear between two sizes). A region as large as the bound belongs to the bin:
  none is ever empty, and where sizes repeat it holds more than its quarter.
* Normal pixels are the same in every bin: those outside all defects, of all test images. Pixels of
  a defect outside the bin count as nothing at all. As false positives they would punish a method
  for finding a real defect; without its image, the bins would differ in their normal pixels.

Equation 4, the robustness, is in the paper alone. It is taken of one class here; the paper does not
say whether its tables hold the mean over classes of the robustness or that of the mean AUPROs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Quartiles = tuple[float, float, float, float]
"""One figure for each of Q1 to Q4."""

_SHARES = (0.25, 0.5, 0.75, 1.0)


def quartile_bounds_px(region_sizes_px: NDArray[np.int64]) -> Quartiles:
    """Largest size in pixels that Q1, Q2, Q3 and Q4 hold.

    Args:
        region_sizes_px: Pixels of each region, ``(R,)``, R at least 1.
    """
    q1, q2, q3, q4 = np.quantile(region_sizes_px, _SHARES).tolist()
    return q1, q2, q3, q4


def quartile_means(
    region_areas: NDArray[np.float64], region_sizes_px: NDArray[np.int64]
) -> Quartiles:
    """AUPRO of Q1 to Q4.

    Args:
        region_areas: Area under each region's overlap curve, ``(R,)``, in [0, 1].
        region_sizes_px: Pixels of each region, ``(R,)``.
    """
    q1, q2, q3, q4 = (
        float(region_areas[region_sizes_px <= bound].mean())
        for bound in quartile_bounds_px(region_sizes_px)
    )
    return q1, q2, q3, q4


def robustness(aupro_quartiles: Sequence[float]) -> float:
    """How little AUPRO depends on the size of the defects, weighted by how good it is (Eq. 4).

    Args:
        aupro_quartiles: AUPRO of Q1, Q2, Q3 and Q4, each in [0, 1].

    Returns:
        A number in [0, 1], at most the mean of the four. Where Q1 and Q4 are both 0 nothing was
        found, and Eq. 4 would divide by 0: it is 0.
    """
    smallest, everything = aupro_quartiles[0], aupro_quartiles[3]
    best = max(smallest, everything)
    if best == 0:
        return 0.0
    sensitivity = abs(everything - smallest) / best
    return sum(aupro_quartiles) / len(aupro_quartiles) * (1 - sensitivity)
