"""The wire contract: every name, type and shape that crosses the network, in one place.

Standard library only: the server's models carry a copy of this very file, the model configs are
generated from it, and a contract test holds both to it.

Every ensemble takes batches: the shapes below are those of one item, the first dimension of a
request's tensors counts items. ``products`` and ``enroll`` take no batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

CONTRACT_VERSION = 1


class Verdict(IntEnum):
    """What the server says of one part. Anything but an answer means: not inspected."""

    NORMAL = 0
    ANOMALOUS = 1
    UNDECIDED = 2


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the contract.

    Attributes:
        name: Its name on the wire.
        datatype: KServe v2 datatype: ``BYTES``, ``FP32``, ``INT32``, ``INT64`` or ``UINT8``.
        shape: Shape of one item; -1 where the size varies.
        meaning: One sentence for documentation.
        optional: Whether a request may leave it out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    meaning: str
    optional: bool = False


IMAGE = TensorSpec("image", "BYTES", (1,), "one encoded image: JPEG, PNG, BMP, TIFF or WebP")
IMAGE_RGB = TensorSpec("image_rgb", "UINT8", (-1, -1, 3), "one decoded image, rows x columns x RGB")
PRODUCT = TensorSpec("product", "BYTES", (1,), "product name, or pinned to a version: screw@3")

ANOMALY_SCORE = TensorSpec("anomaly_score", "FP32", (1,), "image score of the method's paper")
THRESHOLD = TensorSpec("threshold", "FP32", (1,), "calibrated threshold of the bundle")
VERDICT = TensorSpec("verdict", "INT32", (1,), "0 normal, 1 anomalous, 2 undecided")
PATCH_DISTANCES = TensorSpec("patch_distances", "FP32", (-1, -1), "distance per patch, row-major")
ANOMALY_MAP = TensorSpec(
    "anomaly_map", "FP32", (-1, -1), "distance per pixel of the original image"
)
BUNDLE_VERSION = TensorSpec("bundle_version", "INT64", (1,), "version of the bundle that answered")

INSPECTION_OUTPUTS = (
    ANOMALY_SCORE,
    THRESHOLD,
    VERDICT,
    PATCH_DISTANCES,
    ANOMALY_MAP,
    BUNDLE_VERSION,
)

ENROLL_MODEL = "enroll"
ENROLL_IMAGES = TensorSpec("images", "BYTES", (-1,), "encoded images of good parts")
ENROLL_OPTIONS = TensorSpec(
    "options", "BYTES", (1,), "JSON object, see EnrollOption", optional=True
)
ENROLL_REPORT = TensorSpec("report", "BYTES", (1,), "JSON object: what was enrolled, or staged")
ENROLL_INPUTS = (PRODUCT, ENROLL_IMAGES, ENROLL_OPTIONS)
ENROLL_OUTPUTS = (BUNDLE_VERSION, THRESHOLD, ENROLL_REPORT)


class EnrollOption:
    """Keys of the ``options`` object of an enrolment, all optional.

    A large enrolment is sent in parts: each part names the same ``session``, says in
    ``num_staged`` how many images it follows, and sets ``commit`` to false, but for the last, which
    commits (it may carry no image). Until then ``bundle_version`` is 0 and nothing is visible to
    anyone. A part that fails ends the session. The other options are those of the first part; later
    ones may repeat them, not change them.
    """

    RESOLUTION = "resolution"  # int: shorter edge in pixels, default the served one
    FALSE_POSITIVE_RATE = "false_positive_rate"  # float in (0, 1): share of good parts rejected
    THRESHOLD = "threshold"  # float: set by hand instead of calibrated
    IMAGE_NAMES = "image_names"  # list of str: recorded in the bundle, used in errors
    OPERATOR = "operator"  # str: who enrols, recorded in the bundle
    SESSION = "session"  # str: joins the parts of one enrolment
    NUM_STAGED = "num_staged"  # int: images of the session's earlier parts, needed with a session
    COMMIT = "commit"  # bool: false while more parts follow


PRODUCTS_MODEL = "products"
PRODUCTS_REPORT = TensorSpec("products", "BYTES", (1,), "JSON list: one object per product")
# The filter is the `product` tensor: one product, or the empty string for all.
PRODUCTS_INPUTS = (PRODUCT,)
PRODUCTS_OUTPUTS = (PRODUCTS_REPORT,)

_PRODUCT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PRODUCT_REFERENCE = re.compile(rf"({_PRODUCT_NAME.pattern})(?:@([1-9][0-9]{{0,8}}))?")


def grid_label(grid: Sequence[int], patch_size: int = 14) -> str:
    """Name of an input size: ``448`` when square, else ``448x588`` (height x width in pixels)."""
    height, width = grid[0] * patch_size, grid[1] * patch_size
    return str(height) if height == width else f"{height}x{width}"


def anomaly_dino_model(label: str, *, raw: bool = False) -> str:
    """Name of AnomalyDINO's ensemble for an input size, ``_raw`` for decoded images."""
    return f"anomaly_dino_{label}" + ("_raw" if raw else "")


def is_product_name(name: str) -> bool:
    """Whether a name may be given to a product: 1-64 of letters, digits, ``_``, ``.``, ``-``."""
    return _PRODUCT_NAME.fullmatch(name) is not None


def parse_product(reference: str) -> tuple[str, int | None]:
    """Split ``screw@3`` into name and version; the version is None when not pinned.

    Raises:
        ValueError: If the reference has another form.
    """
    match = _PRODUCT_REFERENCE.fullmatch(reference)
    if match is None:
        raise ValueError(
            f"product {reference!r} is not a name of 1-64 letters, digits, '_', '.', '-' "
            "with an optional version such as screw@3"
        )
    return match[1], int(match[2]) if match[2] else None
