"""What a version's record must say so that it can be inspected by.

A record may come from another server, or have been edited by hand. One that contradicts itself is
refused when it is imported, put in force or loaded; it must not fail in the middle of an
inspection, or, worse, find nothing in any part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bundle import MAX_NEIGHBOURS, SEARCHES, Bundle
from calibration import BY_HAND, GOOD_IMAGES, LEAVE_ONE_OUT, ROTATIONS
from image_preparation import MAX_PIXELS, PATCH_SIZE, patch_grid
from image_score import IMAGE_SCORES
from inspected_region import area_px
from preprocessing import ROTATIONS_DEG, SETTINGS
from wire import is_product_name

_METHOD = "anomaly_dino"
_MAX_VERSION = 999_999_999
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BACKBONE_KEYS = ("name", "onnx_sha256", "weights_sha256", "file_sha256", "runtime", "precision")
_SEARCH_PRECISIONS = ("fp32", "fp16", "bf16")
_LARGEST_DISTANCE = 2.001
"""A cosine distance ends at 2; smoothing a map may round above it."""


def check_record(bundle: Bundle) -> None:
    """Check a record with all its digests.

    Raises:
        ValueError: Saying what contradicts what.
    """
    for check in (
        _check_identity,
        _check_images,
        _check_geometry,
        _check_region,
        _check_preprocessing,
        _check_scoring,
        _check_thresholds,
        _check_calibration,
    ):
        check(bundle)


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise ValueError(complaint)


def _check_identity(bundle: Bundle) -> None:
    _expect(is_product_name(bundle.product), f"{bundle.product!r} is no product name")
    _expect(0 < bundle.version <= _MAX_VERSION, f"version is {bundle.version}")
    _expect(bundle.method == _METHOD, f"method is {bundle.method!r}, expected {_METHOD!r}")
    for name in ("bank_sha256", "good_parts_sha256"):
        digest = getattr(bundle, name)
        _expect(_SHA256.fullmatch(digest) is not None, f"{name} is {digest!r}, no SHA-256")
    for key in _BACKBONE_KEYS:
        _expect(isinstance(bundle.backbone.get(key), str), f"backbone lacks {key}")
    precision = bundle.backbone.get("search_precision")
    _expect(precision in _SEARCH_PRECISIONS, f"backbone's search_precision is {precision!r}")


def _check_images(bundle: Bundle) -> None:
    for image in (*bundle.references, *bundle.calibration.good_images):
        _expect(set(image) == {"name", "sha256"}, f"an image is recorded as {sorted(image)}")
    found, said = len(bundle.references), bundle.num_references
    _expect(found == said and found > 0, f"{found} references are recorded, num_references {said}")


def _check_geometry(bundle: Bundle) -> None:
    for name in ("grid", "image_size"):
        sides = getattr(bundle, name)
        _expect(_are_sides(sides), f"{name} is {sides}, expected two sizes")
    height, width = bundle.image_size
    _expect(height * width <= MAX_PIXELS, f"image_size is {height} x {width}, too many pixels")
    found = patch_grid((height, width), PATCH_SIZE * min(bundle.grid))
    _expect(
        found == bundle.patch_grid,
        f"images of {width} x {height} px give {found[0]} x {found[1]} patches, grid is "
        f"{bundle.grid}",
    )
    _expect(bundle.layer > 0, f"layer is {bundle.layer}")
    _expect(bundle.dim > 0, f"dim is {bundle.dim}")


def _are_sides(sides: Sequence[int]) -> bool:
    return len(sides) == 2 and min(sides) > 0


def _check_region(bundle: Bundle) -> None:
    region, (height, width) = bundle.region, bundle.image_size
    cells = "".join(region.inspected)
    _expect(
        set(cells) <= {"0", "1"} and "1" in cells,
        "the region inspects no patch, or holds more than 0 and 1",
    )
    whole = region.roi_px is None and region.ignore_mask_sha256 is None
    _expect(not whole or "0" not in cells, "the region leaves out patches but says no reason")
    if region.roi_px is not None:
        roi_px = region.roi_px
        _expect(len(roi_px) == 4 and min(roi_px) >= 0, f"roi_px is {roi_px}")
        x, y, roi_width, roi_height = roi_px
        inside = x + roi_width <= width and y + roi_height <= height
        _expect(inside and min(roi_width, roi_height) > 0, f"roi_px is {roi_px}, not in the images")
    area = region.min_defect_area_px
    fits = 0 <= area <= area_px(region.mask, (height, width))  # else every part were normal
    _expect(fits, f"min_defect_area_px is {area}, more than what is inspected")


def _check_preprocessing(bundle: Bundle) -> None:
    said = bundle.preprocessing
    _expect(said.setting in SETTINGS, f"preprocessing's setting is {said.setting!r}")
    angles = said.rotations_deg
    known = angles[:1] == [0] and len(set(angles)) == len(angles) and set(angles) <= _ANGLES
    _expect(known, f"rotations_deg is {angles}, expected 0 and other angles of 45 degree steps")
    _expect(not (said.masked and said.texture), "a texture is said to be masked")
    share = said.foreground_share
    _expect(said.masked == (share is not None), "masked and foreground_share contradict each other")
    if share is not None:
        fits = len(share) == 2 and 0 <= share[0] <= share[1] <= 1
        _expect(fits, f"foreground_share is {share}, expected the smallest and the largest share")


_ANGLES = set(ROTATIONS_DEG)


def _check_scoring(bundle: Bundle) -> None:
    said, rows = bundle.scoring, bundle.num_patches
    _expect(said.image_score in IMAGE_SCORES, f"image_score is {said.image_score!r}")
    _expect(said.search in SEARCHES, f"search is {said.search!r}")
    most = min(MAX_NEIGHBOURS, rows)
    count = said.num_neighbours
    _expect(1 <= count <= most, f"num_neighbours is {count}, expected 1 to {most}")
    lists, probes = said.num_lists, said.num_probes
    exact = said.search == "exact"
    fits = lists == probes == 0 if exact else 1 <= probes <= lists <= rows
    _expect(fits, f"search {said.search!r} has {lists} lists and {probes} probes of {rows} patches")
    share = said.coreset_fraction
    _expect(0 < share <= 1, f"coreset_fraction is {share}")
    each = len(bundle.preprocessing.rotations_deg) * bundle.grid[0] * bundle.grid[1]
    whole = bundle.num_references * each
    fits = rows == whole if share == 1 else rows <= whole
    _expect(fits, f"num_patches is {rows}, the references have {whole}")


def _check_thresholds(bundle: Bundle) -> None:
    for name in ("threshold", "normal_below", "defect_threshold"):
        value = getattr(bundle, name)
        _expect(0 <= value <= _LARGEST_DISTANCE, f"{name} is {value}, no cosine distance")
    _expect(
        bundle.normal_below <= bundle.threshold,
        f"normal_below {bundle.normal_below} is above the threshold {bundle.threshold}",
    )


def _check_calibration(bundle: Bundle) -> None:
    said = bundle.calibration
    methods = (LEAVE_ONE_OUT, ROTATIONS, GOOD_IMAGES, BY_HAND)
    _expect(said.method in methods, f"calibration's method is {said.method!r}")
    has_images = bool(said.good_images)
    _expect(said.method != GOOD_IMAGES or has_images, "good images of the calibration are missing")
    rate, undecided = said.false_positive_rate, said.undecided_rate
    if said.method == BY_HAND:
        _expect(rate is None and undecided is None, "thresholds set by hand have no rates")
        return
    fits = rate is not None and undecided is not None and rate > 0 and undecided >= 0
    _expect(
        fits and (rate or 0) + (undecided or 0) < 1,
        f"false_positive_rate is {rate}, undecided_rate {undecided}, expected shares",
    )
