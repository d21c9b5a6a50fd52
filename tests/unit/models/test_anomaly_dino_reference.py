"""The slow reference itself, on cases small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from reference import anomaly_dino_reference as reference

from preprocessing import rotate as served_rotate

NINE = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)


def test_shorter_edge_becomes_the_resolution_and_the_rest_of_a_patch_is_cropped(tmp_path):
    left = np.zeros((40, 59, 3), np.uint8)
    left[:, :20] = 200
    Image.fromarray(left).save(tmp_path / "wide.png")
    # 59 * 28 / 40 = 41.3: 41 columns, of which two patches of 14 are kept, the left ones.
    pixels = reference.pixels(tmp_path / "wide.png", resolution=28)
    assert pixels.shape == (28, 28, 3)
    assert (pixels[:, :10] == 200).all()
    image = np.zeros((56, 28, 3), np.uint8)
    image[:28] = 200
    prepared = reference.prepared(image, resolution=14)
    assert prepared.shape == (28, 14, 3)
    assert (prepared[:7] == 200).all()
    assert (prepared[21:] == 0).all()


@pytest.mark.parametrize(
    ("angle_deg", "expected"),
    [
        (0, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        # About (1.5, 1.5): the pixel at x, y comes from 3 - y, x; a 3 is outside and means 1.
        (90, [[2, 5, 8], [3, 6, 9], [2, 5, 8]]),
        # From 3 - x, 3 - y.
        (180, [[5, 6, 5], [8, 9, 8], [5, 6, 5]]),
        # From y, 3 - x.
        (270, [[4, 7, 4], [5, 8, 5], [6, 9, 6]]),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_quarter_turns_by_hand(angle_deg, expected, exact):
    assert reference.rotate(NINE, angle_deg, exact)[..., 0] == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("per_row", "exactly", "found"), [(40, 46.715729, 46), (42, 48.301515, 48)]
)
def test_half_quarter_turn_by_hand(per_row, exactly, found):
    """The middle pixel comes from x = 1.5, y = 1.5 - sqrt(0.5) = 0.7929, or 25 / 32.

    15 + 40 * 25 / 32 = 46.25 and 15 + 42 * 25 / 32 = 47.81, to the nearest.
    """
    rows, columns = np.indices((3, 3))
    ramp = (10 * columns + per_row * rows).astype(np.uint8)[..., None]
    assert reference.rotate(ramp, 45, exact=True)[1, 1, 0] == pytest.approx(exactly)
    assert reference.rotate(ramp, 45)[1, 1, 0] == found


def test_turn_is_counter_clockwise():
    """A mark at the right edge is at the top after a quarter turn."""
    image = np.zeros((40, 40, 1), np.uint8)
    image[18:22, 34:38] = 255
    found = reference.rotate(image, 90)
    assert found[:8].sum() == image.sum()


def test_border_repeats_no_edge_pixel():
    found = [reference._reflected(np.array(index), 4) for index in range(-4, 8)]
    assert found == [2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


def noise(shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("angle_deg", reference.ROTATIONS_DEG)
@pytest.mark.parametrize("shape", [(57, 83, 3), (64, 64, 3)])
def test_served_rotation_equals_the_reference_to_one_grey_level(shape, angle_deg):
    """Noise is the hardest image there is; here not one pixel differs."""
    image = noise(shape)
    served = served_rotate(image, angle_deg).astype(int)
    assert np.abs(served - reference.rotate(image, angle_deg)).max() <= 1


@pytest.mark.parametrize("angle_deg", reference.ROTATIONS_DEG)
def test_served_rotation_of_a_cell_equals_exact_interpolation(split, angle_deg):
    """OpenCV's positions in steps of 1/32 px cost less than two grey levels in a real image."""
    image = reference.decoded(split.enrolled[0])
    exact = reference.rotate(image, angle_deg, exact=True)
    assert np.abs(served_rotate(image, angle_deg) - exact).max() < 2.0


