"""Pictures of an inspection for people. Pure functions, but for reading and writing files.

Images are ``(H, W, 3)`` uint8 RGB everywhere here; OpenCV's BGR stays inside ``read_rgb`` and
``write_png``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from dinspect_client.errors import InvalidImageError
from dinspect_client.files import whole_file
from dinspect_client.images import checked_rgb
from dinspect_client.lettering import Lettering
from dinspect_client.methods import called
from dinspect_client.results import Inspection, ZeroShotScore
from dinspect_client.wire import Verdict, parse_product

RgbImage: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = tuple[int, int, int]
PixelsT = TypeVar("PixelsT", NDArray[np.uint8], NDArray[np.float32])

PEAK_PER_THRESHOLD = 2.0
"""The colour scale of a product ends at this many times its threshold, which so sits halfway."""

VERDICT_COLORS: dict[Verdict, Color] = {
    Verdict.NORMAL: (46, 160, 88),
    Verdict.ANOMALOUS: (214, 58, 52),
    Verdict.UNDECIDED: (206, 138, 20),
}

# The map is invisible below the first share of the peak, and covers most from the second on.
_FADE_FROM, _FADE_TO, _MAX_OPACITY = 0.25, 0.70, 0.72
_BACKGROUND: Color = (22, 25, 31)
_TEXT: Color = (236, 239, 244)
_MUTED: Color = (150, 158, 170)
_MIN_PANEL_PX, _MAX_PANEL_PX, _MIN_CONTENT_PX = 640, 1600, 800


def color_scale() -> RgbImage:
    """Return the 256 colours of the scale, ``(256, 3)``, from no distance to the peak."""
    levels = np.arange(256, dtype=np.uint8)[:, np.newaxis]
    colors = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)  # (256, 1, 3) BGR
    return np.asarray(colors[:, 0, ::-1], dtype=np.uint8)


def map_peak(threshold: float) -> float:
    """Return the end of a product's colour scale; one product's pictures stay comparable."""
    return PEAK_PER_THRESHOLD * threshold if threshold > 0 else 1.0


def overlay_image(
    image_rgb: RgbImage, anomaly_map: NDArray[np.float32], *, peak: float
) -> RgbImage:
    """Lay the map over the image: transparent where it is low, glowing where it is high.

    Args:
        image_rgb: ``(H, W, 3)`` uint8.
        anomaly_map: ``(H, W)``, finite, from 0.
        peak: The value that gets the last colour, more than 0. Give every picture of a product
            the same, or their colours cannot be compared.

    Returns:
        ``(H, W, 3)`` uint8; the image's own pixels where the map is below a quarter of the peak.

    Raises:
        ValueError: If the sizes differ or the peak is not positive.
    """
    if anomaly_map.shape != image_rgb.shape[:2]:
        raise ValueError(f"the map is {anomaly_map.shape}, the image {image_rgb.shape[:2]}")
    if not peak > 0:
        raise ValueError(f"peak is {peak}, expected more than 0")
    share = np.clip(anomaly_map / np.float32(peak), 0, 1)  # (H, W)
    fade = np.clip((share - _FADE_FROM) / (_FADE_TO - _FADE_FROM), 0, 1)
    # Smooth at both ends, else the eye sees a contour where the map has none.
    opacity = (_MAX_OPACITY * fade * fade * (3 - 2 * fade))[..., np.newaxis]  # (H, W, 1)
    colors = color_scale()[np.rint(share * 255).astype(np.uint8)]  # (H, W, 3)
    blended = image_rgb * (1 - opacity) + colors * opacity
    return np.rint(blended).astype(np.uint8)


def annotate(
    picture: RgbImage, *, title: str, facts: Sequence[str], badge: Verdict | None
) -> RgbImage:
    """Put a strip with title, facts and verdict above a picture.

    Args:
        picture: ``(H, W, 3)`` uint8.
        title: Shrunk to fit, whatever its length.
        facts: Short texts; the first is the brightest.
        badge: Verdict, written on a badge in its colour; None for no badge.

    Returns:
        ``(H + strip, W, 3)`` uint8, the picture unchanged at the bottom.
    """
    width = picture.shape[1]
    unit = _text_height(width)
    strip: RgbImage = np.full((round(5.2 * unit), width, 3), _BACKGROUND, dtype=np.uint8)
    left = width
    if badge is not None:
        on_badge = Lettering(unit, (255, 255, 255), bold=True)
        left = width - on_badge.width(badge.name) - 2 * unit
        corners = (left, round(0.8 * unit)), (width - 1, round(3.4 * unit))
        _rounded_box(strip, *corners, VERDICT_COLORS[badge])
        on_badge.write(strip, badge.name, left + unit, round(2.6 * unit))
    heading = Lettering(round(1.15 * unit), _TEXT, bold=True).fitting(title, left - unit)
    heading.write(strip, title, 0, round(2 * unit))
    x, color = 0, _TEXT
    for fact in facts:
        lettering = Lettering(round(0.85 * unit), color)
        lettering.write(strip, fact, x, round(4 * unit))
        x, color = x + lettering.width(fact) + 2 * unit, _MUTED
    return np.vstack([strip, picture])


def draw_inspection(image_rgb: RgbImage, inspection: Inspection) -> RgbImage:
    """Draw the picture of an inspection: the image, the map over it, scale, facts and verdict.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, the image that was inspected.
        inspection: Its answer, with the map; its defect regions are framed in it.

    Returns:
        The picture as uint8 RGB; small images are enlarged, large ones reduced, so that the text
        is readable beside them.

    Raises:
        ValueError: If the inspection has no map, or one of another image.
    """
    if inspection.anomaly_map is None:
        raise ValueError("the inspection has no anomaly map; inspect with_map=True")
    threshold, peak = inspection.threshold, map_peak(inspection.threshold)
    boxes = [region.box_px for region in inspection.defect_regions or ()]
    body = _body(image_rgb, inspection.anomaly_map, peak, boxes, threshold=threshold)
    facts = [f"score {inspection.anomaly_score:.4g}", f"threshold {threshold:.4g}"]
    if inspection.normal_below < threshold:
        facts.append(f"normal up to {inspection.normal_below:.4g}")
    if boxes:
        facts.append(f"{len(boxes)} defect region" + ("s" if len(boxes) > 1 else ""))
    product = called(parse_product(inspection.product)[0], inspection.method)
    title = f"{product} v{inspection.bundle_version}"
    picture = annotate(body, title=title, facts=facts, badge=inspection.verdict)
    return _framed(picture, VERDICT_COLORS[inspection.verdict])


def draw_zero_shot(image_rgb: RgbImage, score: ZeroShotScore, *, peak: float) -> RgbImage:
    """Draw the picture of a zero-shot score, which knows neither threshold nor verdict.

    Args:
        image_rgb: ``(H, W, 3)`` uint8, the image that was scored.
        score: Its score, with the map.
        peak: As for ``overlay_image``: the same for every picture of a batch.

    Returns:
        The picture as uint8 RGB, in a size as ``draw_inspection`` makes it.

    Raises:
        ValueError: If there is no map, or one of another image, or the peak is not positive.
    """
    if score.anomaly_map is None:
        raise ValueError("the score has no anomaly map; ask for it with_map=True")
    body = _body(image_rgb, score.anomaly_map, peak, [], threshold=None)
    facts = [f"score {score.anomaly_score:.4g}", f"against {score.num_images - 1} other images"]
    return _framed(annotate(body, title=score.name, facts=facts, badge=None), _MUTED)


def _body(
    image_rgb: RgbImage,
    anomaly_map: NDArray[np.float32],
    peak: float,
    boxes: Sequence[tuple[int, int, int, int]],
    threshold: float | None,
) -> RgbImage:
    """Image and overlay side by side, with the scale below."""
    if anomaly_map.shape != image_rgb.shape[:2]:
        raise ValueError(f"the map is {anomaly_map.shape}, the image {image_rgb.shape[:2]}")
    # Scaled before they are blended: less work for large images, smoother edges for small ones.
    image = _fit(image_rgb)
    overlay = overlay_image(image, _fit(anomaly_map), peak=peak)
    _frame_boxes(overlay, boxes, image.shape[1] / image_rgb.shape[1])
    panels = _panels(image, overlay)
    body = _centred(panels, max(panels.shape[1], _MIN_CONTENT_PX))
    return np.vstack([body, _scale_strip(body.shape[1], threshold, peak)])


def _frame_boxes(panel: RgbImage, boxes: Sequence[tuple[int, int, int, int]], scale: float) -> None:
    """Frame boxes in pixels of the image in its scaled panel, bright on dark to be seen on both."""
    for x, y, width, height in boxes:
        top_left = (int(x * scale), int(y * scale))
        bottom_right = (int(np.ceil((x + width) * scale)), int(np.ceil((y + height) * scale)))
        for color, thickness in ((_BACKGROUND, 4), (_TEXT, 2)):
            cv2.rectangle(panel, top_left, bottom_right, color, thickness)


def _framed(picture: RgbImage, color: Color) -> RgbImage:
    picture = _bordered(picture, _text_height(picture.shape[1]), _BACKGROUND)
    return _bordered(picture, max(3, picture.shape[1] // 300), color)


def read_rgb(path: str | os.PathLike[str]) -> RgbImage:
    """Read an image file, turned as its camera noted.

    Raises:
        InvalidImageError: If it cannot be read or decoded.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InvalidImageError(f"cannot read image {path}: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise InvalidImageError(f"cannot decode {os.fspath(path)} as an image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_png(path: str | os.PathLike[str], image_rgb: RgbImage) -> None:
    """Write an image as PNG; nobody ever sees half a file.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    data = cv2.imencode(".png", cv2.cvtColor(checked_rgb(image_rgb), cv2.COLOR_RGB2BGR))[1]
    with whole_file(path, overwrite=True) as file:
        file.write(data.tobytes())


def _fit(image: PixelsT) -> PixelsT:
    """Scale so that the longer side lies between the limits of a panel."""
    longer = max(image.shape[:2])
    scale = min(max(longer, _MIN_PANEL_PX), _MAX_PANEL_PX) / longer
    size = tuple(max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    # Linear and not cubic: cubic overshoots, and a distance below zero means nothing.
    interpolation = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return cast(PixelsT, cv2.resize(image, size, interpolation=interpolation))


def _panels(left: RgbImage, right: RgbImage) -> RgbImage:
    """Side by side; one above the other for wide images, which would become a thin line."""
    height, width = left.shape[:2]
    gap = max(8, max(height, width) // 60)
    if width > 2 * height:
        return np.vstack([left, np.full((gap, width, 3), _BACKGROUND, np.uint8), right])
    return np.hstack([left, np.full((height, gap, 3), _BACKGROUND, np.uint8), right])


def _centred(image: RgbImage, width: int) -> RgbImage:
    space = width - image.shape[1]
    return _pad(image, 0, 0, space // 2, space - space // 2, _BACKGROUND)


def _bordered(image: RgbImage, size: int, color: Color) -> RgbImage:
    return _pad(image, size, size, size, size, color)


def _pad(image: RgbImage, top: int, bottom: int, left: int, right: int, color: Color) -> RgbImage:
    padded = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=color)
    return np.asarray(padded, dtype=np.uint8)


def _scale_strip(width: int, threshold: float | None, peak: float) -> RgbImage:
    """Draw the colour scale with its ends and the threshold, if there is one."""
    label = Lettering(round(0.72 * _text_height(width)), _MUTED)
    height = label.height
    strip: RgbImage = np.full((round(4.4 * height), width, 3), _BACKGROUND, dtype=np.uint8)
    top, bottom = round(1.4 * height), round(2.2 * height)
    columns = np.linspace(0, 255, width).astype(np.uint8)
    strip[top:bottom] = color_scale()[columns]
    marks = [("0", 0.0), (f"{peak:.3g}", 1.0)]
    if threshold is not None:
        marks.insert(1, (f"threshold {threshold:.3g}", threshold / peak))
    for text, share in marks:
        center = round(share * (width - 1))
        text_width = label.width(text)
        left = min(max(0, center - text_width // 2), width - text_width)
        label.write(strip, text, left, round(3.9 * height))
        if 0 < share < 1:
            cv2.line(strip, (center, top - height // 3), (center, bottom + height // 3), _TEXT, 2)
    return strip


def _text_height(width: int) -> int:
    """Height of capitals in pixels that reads well in a picture of a width."""
    return max(13, width // 66)


def _rounded_box(
    image: RgbImage, top_left: tuple[int, int], bottom_right: tuple[int, int], color: Color
) -> None:
    (left, top), (right, bottom) = top_left, bottom_right
    radius = (bottom - top) // 5
    cv2.rectangle(image, (left + radius, top), (right - radius, bottom), color, -1)
    cv2.rectangle(image, (left, top + radius), (right, bottom - radius), color, -1)
    for x in (left + radius, right - radius):
        for y in (top + radius, bottom - radius):
            cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
