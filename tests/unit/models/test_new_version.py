"""From gathered images to a version: bank, search, thresholds, record."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from enrolments import (
    GRID,
    IMAGE_SIZE,
    OBJECT,
    PATCHES,
    RUNTIME,
    SERVED,
    TEXTURE,
    close_all,
    enrol,
    part,
    surface,
    tokens_of,
)
from reference.anomaly_dino_reference import greedy_coreset as slow_coreset
from reference.anomaly_dino_reference import mean_of_k_nearest

from bank_search import open_bank
from bank_store import BankStore
from bundle import Region
from enrol_options import EnrolOptions
from foreground import foreground_mask
from image_score import top_fraction_mean
from nearest_neighbours import unit_vectors
from new_version import PROBE_TOLERANCE
from preprocessing import ROTATIONS_DEG, rotate
from refusals import InspectionRefused

SURFACES = [surface(seed) for seed in range(4)]
PARTS = [part(seed) for seed in range(4)]
UNROTATED = EnrolOptions(preprocessing="informed", texture=True)


@pytest.fixture(autouse=True)
def _no_open_files():
    yield
    close_all()


def unit(image):
    return unit_vectors(tokens_of(image))


def all_rotations(image):
    return np.concatenate([unit(rotate(image, angle_deg)) for angle_deg in ROTATIONS_DEG])


def score_of(distances):
    """Mean of the top percent of 180 patches: the largest."""
    return np.max(distances)


# ----- the record ---------------------------------------------------------------------------------


def test_version_says_from_what_it_was_made(tmp_path):
    options = EnrolOptions(operator="ada", num_neighbours=2, image_score="max", undecided_rate=0.3)
    _, bundle = enrol(tmp_path, PARTS, options)
    assert (bundle.product, bundle.version, bundle.method) == ("screw", 1, "anomaly_dino")
    assert (bundle.ensemble, bundle.layer) == (SERVED.ensemble, 12)
    assert (tuple(bundle.grid), tuple(bundle.image_size)) == (GRID, IMAGE_SIZE)
    assert (bundle.num_references, bundle.num_patches, bundle.dim) == (4, 4 * 8 * PATCHES, 15)
    assert [one["name"] for one in bundle.references] == [f"reference-{i}.png" for i in range(4)]
    assert (bundle.change.action, bundle.change.operator) == ("enrolled", "ada")
    assert bundle.change.from_version is None
    assert bundle.created_at == bundle.change.at
    assert bundle.created_by == "ada"
    assert bundle.backbone == {
        "name": SERVED.name,
        "onnx_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "file_sha256": "c" * 64,
        **RUNTIME,
        "search_precision": "fp32",
    }
    assert bundle.region == Region.everything(GRID)
    assert bundle.preprocessing.setting == "agnostic"
    assert bundle.preprocessing.rotations_deg == list(ROTATIONS_DEG)
    assert bundle.preprocessing.masked
    assert bundle.preprocessing.masking_test["passed"]
    assert bundle.preprocessing.foreground_share == [54 / 180, 54 / 180]  # 6 x 9 patches
    scoring = asdict(bundle.scoring)
    assert scoring.pop("measured_loss") is None
    assert scoring == {
        "num_neighbours": 2,
        "image_score": "max",
        "search": "exact",
        "num_lists": 0,
        "num_probes": 0,
        "coreset_fraction": 1.0,
    }
    assert (bundle.calibration.false_positive_rate, bundle.calibration.undecided_rate) == (
        0.05,
        0.3,
    )


def test_smallest_and_largest_foreground_are_recorded(tmp_path):
    smaller = OBJECT.copy()
    smaller[:, 10] = False
    _, bundle = enrol(tmp_path, [part(0), part(1, smaller), part(2)], EnrolOptions())
    assert bundle.preprocessing.foreground_share == [48 / 180, 54 / 180]


def test_texture_has_no_foreground_to_tell_of(tmp_path):
    _, bundle = enrol(tmp_path, PARTS, TEXTURE)
    assert not bundle.preprocessing.masked
    assert bundle.preprocessing.foreground_share is None
    assert bundle.preprocessing.texture


def test_version_that_is_not_activated_leaves_the_one_in_force(tmp_path):
    store, first = enrol(tmp_path, SURFACES[:2])
    _, second = enrol(tmp_path, SURFACES[1:], replace(TEXTURE, activate=False))
    assert (first.version, second.version) == (1, 2)
    assert store.resolve("screw") == ("screw", 1)
    _, third = enrol(tmp_path, SURFACES[1:])
    assert store.resolve("screw") == ("screw", third.version)


# ----- leave one out ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_neighbours", [1, 3])
@pytest.mark.parametrize("options", [TEXTURE, UNROTATED], ids=["rotated", "unrotated"])
def test_thresholds_leave_each_reference_out_with_all_its_rotations(
    tmp_path, options, num_neighbours
):
    options = replace(options, num_neighbours=num_neighbours)
    store, bundle = enrol(tmp_path, SURFACES, options)
    rows_of = all_rotations if options.preprocessing is None else unit
    expected = []
    for index, image in enumerate(SURFACES):
        others = np.concatenate([rows_of(o) for o in SURFACES[:index] + SURFACES[index + 1 :]])
        expected.append(mean_of_k_nearest(unit(image), others, num_neighbours))
    assert bundle.calibration.method == "leave_one_out"
    scores = [score_of(distances) for distances in expected]
    assert bundle.calibration.reference_scores == pytest.approx(scores, abs=1e-6)
    assert bundle.threshold == bundle.normal_below == max(bundle.calibration.reference_scores)
    parts = store.read_good_parts(bundle)
    np.testing.assert_allclose(parts.distances.reshape(4, -1), expected, atol=1e-6)
    assert parts.distances.min() > 1e-3  # its own rows would be at 0


def test_masked_patches_of_good_parts_are_zero(tmp_path):
    store, bundle = enrol(tmp_path, PARTS, EnrolOptions())
    parts = store.read_good_parts(bundle)
    for index, image in enumerate(PARTS):
        mask = foreground_mask(tokens_of(image), GRID)
        assert np.array_equal(parts.foreground[index], mask)
        assert (parts.distances[index][~mask] == 0).all()
        assert (parts.distances[index][mask] > 0).all()


@pytest.mark.parametrize(
    ("score", "expected"),
    [("max", np.max), ("mean_top1p", score_of), ("mean_top1p_foreground", score_of)],
)
def test_scores_are_those_of_the_image_score_asked_for(tmp_path, score, expected):
    store, bundle = enrol(tmp_path, PARTS, EnrolOptions(image_score=score))
    parts = store.read_good_parts(bundle)
    scores = [expected(distances) for distances in parts.distances]
    assert bundle.calibration.reference_scores == pytest.approx(scores, abs=1e-6)


def test_rates_choose_the_thresholds(tmp_path):
    images = [surface(seed) for seed in range(11)]
    _, bundle = enrol(
        tmp_path, images, replace(UNROTATED, false_positive_rate=0.1, undecided_rate=0.3)
    )
    ordered = sorted(bundle.calibration.reference_scores)
    assert (bundle.threshold, bundle.normal_below) == (ordered[9], ordered[6])


def test_threshold_by_hand_is_kept_with_the_scores_found(tmp_path):
    _, by_hand = enrol(tmp_path, SURFACES, replace(TEXTURE, threshold=0.25, normal_below=0.1))
    _, found = enrol(tmp_path, SURFACES)
    assert (by_hand.threshold, by_hand.normal_below) == (0.25, 0.1)
    assert by_hand.calibration.method == "by_hand"
    assert by_hand.calibration.false_positive_rate is None
    assert by_hand.calibration.reference_scores == found.calibration.reference_scores
    assert by_hand.defect_threshold == found.defect_threshold
    _, alone = enrol(tmp_path, SURFACES, replace(TEXTURE, threshold=0.25))
    assert (alone.threshold, alone.normal_below) == (0.25, 0.25)
    _, zero = enrol(tmp_path, SURFACES, replace(TEXTURE, threshold=0.0))
    assert (zero.threshold, zero.normal_below) == (0.0, 0.0)


# ----- one reference ------------------------------------------------------------------------------


@pytest.mark.parametrize("num_neighbours", [1, 4])
def test_only_reference_is_scored_rotation_by_rotation_without_its_own_rows(
    tmp_path, num_neighbours
):
    store, bundle = enrol(tmp_path, SURFACES[:1], replace(TEXTURE, num_neighbours=num_neighbours))
    turned = [unit(rotate(SURFACES[0], angle_deg)) for angle_deg in ROTATIONS_DEG]
    expected = []
    for index, tokens in enumerate(turned):
        others = np.concatenate(turned[:index] + turned[index + 1 :])
        expected.append(mean_of_k_nearest(tokens, others, num_neighbours))
    assert bundle.calibration.method == "rotations_of_the_only_reference"
    found = store.read_good_parts(bundle).distances.reshape(8, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert bundle.threshold == pytest.approx(max(score_of(one) for one in expected), abs=1e-6)
    assert bundle.normal_below == 0.0  # below the threshold nothing is called normal


def test_only_reference_that_is_not_rotated_is_scored_by_its_seven_rotations(tmp_path):
    store, bundle = enrol(tmp_path, SURFACES[:1], UNROTATED)
    expected = [
        mean_of_k_nearest(unit(rotate(SURFACES[0], angle_deg)), unit(SURFACES[0]), 1)
        for angle_deg in ROTATIONS_DEG[1:]
    ]
    found = store.read_good_parts(bundle).distances.reshape(7, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert bundle.normal_below == 0.0
    assert len({score_of(one) for one in expected}) == 7  # really turned


def test_only_reference_of_a_coreset_is_scored_against_the_rows_that_were_kept(tmp_path):
    store, bundle = enrol(tmp_path, SURFACES[:1], replace(TEXTURE, coreset_fraction=0.2))
    rows = all_rotations(SURFACES[0])
    kept = np.array(slow_coreset(rows, len(rows) // 5))
    angle = kept // PATCHES
    found = store.read_good_parts(bundle).distances.reshape(8, -1)
    for index in range(8):
        expected = mean_of_k_nearest(
            rows[index * PATCHES : (index + 1) * PATCHES], rows[kept[angle != index]], 1
        )
        np.testing.assert_allclose(found[index], expected, atol=1e-6)


def test_masks_of_the_only_references_rotations_are_their_own(tmp_path):
    store, bundle = enrol(tmp_path, PARTS[:1], EnrolOptions())
    parts = store.read_good_parts(bundle)
    for index, angle_deg in enumerate(ROTATIONS_DEG):
        expected = foreground_mask(tokens_of(rotate(PARTS[0], angle_deg)), GRID)
        assert np.array_equal(parts.foreground[index], expected)
    assert not np.array_equal(parts.foreground[0], parts.foreground[2])


# ----- good images --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_references", [1, 3])
def test_good_images_make_the_thresholds_where_there_are_some(tmp_path, num_references):
    good = [surface(seed) for seed in range(20, 25)]
    store, bundle = enrol(tmp_path, SURFACES[:num_references], good=good)
    rows = np.concatenate([all_rotations(image) for image in SURFACES[:num_references]])
    expected = [mean_of_k_nearest(unit(image), rows, 1) for image in good]
    found = store.read_good_parts(bundle).distances.reshape(5, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert bundle.calibration.method == "good_images"
    assert [one["name"] for one in bundle.calibration.good_images] == [
        f"good-{i}.png" for i in range(5)
    ]
    assert bundle.threshold == bundle.normal_below == max(bundle.calibration.reference_scores)
    assert bundle.num_patches == len(rows)


def test_good_images_are_masked_as_inspected_images_are(tmp_path):
    moved = np.roll(OBJECT, 1, axis=0)
    store, bundle = enrol(tmp_path, PARTS[:2], EnrolOptions(), good=[part(9, moved)])
    parts = store.read_good_parts(bundle)
    assert np.array_equal(parts.foreground[0], foreground_mask(tokens_of(part(9, moved)), GRID))
    assert (parts.distances[~parts.foreground] == 0).all()


# ----- coreset and inverted lists -----------------------------------------------------------------


def test_a_coreset_is_the_references_and_measures_its_loss(tmp_path):
    store, bundle = enrol(tmp_path, SURFACES, replace(UNROTATED, coreset_fraction=0.25))
    rows = np.concatenate([unit(image) for image in SURFACES])
    kept = slow_coreset(rows, len(rows) // 4)
    bank = store.read_bank(bundle)
    assert np.array_equal(bank.tokens, rows[kept])
    assert bank.reference_index.tolist() == [row // PATCHES for row in kept]
    assert bundle.num_patches == len(rows) // 4
    assert bundle.scoring.coreset_fraction == 0.25
    check_loss(store, bundle, rows)


def check_loss(store, bundle, rows):
    """What is recorded bounds what is lost in every patch of the mirrored references."""
    loss = bundle.scoring.measured_loss
    search = open_bank(store.read_bank(bundle), bundle.scoring, PATCHES, "fp32")
    errors, changes = [], []
    for image in SURFACES:
        probe = unit(image[:, ::-1])
        truth = mean_of_k_nearest(probe, rows, bundle.scoring.num_neighbours)
        found = search.distances(probe)
        errors.append(np.abs(found - truth))
        changes.append(abs(top_fraction_mean(found) / top_fraction_mean(truth) - 1))
    assert loss["images"] == 4
    assert np.max(errors) == pytest.approx(loss["max_distance_error"], abs=1e-6)
    assert np.mean(errors) == pytest.approx(loss["mean_distance_error"], abs=1e-6)
    assert max(changes) == pytest.approx(loss["max_score_change"], abs=1e-4)
    return loss


@pytest.mark.parametrize("num_neighbours", [1, 3])
def test_inverted_lists_are_exact_enough_on_the_mirrored_references(tmp_path, num_neighbours):
    options = replace(TEXTURE, search="ivf", num_neighbours=num_neighbours)
    store, bundle = enrol(tmp_path, SURFACES, options)
    bank, scoring = store.read_bank(bundle), bundle.scoring
    assert (scoring.search, scoring.num_lists) == ("ivf", len(bank.centroids))
    assert scoring.num_lists > 8
    assert 1 <= scoring.num_probes <= scoring.num_lists
    rows = np.concatenate([all_rotations(image) for image in SURFACES])
    loss = check_loss(store, bundle, rows)
    assert loss["max_distance_error"] <= PROBE_TOLERANCE + 1e-6


def test_lists_of_a_coreset_lose_what_both_lose(tmp_path):
    options = replace(TEXTURE, search="ivf", coreset_fraction=0.25)
    store, bundle = enrol(tmp_path, SURFACES, options)
    rows = np.concatenate([all_rotations(image) for image in SURFACES])
    loss = check_loss(store, bundle, rows)
    assert loss["max_distance_error"] > PROBE_TOLERANCE
    assert len(store.read_bank(bundle).centroids) == bundle.scoring.num_lists


def test_thresholds_do_not_depend_on_the_lists(tmp_path):
    """They are measured by the exact search, and a row that is missed only adds distance."""
    _, exact = enrol(tmp_path, SURFACES)
    _, lists = enrol(tmp_path, SURFACES, replace(TEXTURE, search="ivf"))
    assert lists.threshold == exact.threshold
    assert lists.calibration.reference_scores == exact.calibration.reference_scores


# ----- what is refused ----------------------------------------------------------------------------


def refused(tmp_path, images, options, reason, good=()):
    with pytest.raises(InspectionRefused, match=reason):
        enrol(tmp_path, images, options, good)
    assert BankStore(tmp_path).products() == {}


def test_bank_with_fewer_rows_than_neighbours_is_refused(tmp_path):
    options = replace(UNROTATED, coreset_fraction=0.03, num_neighbours=64)
    refused(tmp_path, SURFACES, options, "the bank has 21 patches, fewer than the 64 neighbours")


def test_bank_that_is_too_small_without_one_reference_is_refused(tmp_path):
    options = replace(UNROTATED, coreset_fraction=0.03, num_neighbours=8)
    reason = "without the patches of one of its references the bank has [0-7], fewer than the 8"
    refused(tmp_path, SURFACES[:2], options, reason)
    # Good images ask for no reference to be left out.
    _, bundle = enrol(tmp_path, SURFACES[:2], options, good=[surface(9)])
    assert bundle.num_patches == 10


def test_bank_that_is_too_small_without_one_rotation_is_refused(tmp_path):
    options = replace(TEXTURE, coreset_fraction=0.01, num_neighbours=14)
    reason = r"without the patches of one of its rotations the bank has \d+, fewer than the 14"
    refused(tmp_path, SURFACES[:1], options, reason)
