"""Which patches a region of interest and an ignore mask leave, to the pixel."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from image_preparation import patch_grid
from inspected_region import area_px, foreground_share, inspected_patches
from refusals import InspectionRefused

GRID = (2, 3)
SIZE = (28, 42)  # every patch 14 x 14 px
# 300 x 400 px at 448: 448 x 597, of which 448 x 588 are patches of 9.375 x 9.38 px.
CAMERA, CAMERA_GRID = (300, 400), (32, 42)


def mask_image(size, ignored=()):
    image = np.zeros((*size, 3), np.uint8)
    for rows, columns in ignored:
        image[slice(*rows), slice(*columns)] = 255
    return image


def test_everything_is_inspected_unless_said_otherwise():
    assert inspected_patches(GRID, SIZE).tolist() == [[True] * 3] * 2
    assert inspected_patches(CAMERA_GRID, CAMERA).all()
    assert inspected_patches(CAMERA_GRID, CAMERA).shape == CAMERA_GRID


@pytest.mark.parametrize(
    ("roi_px", "expected"),
    [
        ([0, 0, 42, 28], [[1, 1, 1], [1, 1, 1]]),
        ([14, 0, 14, 14], [[0, 1, 0], [0, 0, 0]]),  # a patch to the pixel
        ([13, 0, 15, 14], [[1, 1, 0], [0, 0, 0]]),  # one pixel more to the left
        ([14, 0, 15, 14], [[0, 1, 1], [0, 0, 0]]),  # to the right
        ([14, 0, 14, 15], [[0, 1, 0], [0, 1, 0]]),  # below
        ([14, 13, 14, 15], [[0, 1, 0], [0, 1, 0]]),  # above
        ([13, 13, 1, 1], [[1, 0, 0], [0, 0, 0]]),
        ([14, 14, 1, 1], [[0, 0, 0], [0, 1, 0]]),
        ([41, 27, 1, 1], [[0, 0, 0], [0, 0, 1]]),
    ],
)
def test_region_of_interest_by_hand(roi_px, expected):
    assert inspected_patches(GRID, SIZE, roi_px).astype(int).tolist() == expected
    # The same in an image of ten times the size.
    large = [10 * value for value in roi_px]
    found = inspected_patches(GRID, (280, 420), large)
    assert found.astype(int).tolist() == expected


@pytest.mark.parametrize(
    ("roi_px", "rows", "columns"),
    [
        ([9, 0, 1, 9], (0, 1), (0, 2)),  # pixel 9 holds the end of patch 0, at 9.38
        ([10, 0, 8, 9], (0, 1), (1, 2)),
        ([10, 0, 9, 9], (0, 1), (1, 3)),  # pixel 18 holds the end of patch 1, at 18.76
        ([10, 9, 1, 1], (0, 2), (1, 2)),
        ([393, 299, 7, 1], (31, 32), (41, 42)),  # patches end at 393.97
    ],
)
def test_patches_that_share_a_pixel_are_all_inspected(roi_px, rows, columns):
    expected = np.zeros(CAMERA_GRID, bool)
    expected[slice(*rows), slice(*columns)] = True
    assert np.array_equal(inspected_patches(CAMERA_GRID, CAMERA, roi_px), expected)


def test_margin_that_is_cropped_off_has_no_patches():
    with pytest.raises(InspectionRefused, match="no patch is left to inspect; enlarge the region"):
        inspected_patches(CAMERA_GRID, CAMERA, [394, 0, 6, 300])
    upright = (400, 300)
    with pytest.raises(InspectionRefused, match="no patch is left"):
        inspected_patches((42, 32), upright, [0, 394, 300, 6])


def touched(size_px, resized_px, patches, first, length):
    """Patches along one axis of which a pixel in first..first + length is a part, exactly."""
    edge = Fraction(14 * size_px, resized_px)
    return np.array(
        [index * edge < first + length and (index + 1) * edge > first for index in range(patches)]
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_regions_are_exactly_the_patches_they_touch(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(40, 900, 2))
    resolution = 14 * int(rng.integers(2, 40))
    grid = patch_grid((height, width), resolution)
    if height <= width:
        resized = (resolution, int(resolution * width / height))
    else:
        resized = (int(resolution * height / width), resolution)
    x, y = int(rng.integers(0, width // 2)), int(rng.integers(0, height // 2))
    roi = [x, y, int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))]
    rows = touched(height, resized[0], grid[0], roi[1], roi[3])
    columns = touched(width, resized[1], grid[1], roi[0], roi[2])
    found = inspected_patches(grid, (height, width), roi)
    expected = rows[:, None] & columns
    assert not (expected & ~found).any()  # never a patch too few
    # A patch too many only where an edge is a whole pixel and rounding steps over it.
    assert (
        (found & ~expected).sum() == 0
        or (14 * height) % resized[0] == 0
        or ((14 * width) % resized[1] == 0)
    )


@pytest.mark.parametrize(
    "roi_px",
    [
        [-1, 0, 10, 10],
        [0, -1, 10, 10],
        [0, 0, 0, 10],
        [0, 0, 10, 0],
        [33, 0, 10, 10],
        [0, 19, 10, 10],
        [0, 0, 43, 28],
        [0, 0, 42, 29],
    ],
)
def test_region_that_leaves_the_image_is_refused(roi_px):
    with pytest.raises(InspectionRefused, match=r"is not inside the product's images of 42 x 28"):
        inspected_patches(GRID, SIZE, roi_px)


@pytest.mark.parametrize(("grey", "ignored"), [(0, False), (127, False), (128, True), (255, True)])
@pytest.mark.parametrize("channel", range(3))
def test_bright_pixels_are_ignored(grey, ignored, channel):
    image = mask_image(SIZE)
    image[:14, :14, channel] = grey
    assert inspected_patches(GRID, SIZE, ignore_mask=image)[0, 0] != ignored
    assert inspected_patches(GRID, SIZE, ignore_mask=image).sum() == 6 - ignored


def test_a_patch_with_one_pixel_left_is_inspected():
    image = mask_image(SIZE, [((0, 28), (0, 42))])
    image[20, 20] = 0
    expected = [[False] * 3, [False, True, False]]
    assert inspected_patches(GRID, SIZE, ignore_mask=image).tolist() == expected
    image[20, 20] = 255
    with pytest.raises(InspectionRefused, match="no patch is left"):
        inspected_patches(GRID, SIZE, ignore_mask=image)


@pytest.mark.parametrize("scale", [0.5, 1, 3, 10])
def test_ignore_mask_may_have_another_size(scale):
    size = tuple(int(side * scale) for side in SIZE)
    edge = int(14 * scale)
    image = mask_image(size, [((0, edge), (edge, 2 * edge))])
    expected = [[True, False, True], [True, True, True]]
    assert inspected_patches(GRID, SIZE, ignore_mask=image).tolist() == expected


def test_region_and_mask_of_another_size_both_hold():
    """The region is in pixels of the references, whatever the mask's."""
    half = mask_image((14, 21), [((0, 7), (0, 7))])
    found = inspected_patches(GRID, SIZE, [0, 0, 28, 14], half)
    assert found.tolist() == [[False, True, False], [False] * 3]
    # Half a pixel of the mask is a whole one: the region is rounded outwards.
    found = inspected_patches(GRID, SIZE, [0, 0, 29, 14], mask_image((14, 21)))
    assert found.tolist() == [[True, True, True], [False] * 3]
    found = inspected_patches(GRID, SIZE, [0, 0, 14, 15], mask_image((14, 21)))
    assert found.tolist() == [[True, False, False]] * 2
    found = inspected_patches(GRID, SIZE, [27, 0, 1, 14], mask_image((14, 21)))
    assert found.tolist() == [[False, True, False], [False] * 3]


