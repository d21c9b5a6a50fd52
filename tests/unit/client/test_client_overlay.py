from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dinspect_client import (
    Backbone,
    DefectRegion,
    Inspection,
    InvalidImageError,
    Verdict,
    ZeroShotScore,
)
from dinspect_client.lettering import Lettering
from dinspect_client.overlay import (
    VERDICT_COLORS,
    annotate,
    color_scale,
    draw_inspection,
    draw_zero_shot,
    map_peak,
    overlay_image,
    read_rgb,
    write_png,
)


def inspection_of(shape, verdict=Verdict.ANOMALOUS, threshold=0.2, product="screw") -> Inspection:
    anomaly_map = np.zeros(shape, np.float32)
    anomaly_map[: shape[0] // 2] = 0.4
    return Inspection(
        product=product,
        method="anomaly_dino",
        bundle_version=3,
        anomaly_score=0.25,
        threshold=threshold,
        normal_below=threshold,
        verdict=verdict,
        patch_distances=anomaly_map[:2, :2],
        anomaly_map=anomaly_map,
        defect_regions=(),
        request_id="id",
        latency_ms=1.0,
    )


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_overlay_leaves_the_image_where_the_map_is_low(image_rgb) -> None:
    low = np.full(image_rgb.shape[:2], 0.25, np.float32)

    np.testing.assert_array_equal(overlay_image(image_rgb, low, peak=1), image_rgb)


def test_overlay_has_the_last_colour_where_the_map_peaks() -> None:
    black = np.zeros((2, 2, 3), np.uint8)

    overlay = overlay_image(black, np.array([[1, 0], [0, 5]], np.float32), peak=1)

    np.testing.assert_array_equal(overlay[0, 0], np.rint(color_scale()[-1] * 0.72))
    np.testing.assert_array_equal(overlay[1, 1], overlay[0, 0])  # above the peak is the peak
    np.testing.assert_array_equal(overlay[0, 1], [0, 0, 0])


def test_overlay_glows_warm_in_rgb() -> None:
    overlay = overlay_image(gray(1, 1), np.array([[0.7]], np.float32), peak=1)

    red, _, blue = overlay[0, 0].astype(int)
    assert red > blue + 50  # in BGR by mistake it would be blue


def test_overlay_depends_on_the_peak_and_not_on_the_maps_maximum() -> None:
    weak = overlay_image(gray(1, 2), np.array([[0.1, 0.2]], np.float32), peak=1)
    strong = overlay_image(gray(1, 2), np.array([[0.1, 0.2]], np.float32), peak=0.2)

    np.testing.assert_array_equal(weak, gray(1, 2))
    assert not np.array_equal(strong, gray(1, 2))


def test_overlay_does_not_touch_its_inputs(image_rgb) -> None:
    before = image_rgb.copy()

    overlay_image(image_rgb, np.ones(image_rgb.shape[:2], np.float32), peak=1)

    np.testing.assert_array_equal(image_rgb, before)


def test_overlay_refuses_a_map_of_another_size(image_rgb) -> None:
    with pytest.raises(ValueError, match=r"\(40, 30\), the image \(30, 40\)"):
        overlay_image(image_rgb, np.zeros((40, 30), np.float32), peak=1)


@pytest.mark.parametrize("peak", [0, -1, np.nan])
def test_overlay_refuses_a_peak_that_is_not_positive(image_rgb, peak) -> None:
    with pytest.raises(ValueError, match="peak"):
        overlay_image(image_rgb, np.zeros(image_rgb.shape[:2], np.float32), peak=peak)


@pytest.mark.parametrize(("threshold", "peak"), [(0.25, 0.5), (0, 1), (-1, 1)])
def test_peak_is_fixed_by_the_threshold(threshold, peak) -> None:
    assert map_peak(threshold) == peak


@pytest.mark.parametrize("verdict", list(Verdict))
def test_annotate_adds_a_strip_and_keeps_the_picture(verdict: Verdict) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (50, 800, 3), dtype=np.uint8)

    annotated = annotate(picture, title="screw", facts=["score 0.2", "x"], badge=verdict)

    np.testing.assert_array_equal(annotated[-50:], picture)
    strip = annotated[:-50]
    assert (strip == VERDICT_COLORS[verdict]).all(axis=-1).sum() > 500
    assert (strip[:, :400].max(axis=-1) > 200).any()  # bright letters on the left


def test_annotate_keeps_long_names_off_the_badge() -> None:
    short = annotate(gray(10, 800), title="x", facts=[], badge=Verdict.UNDECIDED)
    long = annotate(gray(10, 800), title="W" * 64, facts=[], badge=Verdict.UNDECIDED)

    badge = (short[:-10] == VERDICT_COLORS[Verdict.UNDECIDED]).all(axis=-1)
    left = np.flatnonzero(badge.any(axis=0))[0]
    np.testing.assert_array_equal(long[:, left:], short[:, left:])


@pytest.mark.parametrize(
    "size", [(1, 1), (300, 300), (20, 300), (300, 20), (1000, 3000), (3000, 1000)]
)
def test_picture_has_a_readable_size_for_every_image(size) -> None:
    picture = draw_inspection(gray(*size), inspection_of(size))

    assert picture.dtype == np.uint8
    assert picture.shape[1] >= 800
    assert max(picture.shape) <= 2 * 1600 + 200


