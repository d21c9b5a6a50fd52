"""Images on their way to the server: where they come from, and in what form they travel."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dinspect_client.errors import InvalidImageError

ImageSource: TypeAlias = "bytes | str | os.PathLike[str] | NDArray[np.uint8]"
"""An encoded image, the path of one, or an ``(H, W, 3)`` uint8 RGB array."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
PICTURE_SUFFIX = ".inspection.png"
"""Ending of the pictures that an inspection writes; never taken for an input of a folder."""


def encoded_image(image: ImageSource) -> bytes:
    """Return an image as the bytes of a file; an array is encoded as PNG, without loss.

    Raises:
        InvalidImageError: If there is no such file, it cannot be read, it is empty, or an array
            is not ``(H, W, 3)`` uint8.
    """
    if isinstance(image, np.ndarray):
        import cv2  # the other forms do not need it

        return cv2.imencode(".png", cv2.cvtColor(checked_rgb(image), cv2.COLOR_RGB2BGR))[
            1
        ].tobytes()
    data = bytes(image) if isinstance(image, bytes | bytearray | memoryview) else _read(image)
    if not data:
        raise InvalidImageError(f"{image_name(image)} is empty, expected an encoded image")
    return data


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidImageError(f"cannot read image {os.fspath(path)}: {reason}") from error


def checked_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array if it is a non-empty ``(H, W, 3)`` uint8 image.

    Raises:
        InvalidImageError: If it is not; nothing is converted silently.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InvalidImageError(
            f"image array is {image.dtype} {image.shape}, expected uint8 (height, width, 3) in RGB"
        )
    return image


def image_name(image: ImageSource, number: int | None = None) -> str:
    """Return what to call an image in reports: its file name, else its number in the list."""
    if isinstance(image, str | os.PathLike):
        return Path(image).name
    return "image" if number is None else f"image-{number}"


def expand_paths(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Replace each folder by the images in it, by name; folders inside it are left alone.

    Raises:
        InvalidImageError: If a path does not exist or a folder holds no image.
    """
    expanded: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if _is_input(file))
            if not found:
                endings = ", ".join(sorted(IMAGE_SUFFIXES))
                raise InvalidImageError(f"folder {path} holds no image; looked for {endings}")
            expanded += found
        elif path.exists():
            expanded.append(path)
        else:
            raise InvalidImageError(f"no such image or folder: {path}")
    return expanded


def _is_input(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.endswith(PICTURE_SUFFIX)
        and not path.name.startswith(".")
        and path.is_file()
    )
