"""From a camera's image to the backbone's pixels, as the methods' authors prepare them.

Decode with EXIF orientation applied; then, for AnomalyDINO, resize the shorter edge (PIL bicubic on
uint8, aspect kept) and crop right and bottom to whole patches; for L2BT pad to a square by the
image's own border and resize that. Pillow rather than OpenCV because its bicubic filter is the
one the methods were published with (OpenCV's has no antialiasing), it reads an image's size before
decoding it, and it refuses truncated files where OpenCV fills them with grey.

Sources: dammsi/AnomalyDINO `src/backbones.py::prepare_image` (torchvision's `Resize` on a PIL
image, then the crop); alex-costanzino/L2BT `utils/general_utils.py::SquarePad` and
`utils/loader_VisA.py` (the same `Resize`).
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from refusals import InspectionRefused

PATCH_SIZE = 14
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 36_000_000
MIN_EDGE_PX = 32
ASPECT_TOLERANCE = 0.01
_PNG_BIT_DEPTH_OFFSET = 24
_TIFF_BITS_PER_SAMPLE = 258
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")

# Our own limit is checked before decoding, with a message that says so.
Image.MAX_IMAGE_PIXELS = None


def refuse_transparency(encoded: bytes) -> None:
    """Refuse an image whose pixels may be transparent: nobody sees what colour those are.

    Raises:
        InspectionRefused: If it has an alpha channel or a transparent colour.
    """
    image = _open(encoded)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        raise InspectionRefused(
            f"the {image.format} image has transparent pixels; save it without transparency"
        )


def decode_image(encoded: bytes) -> NDArray[np.uint8]:
    """Decode one image.

    Args:
        encoded: A file's bytes: JPEG, PNG, BMP, TIFF or WebP, 8 bits per channel.

    Returns:
        ``(H, W, 3)`` uint8 RGB, upright.

    Raises:
        InspectionRefused: If the bytes are empty, no such image, truncated, of more than 8 bits
            per channel, or of an unusable size.
    """
    image = _open(encoded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="(?i).*truncated")  # a TIFF only warns
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("RGB"))
    except Exception as error:
        raise InspectionRefused(
            f"the {image.format} image is damaged or truncated: {error}"
        ) from None


def _open(encoded: bytes) -> Any:
    if not encoded:
        raise InspectionRefused("the image is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise InspectionRefused(
            f"{len(encoded)} bytes are no image in a known format; send {', '.join(FORMATS)}"
        ) from None
    except Exception as error:
        raise InspectionRefused(f"the image cannot be read: {error}") from None
    check_image_size(image.height, image.width)
    bits = _bits_per_channel(image, encoded)
    if bits > 8 or image.mode not in _EIGHT_BIT_MODES:
        raise InspectionRefused(
            f"the image has pixel format {image.mode} with {bits} bits per channel, expected 8 "
            "bits per channel; convert it with the fixed grey range of the camera"
        )
    num_images = getattr(image, "n_frames", 1)
    if num_images > 1 and image.format != "MPO":  # a camera's JPEG with a preview appended
        raise InspectionRefused(f"the {image.format} file holds {num_images} images, expected one")
    return image


def _bits_per_channel(image: Any, encoded: bytes) -> int:
    """Bit depth as the file has it: Pillow cuts 16-bit colour to the upper 8 without a word."""
    if image.format == "PNG":
        return encoded[_PNG_BIT_DEPTH_OFFSET]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))))
    return 8


def check_image_size(height: int, width: int) -> None:
    """Refuse sizes that cannot be inspected.

    Raises:
        InspectionRefused: If a side is below `MIN_EDGE_PX` or the area above `MAX_PIXELS`.
    """
    if min(height, width) < MIN_EDGE_PX:
        raise InspectionRefused(
            f"the image is {width} x {height} px, expected at least {MIN_EDGE_PX} px on each side"
        )
    if height * width > MAX_PIXELS:
        raise InspectionRefused(
            f"the image has {height * width} pixels ({width} x {height}), allowed are {MAX_PIXELS}"
        )


def resized_size(image_size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Height and width after the shorter edge became ``resolution`` pixels (torchvision's rule)."""
    height, width = image_size
    if height <= width:
        return resolution, int(resolution * width / height)
    return int(resolution * height / width), resolution


def patch_grid(image_size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Rows and columns of whole patches in an image at a resolution."""
    height, width = resized_size(image_size, resolution)
    return height // PATCH_SIZE, width // PATCH_SIZE


def same_aspect(image_size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes are of one camera geometry: aspect ratios within `ASPECT_TOLERANCE`."""
    ratio = (image_size[1] / image_size[0]) / (other[1] / other[0])
    return abs(ratio - 1) <= ASPECT_TOLERANCE


def backbone_pixels(image: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize and crop an image to a backbone's input.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        grid: The backbone's patch grid ``(rows, columns)``.

    Returns:
        ``(14 * rows, 14 * columns, 3)`` uint8 RGB.

    Raises:
        InspectionRefused: If the image's aspect ratio gives another grid.
    """
    height, width = image.shape[:2]
    check_image_size(height, width)
    resolution = PATCH_SIZE * min(grid)
    found = patch_grid((height, width), resolution)
    if found != grid:
        raise InspectionRefused(
            f"the image is {width} x {height} px, whose aspect ratio gives {found[1]} x {found[0]} "
            f"patches at {resolution} px; this model takes {grid[1]} x {grid[0]}. A product has "
            f"one camera geometry; images like this one need a model of size "
            f"{PATCH_SIZE * found[0]}x{PATCH_SIZE * found[1]} (height x width)"
        )
    resized = _resized(image, resized_size((height, width), resolution))
    return resized[: PATCH_SIZE * grid[0], : PATCH_SIZE * grid[1]]


def padded_pixels(image: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Pad an image to a square by repeating its border, and resize that to a backbone's input.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        grid: The backbone's patch grid, as many rows as columns.

    Returns:
        ``(14 * rows, 14 * columns, 3)`` uint8 RGB.

    Raises:
        InspectionRefused: If the image is too small or too large.
    """
    height, width = image.shape[:2]
    square_px = max(height, width)
    check_image_size(height, width)
    check_image_size(square_px, square_px)
    top, left = padding_before(height, square_px), padding_before(width, square_px)
    borders = ((top, square_px - height - top), (left, square_px - width - left), (0, 0))
    square = image if height == width else np.pad(image, borders, mode="edge")
    return _resized(square, (PATCH_SIZE * grid[0], PATCH_SIZE * grid[1]))


def padding_before(size_px: int, square_px: int) -> int:
    """Pixels that are put before an edge to centre it in a square's; one more follows if odd."""
    return (square_px - size_px) // 2


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)