@pytest.mark.parametrize("verdict", list(Verdict))
def test_picture_is_framed_in_the_verdicts_colour(verdict: Verdict) -> None:
    picture = draw_inspection(gray(64, 64), inspection_of((64, 64), verdict))

    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == VERDICT_COLORS[verdict]).all()


def test_picture_shows_the_image_beside_the_overlay() -> None:
    picture = draw_inspection(gray(640, 640), inspection_of((640, 640)))

    is_original = (picture == 90).all(axis=-1)
    left, right = np.split(is_original, [picture.shape[1] // 2], axis=1)
    assert left.sum() == 640 * 640
    assert right.sum() == 640 * 320  # the upper half glows


def test_picture_of_a_wide_image_stacks_the_panels() -> None:
    picture = draw_inspection(gray(100, 640), inspection_of((100, 640)))

    assert (picture == 90).all(axis=-1).any(axis=1).sum() == 100 + 50


def test_picture_needs_the_map_of_this_image() -> None:
    with pytest.raises(ValueError, match="the map is"):
        draw_inspection(gray(10, 20), inspection_of((20, 10)))
    bare = replace(inspection_of((10, 20)), anomaly_map=None, defect_regions=None)
    with pytest.raises(ValueError, match="with_map=True"):
        draw_inspection(gray(10, 20), bare)


def framed_box(size) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what a defect region changes in the picture."""
    inspection = inspection_of(size)
    region = DefectRegion((size[1] // 4, size[0] // 2, 20, 10), 150, 0.4, (size[1] // 4, 25))
    with_region = draw_inspection(gray(*size), replace(inspection, defect_regions=(region,)))
    without = draw_inspection(gray(*size), inspection)
    changed = (with_region != without).any(axis=-1)
    body = changed[round(len(changed) * 0.2) :]  # the strip above tells their number
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    return columns[0], rows[0], columns[-1], rows[-1]


@pytest.mark.parametrize(("size", "scale"), [((640, 640), 1), ((320, 320), 2)])
def test_defect_region_is_framed_in_the_overlay_at_its_scale(size, scale) -> None:
    left, top, right, bottom = framed_box(size)

    assert left > draw_inspection(gray(*size), inspection_of(size)).shape[1] // 2
    assert right - left == pytest.approx(20 * scale, abs=5)  # the frame's own width
    assert bottom - top == pytest.approx(10 * scale, abs=5)


def test_lower_threshold_is_written_where_it_differs() -> None:
    plain = draw_inspection(gray(64, 64), inspection_of((64, 64)))
    lower = replace(inspection_of((64, 64)), normal_below=0.1)

    assert not np.array_equal(draw_inspection(gray(64, 64), lower), plain)


def zero_shot_of(anomaly_map) -> ZeroShotScore:
    return ZeroShotScore(
        index=0,
        name="a.png",
        sha256="00" * 32,
        anomaly_score=0.25,
        patch_distances=np.zeros((2, 2), np.float32),
        anomaly_map=anomaly_map,
        masked=False,
        num_images=3,
        num_bank_patches=8,
        backbone=Backbone("vits14", "", "", "", "", ""),
        request_id="",
        latency_ms=1.0,
    )


def test_zero_shot_picture_has_no_verdict_and_glows_by_the_given_peak() -> None:
    score = zero_shot_of(inspection_of((640, 640)).anomaly_map)

    strong = draw_zero_shot(gray(640, 640), score, peak=0.4)
    weak = draw_zero_shot(gray(640, 640), score, peak=4.0)

    for color in VERDICT_COLORS.values():
        assert not (strong == color).all(axis=-1).any()
    assert (strong == 90).all(axis=-1).sum() == 640 * 640 + 640 * 320
    assert (weak == 90).all(axis=-1).sum() == 2 * 640 * 640


def test_zero_shot_picture_needs_the_map() -> None:
    with pytest.raises(ValueError, match="with_map=True"):
        draw_zero_shot(gray(64, 64), zero_shot_of(None), peak=1)


def test_text_that_leaves_the_image_is_cut_off() -> None:
    image = np.zeros((10, 10, 3), np.uint8)

    Lettering(8, (255, 0, 0)).write(image, "WWWWWWW", 5, 9)
    Lettering(8, (255, 0, 0)).write(image, "W", 50, 9)

    assert image[..., 0].any()
    assert not image[..., 1:].any()
    assert not image[:, :4].any()


def test_png_comes_back_as_it_was_written(tmp_path: Path, image_rgb) -> None:
    write_png(tmp_path / "a.png", image_rgb)

    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), image_rgb)
    bgr = cv2.imread(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(bgr[..., ::-1], image_rgb)


def test_png_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path, image_rgb) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    previous = os.umask(0o027)
    try:
        write_png(path, image_rgb)
    finally:
        os.umask(previous)

    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_png_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, image_rgb) -> None:
    (tmp_path / "a.png").mkdir()

    with pytest.raises(OSError, match=r"a\.png"):
        write_png(tmp_path / "a.png", image_rgb)

    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_read_refuses_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)

    with pytest.raises(InvalidImageError, match="cannot decode"):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(InvalidImageError, match="No such file"):
        read_rgb(tmp_path / "missing.png")
