"""Images on their way to the server: where they come from, and in what form they travel."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
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
MAX_NAME = 200
"""Characters of a name that a server keeps."""


def image_list(images: Sequence[ImageSource]) -> list[ImageSource]:
    """Return several images as a list, each checked as far as that is possible without reading it.

    So that a long transfer does not begin which must fail in the middle.

    Raises:
        InvalidImageError: If one is missing, empty or an array of a wrong form, or ``images`` is
            a single image.
    """
    single = isinstance(images, str | bytes | bytearray | memoryview | os.PathLike)
    if single or (isinstance(images, np.ndarray) and images.ndim < 4):
        raise InvalidImageError(
            f"images is a single {type(images).__name__}, expected a list of images"
        )
    listed = list(images)
    for image in listed:
        _check(image)
    return listed


def _check(image: ImageSource) -> None:
    if isinstance(image, np.ndarray):
        checked_rgb(image)
    elif isinstance(image, bytes | bytearray | memoryview):
        if not len(image):
            raise _empty(image)
    else:
        try:
            status = os.stat(image)
        except (OSError, TypeError, ValueError) as error:
            raise _unreadable(image, error) from error
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise _empty(image)


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
        raise _empty(image)
    return data


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _empty(image: ImageSource) -> InvalidImageError:
    return InvalidImageError(f"{image_name(image)} is empty, expected an encoded image")


def _unreadable(path: object, error: Exception) -> InvalidImageError:
    # Not every error is the system's: a ValueError is a null character in the path.
    reason = error.strerror if isinstance(error, OSError) else str(error)
    shown = os.fspath(path) if isinstance(path, str | os.PathLike) else repr(path)
    return InvalidImageError(f"cannot read image {shown}: {reason}")


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
        return _shown(Path(image).name)
    return "image" if number is None else f"image-{number}"


def image_names(images: Sequence[ImageSource], first_number: int = 1) -> list[str]:
    """Return what to call each of several images, files of one name with their folders."""
    names = [image_name(image, number) for number, image in enumerate(images, first_number)]
    for longer in (_with_folder, Path.as_posix):
        counts = Counter(names)
        for index, image in enumerate(images):
            if counts[names[index]] > 1 and isinstance(image, str | os.PathLike):
                names[index] = _shown(longer(Path(image)))
    return names


def _with_folder(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _shown(name: str) -> str:
    """A name as any server can keep it: without bytes that are no text, its end if it is long."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= MAX_NAME else f"...{text[3 - MAX_NAME :]}"


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
