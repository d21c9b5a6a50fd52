"""The images that ours and the peers inspect: JPEG files, all of the model's own size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

JPEG_QUALITY = 95


def write_jpegs(paths: Sequence[Path], side_px: int, folder: Path) -> list[Path]:
    """Make squares of real images, so that ours and the peers make maps of one size.

    Args:
        paths: The images' files, their names all different.
        side_px: Edge of the squares in pixels.
        folder: Where they go.

    Returns:
        The new files, in the order of ``paths``.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in tqdm(paths, desc="images", leave=False, disable=None):
        target = folder / f"{path.stem}.jpg"
        with Image.open(path) as image:
            square = image.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC)
        square.save(target, "JPEG", quality=JPEG_QUALITY)
        written.append(target)
    return written
