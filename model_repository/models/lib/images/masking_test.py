"""Whether the foreground masks of a product may be trusted.

Where a mask fails it hides part of the object, and with it the defects there. The paper masks
"whenever the zero-shot segmentation of DINOv2 captures the object correctly", judged by eye on the
first good reference alone (AnomalyDINO, Section C.1, Table 8 and Figure 14). The test here is a
cautious stand-in for that judgement, on the same image, and ours alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from foreground import MIN_CENTRE_SHARE, THRESHOLD, centre_of, enlarged, object_component

# More of the centre than MIN_CENTRE_SHARE is more than 12 % of the grid, so there is no lower limit
# of the foreground's share.
MAX_BORDER_SHARE = 0.25
MAX_HOLE_SHARE = 0.01
MAX_FOREGROUND_SHARE = 0.8
LOW_THRESHOLD, HIGH_THRESHOLD = 0.5 * THRESHOLD, 1.5 * THRESHOLD
MIN_STABILITY = 0.8
"""Of eleven battery welds, whose background flows into the part, nine had 0.57 at most; cookies
have 0.96 to 0.99 (packaged weights), the one image there is of DINOv2's own tokens 0.93."""


@dataclass(frozen=True)
class MaskingTest:
    """What the test found in one image. All shares are in [0, 1].

    Attributes:
        passed: Whether the mask may be trusted.
        reason: Why, as a sentence; the first condition that failed.
        foreground_share: Of all patches, how many are foreground.
        centre_share: Of the patches in the centre crop, as the sign rule sees them: before the
            mask is enlarged.
        border_share: Of the outermost ring of patches.
        hole_share: Of all patches, how many are background enclosed by foreground.
        stability: Intersection over union of the masks at `LOW_THRESHOLD` and `HIGH_THRESHOLD`.
    """

    passed: bool
    reason: str
    foreground_share: float
    centre_share: float
    border_share: float
    hole_share: float
    stability: float

    def to_dict(self) -> dict[str, bool | str | float]:
        """Name to value, for JSON."""
        return asdict(self)


def masking_test(tokens: NDArray[np.float32], grid: tuple[int, int]) -> MaskingTest:
    """Decide whether the mask of a good image may be trusted.

    It may if the object fills the centre, without which the sign rule is a guess; if it ends before
    the image does, as a texture or a zipper does not; if nothing inside it was taken for
    background; if there is background left to hide; and if object and background lie far enough
    apart that the mask hardly depends on the threshold. Where it does, it hangs on the rounding of
    a token as well. What the test cannot see is a part of the object that was cut off at its
    outline.

    Args:
        tokens: As in `foreground_mask`.
        grid: (rows, columns) of patches.

    Raises:
        ValueError: As in `foreground_mask`.
    """
    component = object_component(tokens, grid)
    raw = component > THRESHOLD
    mask = enlarged(raw)
    ring = np.ones(grid, dtype=bool)
    ring[1:-1, 1:-1] = False
    centre = float(centre_of(raw).mean())
    border = float(mask[ring].mean())
    hole = float(_holes(mask).mean())
    share = float(mask.mean())
    stability = _stability(component)
    conditions = (
        (
            centre > MIN_CENTRE_SHARE,
            f"The centre of the image is {centre:.1%} foreground, and must be more than "
            f"{MIN_CENTRE_SHARE:.0%}.",
        ),
        (
            border <= MAX_BORDER_SHARE,
            f"The border of the image is {border:.1%} foreground, and may be {MAX_BORDER_SHARE:.0%}"
            " at most: the object does not end inside the image.",
        ),
        (
            hole <= MAX_HOLE_SHARE,
            f"Background enclosed by foreground is {hole:.1%} of the image, and may be "
            f"{MAX_HOLE_SHARE:.0%} at most: part of the object may be taken for background.",
        ),
        (
            share <= MAX_FOREGROUND_SHARE,
            f"The foreground is {share:.1%} of the image, and may be {MAX_FOREGROUND_SHARE:.0%} at"
            " most: there is hardly any background to hide.",
        ),
        (
            stability >= MIN_STABILITY,
            f"The masks at thresholds {LOW_THRESHOLD:g} and {HIGH_THRESHOLD:g} share "
            f"{stability:.1%} of what either covers, and must share {MIN_STABILITY:.0%}: object and"
            " background flow into each other.",
        ),
    )
    failed = [reason for holds, reason in conditions if not holds]
    return MaskingTest(
        passed=not failed,
        reason=failed[0] if failed else "The mask sets one or more whole objects off.",
        foreground_share=share,
        centre_share=centre,
        border_share=border,
        hole_share=hole,
        stability=stability,
    )


def _stability(component: NDArray[np.float64]) -> float:
    low, high = (enlarged(component > at) for at in (LOW_THRESHOLD, HIGH_THRESHOLD))
    return float((low & high).sum() / max((low | high).sum(), 1))


def _holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Background from which no path of background, side by side, leads to the border."""
    _, regions = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)
    edges = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return ~mask & ~np.isin(regions, edges)
