"""The wire contract: every name, type and shape that crosses the network, in one place.

Standard library only: the server's models carry a copy of this very file, the model configs are
generated from it, and a contract test holds both to it.

Every ensemble takes batches: the shapes below are those of one item, the first dimension of a
request's tensors counts items. ``enroll``, ``manage``, ``products`` and ``zero_shot`` take none.
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

IMAGE_SIZE = TensorSpec("image_size", "INT32", (2,), "height and width of the image in pixels")


class Method:
    """The methods a product may be inspected by, each with versions of its own."""

    ANOMALY_DINO = "anomaly_dino"
    L2BT = "l2bt"


METHODS = (Method.ANOMALY_DINO, Method.L2BT)

ANOMALY_SCORE = TensorSpec("anomaly_score", "FP32", (1,), "image score of the method's paper")
THRESHOLD = TensorSpec("threshold", "FP32", (1,), "calibrated threshold of the bundle")
VERDICT = TensorSpec("verdict", "INT32", (1,), "0 normal, 1 anomalous, 2 undecided")
PATCH_DISTANCES = TensorSpec("patch_distances", "FP32", (-1, -1), "distance per patch, row-major")
ANOMALY_MAP = TensorSpec(
    "anomaly_map", "FP32", (-1, -1), "distance per pixel of the original image"
)
NORMAL_BELOW = TensorSpec("normal_below", "FP32", (1,), "score up to which a part is normal")
DEFECT_REGIONS = TensorSpec(
    "defect_regions", "BYTES", (1,), "JSON list of regions of the map, see DefectRegionKey"
)
BUNDLE_VERSION = TensorSpec("bundle_version", "INT64", (1,), "version of the bundle that answered")

INSPECTION_OUTPUTS = (
    ANOMALY_SCORE,
    THRESHOLD,
    VERDICT,
    PATCH_DISTANCES,
    ANOMALY_MAP,
    BUNDLE_VERSION,
    NORMAL_BELOW,
    DEFECT_REGIONS,
)
MAP_OUTPUTS = (ANOMALY_MAP, DEFECT_REGIONS)
"""Computed only when a request asks for one of them."""


class DefectRegionKey:
    """Keys of one object of ``defect_regions``; the highest peak comes first."""

    BOX_PX = "box_px"  # [x, y, width, height] in pixels of the inspected image
    AREA_PX = "area_px"  # int: pixels of the region
    PEAK = "peak"  # float: largest value of the map in it
    PEAK_AT_PX = "peak_at_px"  # [x, y] of that value


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
    ones may repeat them, not change them; only ``role`` belongs to each part.
    """

    RESOLUTION = "resolution"  # int: shorter edge in pixels, default the served one
    PREPROCESSING = "preprocessing"  # str: agnostic (default), informed, masking_only, ...
    ROTATED = "rotated"  # bool: parts come in any orientation; asked by informed
    TEXTURE = "texture"  # bool: parts are a surface without background, never masked
    NUM_NEIGHBOURS = "num_neighbours"  # int: rows of the bank each patch is compared with
    IMAGE_SCORE = "image_score"  # str: mean_top1p (default), mean_top1p_foreground, max, max_map
    SEARCH = "search"  # str: exact (default) or ivf
    CORESET_FRACTION = "coreset_fraction"  # float in (0, 1]: share of the patches to keep
    FALSE_POSITIVE_RATE = "false_positive_rate"  # float in (0, 1): share of good parts rejected
    UNDECIDED_RATE = "undecided_rate"  # float in [0, 1): share of good parts undecided besides
    THRESHOLD = "threshold"  # float: set by hand instead of calibrated
    NORMAL_BELOW = "normal_below"  # float: the lower threshold, by hand
    APPEND = "append"  # bool: continue from the version in force
    ACTIVATE = "activate"  # bool: false leaves the version in force as it is
    ROLE = "role"  # str: reference (default), or good: for the thresholds only
    IMAGE_NAMES = "image_names"  # list of str: recorded in the bundle, used in errors
    OPERATOR = "operator"  # str: who enrols, recorded in the bundle
    SESSION = "session"  # str: joins the parts of one enrolment
    NUM_STAGED = "num_staged"  # int: images of the session's earlier parts, needed with a session
    COMMIT = "commit"  # bool: false while more parts follow


