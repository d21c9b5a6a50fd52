"""Images padded to a square by their border, as the official `SquarePad` does, and resized."""

from __future__ import annotations

import numpy as np
import pytest
import triton_stub
from PIL import Image

from image_preparation import MAX_PIXELS, PATCH_SIZE, padded_pixels, padding_before
from refusals import InspectionRefused


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def padded_by_hand(image):
    """Pixel by pixel: the smaller half of the padding above and left, filled by the border."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    result = np.empty((side, side, 3), np.uint8)
    for y in range(side):
        for x in range(side):
            row, column = min(max(y - top, 0), height - 1), min(max(x - left, 0), width - 1)
            result[y, x] = image[row, column]
    return result


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (41, 60), (60, 41), (32, 75), (64, 64)])
def test_pixels_are_those_of_the_padded_square(size):
    image = picture(*size)
    square = Image.fromarray(padded_by_hand(image))
    expected = np.asarray(square.resize((56, 56), Image.Resampling.BICUBIC))
    assert np.array_equal(padded_pixels(image, (4, 4)), expected)


@pytest.mark.parametrize(("height", "width"), [(56, 56), (56, 35), (36, 56)])
def test_square_of_the_right_size_is_not_resized(height, width):
    image = picture(height, width)
    assert np.array_equal(padded_pixels(image, (4, 4)), padded_by_hand(image))


@pytest.mark.parametrize(("size_px", "before"), [(10, 0), (9, 0), (8, 1), (7, 1), (6, 2), (5, 2)])
def test_odd_padding_has_one_more_behind(size_px, before):
    assert padding_before(size_px, 10) == before


def test_largest_square_is_prepared_and_a_longer_edge_refused():
    side = int(MAX_PIXELS**0.5)
    assert side**2 == MAX_PIXELS
    thin = np.broadcast_to(np.uint8(7), (32, side, 3))
    assert (padded_pixels(thin, (2, 2)) == 7).all()
    with pytest.raises(InspectionRefused, match="allowed are 36000000"):
        padded_pixels(np.broadcast_to(np.uint8(7), (32, side + 1, 3)), (2, 2))


@pytest.mark.parametrize("size", [(31, 60), (60, 31), (0, 0)])
def test_too_small_image_is_refused(size):
    with pytest.raises(InspectionRefused, match="at least 32 px"):
        padded_pixels(np.zeros((*size, 3), np.uint8), (2, 2))


class Asked(dict):
    """A request that asks for some of the outputs."""

    def __init__(self, wanted, **inputs):
        super().__init__(triton_stub.request(**inputs))
        self.requested_output_names = lambda: wanted


@pytest.fixture
def preprocess(tmp_path, monkeypatch):
    model = triton_stub.load(monkeypatch, "preprocess", tmp_path, grid="4,4", input="image_rgb")
    yield model
    model.finalize()


def test_model_prepares_what_is_asked_for_alone(preprocess):
    """An image that AnomalyDINO's crop refuses can still be padded."""
    wide = picture(60, 200)
    requests = [
        Asked(["pixels_padded", "image_size"], image_rgb=wide[None]),
        Asked(["pixels", "image_size"], image_rgb=wide[None]),
        Asked(["pixels", "pixels_padded"], image_rgb=picture(60, 60)[None]),
    ]
    padded, cropped, both = preprocess.execute(requests)
    assert set(padded.outputs) == {"pixels_padded", "image_size"}
    assert np.array_equal(padded.outputs["pixels_padded"][0], padded_pixels(wide, (4, 4)))
    assert padded.outputs["image_size"].tolist() == [[60, 200]]
    assert cropped.error.code == "INVALID_ARG"
    assert np.array_equal(both.outputs["pixels"], both.outputs["pixels_padded"])
    assert both.outputs["pixels"].shape == (1, 4 * PATCH_SIZE, 4 * PATCH_SIZE, 3)
