"""HTML pages that need nothing else, not even a network: templates, number formats, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

_MAX_EDGE_PX = 420
_JPEG_QUALITY = 86


def page_environment(*packages: str) -> Environment:
    """Templates of some packages, the first that has one of a name counts.

    The filters ``ms``, ``percent``, ``score`` and ``count`` write numbers.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ms"] = number_format(",.1f")
    environment.filters["percent"] = number_format(".1f", 100, " %")
    environment.filters["score"] = lambda value: f"{value:.4f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    return environment


def number_format(form: str, factor: float = 1, unit: str = "") -> Callable[[float], str]:
    """A number format with a real minus sign, and none before a zero."""

    def write(value: float) -> str:
        text = format(value * factor, form)
        is_zero = not text.strip("-0.,")
        return text.replace("-", "" if is_zero else "\N{MINUS SIGN}") + unit

    return write


def data_uri(image: NDArray[np.uint8]) -> str:
    """An image as JPEG inside an address; large ones are made smaller, for the screen.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((_MAX_EDGE_PX, _MAX_EDGE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
