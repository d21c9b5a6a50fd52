"""Settings and rotations (Section C.1, Tables 8 and 9b; the authors' `src/utils.py`)."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing import (
    DEFAULT_SETTING,
    ROTATIONS_DEG,
    SETTINGS,
    Setting,
    check_setting,
    rotate,
    rotations,
    rotations_of,
)
from refusals import InspectionRefused

ALL = (0, 45, 90, 135, 180, 225, 270, 315)


def noise(height, width, lowest=0):
    shape = (height, width, 3)
    return np.random.default_rng(0).integers(lowest, 256, shape, dtype=np.uint8)


def test_angles_are_the_authors_with_the_image_itself_first():
    assert ROTATIONS_DEG == ALL


@pytest.mark.parametrize(
    ("name", "masking", "rotates", "rotates_when_said"),
    [
        # Table 8: the masking test decides, rotations as known or always.
        ("agnostic", "test", True, None),
        ("informed", "test", False, True),
        # `get_dataset_info`'s masking_only: full-shot (Table 5).
        ("masking_only", "test", False, None),
        # Table 9b, row by row.
        ("no_mask_no_rotation", "never", False, None),
        ("no_mask_rotation", "never", True, None),
        ("mask_no_rotation", "always", False, None),
        ("mask_rotation", "always", True, None),
    ],
)
def test_setting_asks_for_masking_and_rotation(name, masking, rotates, rotates_when_said):
    setting = check_setting(name, rotated=False, texture=False)
    assert setting.masking == masking
    assert rotations_of(setting, rotated=False) == (ALL if rotates else (0,))
    if rotates_when_said is None:
        with pytest.raises(InspectionRefused, match=f"{name!r} does not ask; it goes with 'inf"):
            check_setting(name, rotated=True, texture=False)
    else:
        said = check_setting(name, rotated=True, texture=False)
        assert rotations_of(said, rotated=True) == ALL


def test_every_setting_is_tested_above():
    assert len(SETTINGS) == 7
    assert DEFAULT_SETTING == "agnostic"


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_texture_is_never_masked(name):
    if SETTINGS[name].masking == "always":
        with pytest.raises(InspectionRefused, match=f"{name!r} masks always, but a texture is"):
            check_setting(name, rotated=False, texture=True)
    else:
        assert check_setting(name, rotated=False, texture=True) is SETTINGS[name]


def test_unknown_setting_is_refused_with_the_names_there_are():
    with pytest.raises(InspectionRefused, match="'agnostik', expected one of agnostic, informed,"):
        check_setting("agnostik", rotated=False, texture=False)


def test_never_rotated_is_never_rotated_whatever_is_said():
    assert rotations_of(Setting("never", "never"), rotated=True) == (0,)


def test_image_itself_is_unchanged():
    image = noise(30, 40)
    assert np.array_equal(rotate(image, 0), image)


def test_a_quarter_turn_goes_counter_clockwise():
    image = np.zeros((20, 20, 3), np.uint8)
    image[2, 15] = 255  # top right
    assert np.argwhere(rotate(image, 90)[..., 0]).tolist() == [[5, 2]]  # top left
    assert np.argwhere(rotate(image, 270)[..., 0]).tolist() == [[15, 18]]  # bottom right


@pytest.mark.parametrize("side", [12, 60, 61])
def test_quarter_turns_of_squares_lose_one_row_or_column(side):
    """The centre w/2, h/2 is half a pixel off the pixels' own, as the authors have it."""
    image = noise(side, side)
    quarter = rotate(image, 90)
    assert np.array_equal(quarter[1:], np.rot90(image)[:-1])
    assert np.array_equal(quarter[0], quarter[2])  # reflected at the border's own row
    three = rotate(image, 270)
    assert np.array_equal(three[:, 1:], np.rot90(image, 3)[:, :-1])
    assert np.array_equal(three[:, 0], three[:, 2])


@pytest.mark.parametrize(("height", "width"), [(60, 60), (31, 45), (45, 32)])
def test_half_a_turn_of_any_size_loses_one_row_and_column(height, width):
    image = noise(height, width)
    half = rotate(image, 180)
    assert np.array_equal(half[1:, 1:], image[::-1, ::-1][:-1, :-1])
    assert np.array_equal(half[0], half[2])
    assert np.array_equal(half[:, 0], half[:, 2])


def slowly_rotated(image, angle_deg):
    """Bilinear at the point that each pixel comes from, reflected about the border's pixels."""
    height, width = image.shape[:2]
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    result = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            dx, dy = column - width / 2, row - height / 2
            # Turned back by the angle; y points down.
            x = width / 2 + cosine * dx - sine * dy
            y = height / 2 + sine * dx + cosine * dy
            left, top = int(np.floor(x)), int(np.floor(y))
            for j, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                for i, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
                    pixel = image[reflected(j, height), reflected(i, width)]
                    result[row, column] += weight_y * weight_x * pixel
    return result


def reflected(index, size):
    """3 2 1 | 0 1 2 3 | 2 1 0, as often as needed."""
    index = abs(index) % (2 * size - 2)
    return index if index < size else 2 * size - 2 - index


@pytest.mark.parametrize("angle_deg", ALL[1:])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (21, 30), (30, 17)])
def test_turned_image_is_bilinear_with_a_reflected_border(angle_deg, height, width):
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([4 * rows + 3 * columns, 200 - 5 * rows, 120 + 90 * np.sin(columns / 3)], -1)
    image = smooth.astype(np.uint8)
    # OpenCV rounds the point to 1/32 px, on slopes of 30 grey levels a pixel, and the result.
    np.testing.assert_allclose(rotate(image, angle_deg), slowly_rotated(image, angle_deg), atol=1)


def test_a_black_and_white_image_turns_to_grey_between_its_pixels():
    board = np.kron(np.indices((12, 12)).sum(0) % 2, np.full((2, 2), 255))
    turned = rotate(board[..., None].repeat(3, axis=2).astype(np.uint8), 45)
    assert np.isin(turned, np.arange(20, 236)).mean() > 0.3


@pytest.mark.parametrize("angle_deg", ALL)
def test_turning_keeps_size_type_and_the_image_given(angle_deg):
    image = noise(33, 47, lowest=100)
    before = image.copy()
    turned = rotate(image, angle_deg)
    assert (turned.shape, turned.dtype) == (image.shape, np.uint8)
    assert turned.min() >= 100  # no black corners
    assert np.array_equal(image, before)


def test_rotations_are_in_the_order_asked_for():
    image = noise(20, 20)
    found = rotations(image, (180, 0, 45))
    assert len(found) == 3
    for one, angle_deg in zip(found, (180, 0, 45), strict=True):
        assert np.array_equal(one, rotate(image, angle_deg))
