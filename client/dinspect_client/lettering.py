"""Text for pictures: OpenCV's stroke font, drawn large and reduced, so that small text is smooth.

The font knows ASCII only, which product names and numbers are.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Lettering:
    """How a text looks.

    Attributes:
        height: Height of a capital in pixels.
        color: RGB, 0 to 255.
        bold: Whether the strokes are thick.
    """

    height: int
    color: tuple[int, int, int]
    bold: bool = False

    @property
    def _drawn_height(self) -> int:
        return self.height * _OVERSAMPLING

    @property
    def _thickness(self) -> int:
        return max(1, round(self._drawn_height / (5.5 if self.bold else 9)))

    @property
    def _scale(self) -> float:
        return cv2.getFontScaleFromHeight(_FONT, self._drawn_height, self._thickness)

    def width(self, text: str) -> int:
        """Return the width of a text in pixels."""
        drawn_width = cv2.getTextSize(text, _FONT, self._scale, self._thickness)[0][0]
        return -(-drawn_width // _OVERSAMPLING)

    def fitting(self, text: str, room: int) -> Lettering:
        """Return this lettering, smaller if a text needs more than ``room`` pixels."""
        smaller = self
        while smaller.height > 5 and smaller.width(text) > room:
            smaller = Lettering(smaller.height - 1, self.color, self.bold)
        return smaller

    def write(self, image: NDArray[np.uint8], text: str, left: int, baseline: int) -> None:
        """Write onto an ``(H, W, 3)`` uint8 image in place; what does not fit is cut off."""
        above, below = round(1.5 * self.height), round(0.7 * self.height)
        top = max(0, baseline - above)
        bottom, right = (
            min(image.shape[0], baseline + below),
            min(image.shape[1], left + self.width(text) + self.height),
        )
        if bottom <= top or right <= left:
            return
        rows, columns = bottom - top, right - left
        large = np.zeros((rows * _OVERSAMPLING, columns * _OVERSAMPLING), dtype=np.uint8)
        origin = (0, (baseline - top) * _OVERSAMPLING)
        cv2.putText(large, text, origin, _FONT, self._scale, (255,), self._thickness, cv2.LINE_AA)
        mask = cv2.resize(large, (columns, rows), interpolation=cv2.INTER_AREA)
        ink = mask[..., np.newaxis].astype(np.float32) / 255  # (rows, columns, 1)
        area = image[top:bottom, left:right]
        area[...] = np.rint(area * (1 - ink) + np.array(self.color, np.float32) * ink)