def test_region_and_mask_that_leave_nothing_are_refused():
    left_ignored = mask_image(SIZE, [((0, 28), (0, 14))])
    with pytest.raises(InspectionRefused, match="no patch is left"):
        inspected_patches(GRID, SIZE, [0, 0, 14, 28], left_ignored)


def test_mask_of_another_aspect_ratio_is_refused_with_both_sizes():
    reason = "the ignore mask is 28 x 28 px, the product's images are 42 x 28 px"
    with pytest.raises(InspectionRefused, match=reason):
        inspected_patches(GRID, SIZE, ignore_mask=mask_image((28, 28)))
    with pytest.raises(InspectionRefused, match="is 28 x 42 px"):
        inspected_patches(GRID, SIZE, ignore_mask=mask_image((42, 28)))


def test_mask_of_a_camera_image_leaves_out_whole_patches_only():
    image = mask_image(CAMERA, [((0, 300), (0, 10))])  # patch 1 begins at 9.38
    found = inspected_patches(CAMERA_GRID, CAMERA, ignore_mask=image)
    assert found.all(axis=0).tolist() == [False] + [True] * 41
    image[:, 9] = 0
    assert inspected_patches(CAMERA_GRID, CAMERA, ignore_mask=image).all()


def test_shares_of_foreground_are_those_of_the_inspected_patches():
    foreground = np.array([[[1, 1, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 1]]], bool)
    everywhere = np.ones(GRID, bool)
    assert foreground_share(foreground, everywhere) == [2 / 6, 4 / 6]
    right = np.array([[0, 0, 1], [0, 0, 1]], bool)
    assert foreground_share(foreground, right) == [0.0, 1.0]
    assert foreground_share(foreground[:1], ~right) == [0.5, 0.5]


def test_area_of_patches_is_in_pixels_of_the_image():
    one = np.zeros(GRID, bool)
    one[1, 2] = True
    assert area_px(one, SIZE) == pytest.approx(14 * 14)
    assert area_px(one, (280, 420)) == pytest.approx(140 * 140)
    assert area_px(~one, SIZE) == pytest.approx(5 * 14 * 14)
    assert area_px(np.zeros(GRID, bool), SIZE) == 0
    # Without the margin that is cropped off.
    everything = np.ones(CAMERA_GRID, bool)
    assert area_px(everything, CAMERA) == pytest.approx(300 * 400 * 588 / 597)
