"""The real images every artefact is proven on."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dinspect_export.errors import InvalidGeometryError
from dinspect_export.manifest import sha256_of_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGE_PREFIX = "package:"
# What `dinspect inspect` writes beside an image: a picture of its answer, and no part.
_OVERLAY_SUFFIX = ".inspection.png"
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class CheckImages:
    """Images to compare two runs on.

    Attributes:
        images: Images whose patch tokens, and scores if there are references, must agree.
        references: Good images that are enrolled for the scores: none, or at least two.

    Raises:
        InvalidGeometryError: If there is no image to check on, or a single reference.
    """

    images: tuple[Path, ...]
    references: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidGeometryError("give at least one real image to check the export on")
        both = sorted({path.name for path in set(self.images) & set(self.references)})
        if both:
            raise InvalidGeometryError(
                f"{', '.join(both)}: given as reference and as image; an image's distance to "
                "itself says nothing"
            )
        if len(self.references) == 1:
            raise InvalidGeometryError(
                "one reference image has nothing to be compared with; give two or more, or none"
            )

    def digests(self) -> dict[str, list[str]]:
        """SHA-256 of every image, as an artefact's recipe holds them.

        Raises:
            InvalidGeometryError: If an image cannot be read.
        """
        try:
            return {
                "images": [sha256_of_file(path) for path in self.images],
                "references": [sha256_of_file(path) for path in self.references],
            }
        except OSError as error:
            raise InvalidGeometryError(f"cannot read a check image: {error}") from error

    @property
    def all(self) -> tuple[Path, ...]:
        """References, then images."""
        return self.references + self.images


def find_images(patterns: Sequence[str], base: Path) -> tuple[Path, ...]:
    """Image files that patterns name, in the order of the patterns, each sorted by name.

    Args:
        patterns: Files, folders or glob patterns; relative ones start at ``base``, and
            ``package:<module>/<pattern>`` inside an installed package, which is located but not
            imported.
        base: Folder that relative patterns start at.

    Raises:
        InvalidGeometryError: If a pattern names no image.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        root, relative = _root_of(pattern, base)
        matches = sorted(glob.glob(relative, root_dir=root, recursive=True))
        files = [
            file
            for match in (root / name for name in matches)
            for file in (sorted(match.iterdir()) if match.is_dir() else [match])
            if file.is_file()
            and file.suffix.lower() in _SUFFIXES
            and not file.name.endswith(_OVERLAY_SUFFIX)
        ]
        if not files:
            raise InvalidGeometryError(f"no image at {pattern!r} (looked below {root})")
        found |= dict.fromkeys(files)
    return tuple(found)


def _root_of(pattern: str, base: Path) -> tuple[Path, str]:
    """Folder to search and the pattern within it."""
    if not pattern.startswith(PACKAGE_PREFIX):
        return base, pattern
    module, _, relative = pattern.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
    except ValueError:  # a module that was not imported from anywhere
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise InvalidGeometryError(f"{pattern!r}: no package {module!r} is installed")
    return Path(spec.submodule_search_locations[0]), relative.lstrip("/")


def check_pixels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an image stretched to the backbone's input size.

    Only the agreement of two runs on the same pixels matters here, so the aspect ratio does not.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        InvalidGeometryError: If the file is no readable image.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
            return np.array(resized)
    except (OSError, Image.DecompressionBombError) as error:
        raise InvalidGeometryError(f"cannot read check image {path}: {error}") from error
