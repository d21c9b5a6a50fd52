"""Input sizes as people write them and the patch grids they mean."""

from __future__ import annotations

import re

from dinspect_export.errors import InvalidGeometryError


def grid_from_size(size: str, patch_size: int) -> tuple[int, int]:
    """Patch grid of an input size such as ``448`` or ``448x588`` (height x width in pixels).

    Raises:
        InvalidGeometryError: If the text has another form or a side is no multiple of the patch.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", size)
    if match is None:
        raise InvalidGeometryError(f"size {size!r} must look like 448 or 448x588 (height x width)")
    height = int(match[1])
    width = int(match[2]) if match[2] else height
    for side in (height, width):
        if side == 0 or side % patch_size:
            below = max(side // patch_size, 1) * patch_size
            raise InvalidGeometryError(
                f"size {size!r}: {side} px is no multiple of the {patch_size} px patch; "
                f"the nearest are {below} and {below + patch_size}"
            )
    return height // patch_size, width // patch_size


def size_label(grid: tuple[int, int], patch_size: int) -> str:
    """The inverse of `grid_from_size`: ``448`` when square, else ``448x588``."""
    height, width = grid[0] * patch_size, grid[1] * patch_size
    return str(height) if height == width else f"{height}x{width}"
