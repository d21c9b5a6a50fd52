"""Pictures that subcommands write beside their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinspect_client.errors import InspectionError
from dinspect_client.images import PICTURE_SUFFIX

if TYPE_CHECKING:
    from dinspect_client.overlay import RgbImage


def picture_paths(paths: Sequence[Path], folder: Path | None) -> list[Path]:
    """One distinct picture per image, also for a/1.png and b/1.png, or 1.png and 1.jpg.

    Args:
        paths: The images.
        folder: Where the pictures go; beside each image when None.
    """
    pictures: list[Path] = []
    taken: set[Path] = set()
    for path in paths:
        place = path.parent if folder is None else folder
        picture, number = place / f"{path.stem}{PICTURE_SUFFIX}", 1
        while picture in taken:
            number += 1
            picture = place / f"{path.stem}-{number}{PICTURE_SUFFIX}"
        taken.add(picture)
        pictures.append(picture)
    return pictures


def write_picture(path: Path, picture: Path, draw: Callable[[RgbImage], RgbImage]) -> str | None:
    """Draw over an image and write it; return what prevented it, if anything did.

    Args:
        path: The image.
        picture: Where the picture goes.
        draw: Makes the picture of the image.
    """
    from dinspect_client.overlay import read_rgb, write_png

    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture, draw(read_rgb(path)))
    except (OSError, ValueError, InspectionError) as error:
        # The answer stands; a full disk must not hide it.
        return str(error)
    return None