MANAGE_MODEL = "manage"
MANAGE_REQUEST = TensorSpec("request", "BYTES", (1,), "JSON object, see ManageKey")
MANAGE_CONTENT = TensorSpec(
    "content", "BYTES", (1,), "bytes that go with the request: an image, part of a file"
)
MANAGE_CONTENT_IN = TensorSpec(
    MANAGE_CONTENT.name, "BYTES", (1,), MANAGE_CONTENT.meaning, optional=True
)
MANAGE_REPORT = TensorSpec("report", "BYTES", (1,), "JSON object: what was done, or found")
MANAGE_INPUTS = (PRODUCT, MANAGE_REQUEST, MANAGE_CONTENT_IN)
MANAGE_OUTPUTS = (BUNDLE_VERSION, MANAGE_REPORT, MANAGE_CONTENT)


class ManageOperation:
    """Values of ``operation``: what is done to the product in the ``product`` tensor."""

    HISTORY = "history"  # every version's record, and the record of changes
    ACTIVATE = "activate"  # put ``screw@3`` in force: rollback
    DELETE = "delete"  # ``screw@3``, or the product as a whole
    THRESHOLD = "threshold"  # new thresholds: by hand, or by rates from the good parts
    REGION = "region"  # what counts: region of interest, ignore mask (content), smallest defect
    READ = "read"  # part of a version's file, to export it
    IMPORT = "import"  # part of a version's file; the last part makes it a new version
    PUBLISH = "publish"  # l2bt: part of a file of trained students; the last makes it a version


class ManageKey:
    """Keys of the ``request`` object of ``manage``; ``operation`` is always there."""

    OPERATION = "operation"
    OPERATOR = "operator"  # str: who, recorded
    METHOD = "method"  # str: anomaly_dino (default) or l2bt, whose versions are their own
    # threshold
    THRESHOLD = "threshold"  # float
    NORMAL_BELOW = "normal_below"  # float, with threshold
    FALSE_POSITIVE_RATE = "false_positive_rate"  # float in (0, 1)
    UNDECIDED_RATE = "undecided_rate"  # float in [0, 1)
    # region; what is left out stays as it is
    ROI_PX = "roi_px"  # [x, y, width, height] in pixels of the references; [] for the whole image
    CLEAR_IGNORE_MASK = "clear_ignore_mask"  # bool
    MIN_DEFECT_AREA_PX = "min_defect_area_px"  # int, pixels of the references; 0 for any
    # read, import and publish
    FILE = "file"  # str: one of VERSION_FILES, or of TRAINING_FILES to publish
    OFFSET = "offset"  # int: where the part begins
    SESSION = "session"  # str: joins the parts of one import
    COMMIT = "commit"  # bool: true with the last part
    ACTIVATE = "activate"  # bool, with the last part to publish: false leaves what is in force


VERSION_FILES = ("bundle.json", "bank.safetensors", "good_parts.safetensors")
"""What a version consists of, and an exported product too."""
TRAINING_FILES = ("training.json", "students.onnx", "good_parts.safetensors")
"""What a training hands over to be published, see TrainingKey."""


KNOWN_TOKENS = (0.6180339887498949, 3.4641016151377544)
"""The tokens of the known answer: number n of block j's, and then block k's, row by row, is
``(n * KNOWN_TOKENS[0] % 1 - 0.5) * KNOWN_TOKENS[1]`` in double precision, rounded to FP32: evenly
spread, of unit variance, and the same everywhere."""
L2BT_SIGMA_PX = 22**0.5
"""Of the Gaussian that is as wide as L2BT's official chain of box filters: five of 5 px and three
of 7 px, whose variances add up to 22 px²."""