@pytest.mark.parametrize(
    ("setting", "said", "rotates", "masks"),
    [
        ("agnostic", {}, True, True),
        ("agnostic", {"texture": True}, True, False),
        ("agnostic", {"test_passed": False}, True, False),
        ("informed", {}, False, True),
        ("informed", {"rotated": True}, True, True),
        ("masking_only", {"texture": True}, False, False),
        ("no_mask_no_rotation", {}, False, False),
        ("no_mask_rotation", {}, True, False),
        ("mask_no_rotation", {"test_passed": False}, False, True),
        ("mask_rotation", {"test_passed": False}, True, True),
    ],
)
def test_settings_of_tables_8_and_9b(setting, said, rotates, masks):
    angles = (0, 45, 90, 135, 180, 225, 270, 315) if rotates else (0,)
    assert reference.preprocessing(setting, **said) == (angles, masks)


def test_cosine_distance_by_hand():
    bank = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [3.0, 4.0]])
    found = reference.cosine_distances([[5.0, 0.0], [0.0, -0.5]], bank)
    assert found == pytest.approx(np.array([[0.0, 1.0, 2.0, 0.4], [1.0, 2.0, 1.0, 1.8]]))
    assert reference.patch_distances([[0.0, -1.0], [1.0, 0.0]], bank) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(("k", "expected"), [(1, 0.0), (2, 0.2), (3, 1.4 / 3), (4, 0.85)])
def test_mean_of_the_k_nearest_by_hand(k, expected):
    bank = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [3.0, 4.0]])
    assert reference.mean_of_k_nearest([[1.0, 0.0]], bank, k) == pytest.approx([expected])


def test_masked_patches_have_distance_zero():
    found = reference.masked([[0.1, 0.2], [0.3, 0.4]], [[True, False], [False, True]])
    assert found.tolist() == [[0.1, 0.0], [0.0, 0.4]]


TWO_HUNDRED = np.arange(1.0, 201.0).reshape(20, 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean_top1p", 199.5),  # of 200 patches two
        ("mean_top1p_foreground", 200.0),  # of 100 patches one
        ("max", 200.0),
    ],
)
def test_image_scores_by_hand(name, expected):
    foreground = TWO_HUNDRED > 100
    distances = reference.masked(TWO_HUNDRED, foreground)
    found = reference.named_score(name, distances, foreground, 20, 10)
    assert found == pytest.approx(expected)


def test_number_of_patches_that_count_is_rounded_down():
    assert reference.image_score(TWO_HUNDRED.ravel()[1:]) == 200.0  # of 199 patches one


def test_score_of_fewer_than_a_hundred_patches_is_the_largest():
    assert reference.image_score([[0.1, 0.4], [0.2, 0.3]]) == 0.4


def test_score_of_nothing_but_background_is_zero():
    nothing = np.zeros((2, 2), bool)
    assert reference.named_score("mean_top1p_foreground", np.zeros((2, 2)), nothing, 28, 28) == 0.0


def test_largest_value_of_the_map_is_a_score():
    """Smoothed, a single patch of 14 pixels does not reach its own distance."""
    distances = np.zeros((9, 9))
    distances[4, 4] = 1.0
    found = reference.named_score("max_map", distances, distances >= 0, 126, 126)
    assert found == reference.anomaly_map(distances, 126, 126).max()
    # Bilinear, a patch is a tent of half-width 14; its mean under a Gaussian of sigma 4 is
    # 1 - 4 * sqrt(2 / pi) / 14 along each axis at the middle, which is half a pixel away.
    assert found == pytest.approx((1 - 4 * np.sqrt(2 / np.pi) / 14) ** 2, abs=4e-3)


