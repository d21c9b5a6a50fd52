"""Images as the peers' exported models take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def read_pixels(path: str, side_px: int) -> NDArray[np.float32]:
    """An image as anomalib's exported models take it; resizing and normalising is theirs.

    An image of another size than the input is resized here, bicubically and with antialiasing.

    Args:
        path: The image's file.
        side_px: Edge of the model's input.

    Returns:
        ``(1, 3, side_px, side_px)`` float32 RGB in 0..1.
    """
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    if rgb.size != (side_px, side_px):
        rgb = rgb.resize((side_px, side_px), Image.Resampling.BICUBIC)
    channels_first = np.asarray(rgb, dtype=np.float32).transpose(2, 0, 1)[None] / 255.0
    return np.ascontiguousarray(channels_first)