class TrainingKey:
    """Keys of ``training.json``: what the students are, and how they were trained.

    ``good_parts.safetensors`` holds ``patch_distances``, float32 ``(images, rows, columns)``: of
    good images that the students which measured them had not seen.
    """

    IMAGE_SIZE = "image_size"  # [height, width] of the training images in pixels
    GRID = "grid"  # [rows, columns] of the patch grid, square
    LAYERS = "layers"  # [j, k]: one-based blocks of the backbone
    DIM = "dim"  # int: width of a patch token
    BACKBONE_SHA256 = "backbone_sha256"  # str: digest of the exported backbone
    DISTANCE = "distance"  # object: normalisation, metric, combination
    SMOOTHING = "smoothing"  # str: gaussian (default) or boxes, the official chain of box filters
    SIGMA_PX = "sigma_px"  # float: of the Gaussian, in pixels of the original image
    KNOWN_ANSWER = "known_answer"  # [[float]]: PyTorch's patch distances of `KNOWN_TOKENS`
    TRAINING = "training"  # object: epochs, learning_rate, batch_images, seed, final_loss, ...
    REFERENCES = "references"  # [{name, sha256}]: the training images
    GOOD_IMAGES = "good_images"  # [{name, sha256}]: for the thresholds only
    CALIBRATION = "calibration"  # str: cross_fit or good_images: what measured the good parts
    FALSE_POSITIVE_RATE = "false_positive_rate"  # as EnrollOption; null for the default
    UNDECIDED_RATE = "undecided_rate"
    THRESHOLD = "threshold"
    NORMAL_BELOW = "normal_below"


MAX_CONTENT_BYTES = 8 * 2**20
"""Largest part of a file in one request or answer of ``manage``."""

ZERO_SHOT_MODEL = "zero_shot"
ZERO_SHOT_IMAGES = TensorSpec(
    "images", "BYTES", (-1,), "encoded images of one camera, most of them good", optional=True
)
ZERO_SHOT_OPTIONS = TensorSpec("options", "BYTES", (1,), "JSON object, see ZeroShotOption")
ZERO_SHOT_REPORT = TensorSpec("report", "BYTES", (1,), "JSON object: what was staged, or scored")
ZERO_SHOT_INPUTS = (ZERO_SHOT_IMAGES, ZERO_SHOT_OPTIONS)
ZERO_SHOT_OUTPUTS = (ZERO_SHOT_REPORT, ANOMALY_SCORE, PATCH_DISTANCES, ANOMALY_MAP)
"""All but the report only when ``score`` says which image, and the map only when asked for."""


class ZeroShotOption:
    """Keys of the ``options`` object of the batched zero-shot scoring.

    First all images are staged, in parts that each say in ``num_staged`` how many images they
    follow; then one request per image asks, with ``score`` and without images, for its score
    against all others; the last one says ``close``. A session that nobody touches is forgotten.
    Options that are not of a single part are those of the first part.
    """

    SESSION = "session"  # str: joins the parts
    NUM_STAGED = "num_staged"  # int: images that earlier parts of the session brought
    IMAGE_NAMES = "image_names"  # list of str: of this part, used in errors and reports
    RESOLUTION = "resolution"  # int: shorter edge in pixels, default the served one
    MASKING = "masking"  # str: test (default, on the first image), always, never
    ALPHA = "alpha"  # float in (0, 1): share of the nearest distances, default 0.001
    STATISTIC = "statistic"  # str: max (default, the paper's) or mean (the authors' code)
    IMAGE_SCORE = "image_score"  # str: as EnrollOption.IMAGE_SCORE
    SCORE = "score"  # int: number of the image to score, from 0
    CLOSE = "close"  # bool: forget the session after this request


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


def l2bt_model(product: str, label: str, *, raw: bool = False) -> str:
    """Name of L2BT's ensemble for a product and an input size, ``_raw`` for decoded images."""
    return f"l2bt_{product}_{label}" + ("_raw" if raw else "")


def patch_tokens_model(label: str) -> str:
    """Name of the ensemble that gives an image's patch tokens, padded to a square: L2BT's input.

    It takes ``image`` and puts out ``patch_tokens_<layer>``, FP32 ``[patches, width]``, for every
    block the backbone taps, and ``image_size``.
    """
    return f"patch_tokens_{label}"


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
