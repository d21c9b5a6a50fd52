from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from reference.anomaly_dino_reference import pixels as reference_pixels

from image_preparation import (
    backbone_pixels,
    decode_image,
    patch_grid,
    refuse_transparency,
    resized_size,
    same_aspect,
)
from refusals import InspectionRefused


def encode(array, image_format="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format, **options)
    return buffer.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(image_format):
    image = noise(40, 50)
    assert np.array_equal(decode_image(encode(image, image_format)), image)


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(image_format):
    image = np.full((40, 50, 3), (200, 100, 30), np.uint8)
    assert np.abs(decode_image(encode(image, image_format)).astype(int) - image).max() < 12


def test_grey_becomes_three_equal_channels():
    grey = noise(40, 40)[..., 0]
    assert np.array_equal(decode_image(encode(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_orientation_of_the_camera_is_applied():
    image = noise(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: rotate by 90 degrees clockwise to see it upright
    for image_format in ("PNG", "TIFF"):
        encoded = encode(image, image_format, exif=exif)
        assert np.array_equal(decode_image(encoded), np.rot90(image, -1))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "empty"),
        (b"this is a text file, not an image" * 100, "no image in a known format"),
        (encode(noise(1, 1)), "at least 32 px"),
        (encode(noise(31, 400)), "at least 32 px"),
        (encode(noise(400, 400), "JPEG")[:5000], "truncated"),
        (encode(noise(400, 400))[:5000], "truncated"),
        (encode(noise(400, 400), "WEBP")[:5000], "WEBP|cannot be read|no image"),
        (encode(noise(40, 40).astype(np.uint16)[..., 0] * 256), "8 bits per channel"),
        (encode(noise(40, 40), "GIF"), "no image in a known format"),
    ],
)
def test_what_cannot_be_inspected_is_refused_with_a_reason(encoded, reason):
    with pytest.raises(InspectionRefused, match=reason):
        decode_image(encoded)


def test_colour_of_16_bits_is_refused_and_not_cut_to_8():
    deep = noise(40, 40).astype(np.uint16) * 16  # 12 bits of a camera in 16
    for extension in (".png", ".tiff"):
        encoded = cv2.imencode(extension, deep)[1].tobytes()
        with pytest.raises(InspectionRefused, match="16 bits per channel|cannot be read"):
            decode_image(encoded)


def test_file_of_several_images_is_refused():
    buffer = io.BytesIO()
    pages = [Image.fromarray(noise(40, 40, seed)) for seed in range(3)]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(InspectionRefused, match="holds 3 images"):
        decode_image(buffer.getvalue())


def test_advice_of_the_decoder_is_no_damage():
    buffer = io.BytesIO()
    image = Image.fromarray(noise(40, 40)).quantize(8)
    image.save(buffer, "PNG", transparency=bytes(range(8)))
    assert decode_image(buffer.getvalue()).shape == (40, 40, 3)


def test_a_bomb_is_refused_before_it_is_decoded():
    encoded = encode(np.zeros((6_001, 6_000), np.uint8), "PNG")
    assert len(encoded) < 200_000
    with pytest.raises(InspectionRefused, match="allowed are 36000000"):
        decode_image(encoded)


@pytest.mark.parametrize(
    ("size", "resized", "grid"),
    [
        ((300, 300), (448, 448), (32, 32)),
        ((480, 640), (448, 597), (32, 42)),
        ((768, 576), (597, 448), (42, 32)),
        ((1000, 1333), (448, 597), (32, 42)),
    ],
)
def test_shorter_edge_becomes_the_resolution(size, resized, grid):
    assert resized_size(size, 448) == resized
    assert patch_grid(size, 448) == grid


@pytest.mark.parametrize(("height", "width", "grid"), [(300, 300, (32, 32)), (480, 640, (32, 42))])
def test_pixels_are_those_of_the_authors_code(height, width, grid, tmp_path):
    image = noise(height, width)
    path = tmp_path / "image.png"
    path.write_bytes(encode(image))
    assert np.array_equal(backbone_pixels(image, grid), reference_pixels(path))


def test_image_of_the_backbones_size_is_not_touched():
    image = noise(448, 588)
    assert np.array_equal(backbone_pixels(image, (32, 42)), image)


def test_another_aspect_ratio_is_refused_with_the_model_to_use():
    with pytest.raises(InspectionRefused, match=r"this model takes 32 x 32\. .* 448x588"):
        backbone_pixels(noise(480, 640), (32, 32))


def test_same_aspect_allows_a_percent():
    assert same_aspect((300, 300), (600, 600))
    assert same_aspect((300, 302), (300, 300))
    assert not same_aspect((300, 304), (300, 300))
    assert not same_aspect((300, 400), (400, 300))


def test_longer_edge_is_rounded_down_as_torchvision_does():
    assert resized_size((300, 401), 448) == (448, 598)
    assert resized_size((401, 300), 448) == (598, 448)


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGBA", {}), ("LA", {}), ("P", {"transparency": 0}), ("RGB", {"transparency": (0, 0, 0)})],
)
def test_transparent_pixels_are_told(mode, options):
    """Transparent white looks empty in an editor and would be bright in a mask."""
    buffer = io.BytesIO()
    Image.new(mode, (64, 64)).save(buffer, "PNG", **options)
    with pytest.raises(InspectionRefused, match="transparent pixels"):
        refuse_transparency(buffer.getvalue())
    refuse_transparency(encode(noise(40, 40)))