def test_upsampling_by_hand():
    """Four pixels over two patches: their centres are at -0.25, 0.25, 0.75 and 1.25 patches."""
    found = reference.upsample(np.array([[0.0, 1.0], [0.0, 1.0]]), 1, 4)
    assert found[0] == pytest.approx([0.0, 0.25, 0.75, 1.0])
    # Over half the width, the last patch extends over the other half.
    found = reference.upsample(np.array([[0.0, 1.0]]), 1, 8, covered=(1.0, 0.5))
    assert found[0] == pytest.approx([0.0, 0.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_map_lies_where_the_patches_were_cut_out():
    """56 x 84 px at 28: 42 columns, all kept; of 56 x 90 px it would be 42 of 45."""
    distances = np.zeros((2, 3))
    distances[:, 2] = 1.0
    whole, cropped = (reference.anomaly_map(distances, 56, width) for width in (84, 90))
    np.testing.assert_allclose(cropped[:, :68], whole[:, :68], atol=1e-6)
    assert cropped[0, -1] == pytest.approx(1.0, abs=1e-3)


def test_constant_map_stays_constant():
    np.testing.assert_allclose(reference.anomaly_map(np.full((2, 3), 0.3), 40, 60), 0.3)


def test_first_component_by_hand():
    """Along (0.8, -0.6), so that the larger entry is positive."""
    tokens = np.array([[-4.0, 3.0], [0.0, 0.0], [4.0, -3.0]]) + 7.0
    assert reference.first_component(tokens) == pytest.approx([-5.0, 0.0, 5.0])
    assert reference.first_component(-tokens) == pytest.approx([5.0, 0.0, -5.0])


def test_foreground_of_a_dot_grows_to_its_neighbours():
    """The rest is not above the threshold, so the sign rule turns to what is below."""
    tokens = np.zeros((64, 2))
    tokens[36, 0] = -60.0  # row 4, column 4
    expected = np.zeros((8, 8), bool)
    expected[3:6, 3:6] = True
    assert (reference.foreground_mask(tokens, (8, 8)) == expected).all()


@pytest.mark.parametrize(("height", "found"), [(60.0, True), (12.0, True), (11.8, False)])
def test_foreground_above_the_threshold_that_fills_the_centre(height, found):
    """16 of 100 patches are 84 % of their height above the mean: 12 is more than 10, 11.8 not.

    They are more than 35 % of the centre's 6 x 6, so the sign stays.
    """
    tokens = np.zeros((10, 10, 2))
    tokens[3:7, 3:7, 1] = height
    expected = np.zeros((10, 10), bool)
    expected[2:8, 2:8] = found
    assert (reference.foreground_mask(tokens.reshape(100, 2), (10, 10)) == expected).all()


def test_foreground_closes_gaps_of_two_patches_and_no_wider_ones():
    """Dots in columns 2 and 7 grow to 1..3 and 6..8, with 4 and 5 between; 2 and 8 leave three."""
    for column, closed in ((7, True), (8, False)):
        tokens = np.zeros((12, 12, 2))
        tokens[5, [2, column], 0] = -60.0
        row = reference.foreground_mask(tokens.reshape(144, 2), (12, 12))[5]
        assert row[4:6].all() == closed
        assert row[1:4].all()


def test_tail_distance_by_hand():
    distances = [0.5, 0.1, 0.4, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6, 1.0]
    assert reference.tail_distance(distances, 0.3) == 0.3
    assert reference.tail_distance(distances, 0.3, "mean") == pytest.approx(0.15)
    assert reference.tail_distance(distances, 0.39) == 0.3  # 3.9 is rounded down
    assert reference.tail_distance(distances, 0.001) == 0.1  # at least one
    assert reference.tail_distance(distances, 0.001, "mean") == 0.1  # nothing is below it
    ties = [0.2, 0.2, 0.1, 0.9]
    assert reference.tail_distance(ties, 0.75) == 0.2
    assert reference.tail_distance(ties, 0.75, "mean") == 0.1


def test_batched_zero_shot_by_hand():
    """Three images of two patches; the second patch of the last looks like nothing else."""
    right, up, left = [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    images = [np.array([right, up]), np.array([up, right]), np.array([right, left])]
    # To the others' four patches: (right) 0 1 / 0 2 | (up) 1 0 / 1 1 | (left) 2 1 / 1 2
    found = reference.batched_zero_shot(images, alpha=0.5)
    assert np.array(found) == pytest.approx(np.array([[0, 1], [1, 0], [0, 1]]))
    found = reference.batched_zero_shot(images, alpha=0.75, statistic="mean")
    # Sorted: 0 0 1 2 -> below 1 is 0, 0; 0 1 1 1 -> below 1 is 0; 0 0 1 1 -> 0; 1 1 2 2 -> 1.
    assert np.array(found) == pytest.approx(np.array([[0, 0], [0, 0], [0, 1]]))
