"""Images gathered part by part: masking, rotations, limits, and what is refused by name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from enrolments import (
    GRID,
    IMAGE_SIZE,
    OBJECT,
    PATCHES,
    SERVED,
    TEXTURE,
    add,
    append,
    begun,
    close_all,
    enrol,
    limits,
    part,
    png,
    surface,
    tokens_of,
)

from bank_search import bank_size_bytes
from enrol_options import EnrolOptions
from enrolment import Enrolment
from foreground import foreground_mask
from image_preparation import backbone_pixels
from inverted_lists import default_num_lists
from masking_test import masking_test
from nearest_neighbours import unit_vectors
from preprocessing import ROTATIONS_DEG, rotate
from refusals import InspectionRefused
from search_loss import MAX_PROBES

DIM = 15
UNROTATED = EnrolOptions(preprocessing="informed", texture=True)


@pytest.fixture(autouse=True)
def _no_open_files():
    yield
    close_all()


# ----- what each image brings ---------------------------------------------------------------------


def test_each_reference_brings_all_its_rotations_the_image_itself_first(tmp_path):
    images = [surface(0), surface(1)]
    enrolment = add(begun(tmp_path, TEXTURE), images)
    assert enrolment.rotations_deg == ROTATIONS_DEG
    expected = [
        unit_vectors(tokens_of(backbone_pixels(rotate(image, angle_deg), GRID)))
        for image in images
        for angle_deg in ROTATIONS_DEG
    ]
    assert np.array_equal(enrolment.reference_rows.rows(), np.concatenate(expected))
    assert np.array_equal(expected[0], unit_vectors(tokens_of(images[0])))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (EnrolOptions(), 8),
        (EnrolOptions(preprocessing="informed"), 1),
        (EnrolOptions(preprocessing="informed", rotated=True), 8),
        (EnrolOptions(preprocessing="masking_only"), 1),
        (EnrolOptions(preprocessing="no_mask_no_rotation"), 1),
        (EnrolOptions(preprocessing="no_mask_rotation"), 8),
        (EnrolOptions(preprocessing="mask_no_rotation"), 1),
        (EnrolOptions(preprocessing="mask_rotation"), 8),
    ],
)
def test_rotations_are_those_of_the_setting(tmp_path, options, count):
    enrolment = add(begun(tmp_path, options), [part(0)])
    assert len(enrolment.rotations_deg) == count
    assert enrolment.reference_rows.num_rows == count * PATCHES


def test_references_are_larger_than_the_backbones_input_and_turned_before_they_are_resized(
    tmp_path,
):
    large = surface(0, (336, 420))
    enrolment = add(begun(tmp_path, TEXTURE, size=(336, 420)), [large])
    expected = unit_vectors(tokens_of(backbone_pixels(rotate(large, 45), GRID)))
    assert np.array_equal(enrolment.reference_rows.rows()[PATCHES : 2 * PATCHES], expected)


def test_good_images_are_not_turned_and_stay_out_of_the_bank(tmp_path):
    enrolment = add(begun(tmp_path, TEXTURE), [surface(0)])
    add(enrolment, [surface(1), surface(2)], "good")
    assert enrolment.reference_rows.num_rows == 8 * PATCHES
    expected = [unit_vectors(tokens_of(surface(seed))) for seed in (1, 2)]
    assert np.array_equal(enrolment.good_rows.rows(), np.concatenate(expected))
    assert [one["name"] for one in enrolment.good_images] == ["good-0.png", "good-1.png"]
    assert len(enrolment.references) == 1


def test_images_are_known_by_name_and_digest(tmp_path):
    enrolment = add(begun(tmp_path, TEXTURE), [surface(0)])
    digest = hashlib.sha256(png(surface(0))).hexdigest()
    assert enrolment.references == [{"name": "reference-0.png", "sha256": digest}]


# ----- masking ------------------------------------------------------------------------------------


def test_first_reference_decides_whether_the_product_is_masked(tmp_path):
    """`part` passes the masking test, `surface` fills its image and fails."""
    passes, fails = (
        masking_test(tokens_of(part(0)), GRID),
        masking_test(tokens_of(surface(0)), GRID),
    )
    assert passes.passed
    assert not fails.passed
    for images, test in (((part(0), surface(0)), passes), ((surface(0), part(0)), fails)):
        enrolment = begun(tmp_path, EnrolOptions())
        assert enrolment.masked is None
        add(enrolment, images)
        assert enrolment.masked is test.passed
        assert enrolment.masking_test == test.to_dict()


@pytest.mark.parametrize(
    ("options", "masked"),
    [
        (EnrolOptions(texture=True), False),
        (EnrolOptions(preprocessing="informed", texture=True), False),
        (EnrolOptions(preprocessing="masking_only", texture=True), False),
        (EnrolOptions(preprocessing="no_mask_rotation"), False),
        (EnrolOptions(preprocessing="mask_rotation"), True),
        (EnrolOptions(preprocessing="mask_no_rotation"), True),
    ],
)
@pytest.mark.parametrize("image", [part(0), surface(0)], ids=["passes", "fails"])
def test_what_is_said_decides_without_a_test(tmp_path, options, masked, image):
    enrolment = begun(tmp_path, options)
    assert enrolment.masked is masked
    add(enrolment, [image])
    assert enrolment.masked is masked
    assert enrolment.masking_test is None


def test_foreground_is_that_of_each_unturned_image(tmp_path):
    moved = np.roll(OBJECT, (1, -1), (0, 1))
    enrolment = add(begun(tmp_path, EnrolOptions()), [part(0), part(1, moved)])
    add(enrolment, [part(2, moved)], "good")
    assert len(enrolment.reference_foreground) == 2
    for found, image in zip(
        (*enrolment.reference_foreground, *enrolment.good_foreground),
        (part(0), part(1, moved), part(2, moved)),
        strict=True,
    ):
        assert np.array_equal(found, foreground_mask(tokens_of(image), GRID))
    assert not np.array_equal(*enrolment.reference_foreground)


def test_nothing_is_masked_of_a_texture(tmp_path):
    enrolment = add(begun(tmp_path, TEXTURE), [part(0)])
    assert enrolment.reference_foreground[0].all()


def test_background_is_in_the_bank_all_the_same(tmp_path):
    """Masking applies to inspected images only (Section C.1, "Masking")."""
    options = EnrolOptions(preprocessing="mask_no_rotation")
    enrolment = add(begun(tmp_path, options), [part(0)])
    assert np.array_equal(enrolment.reference_rows.rows(), unit_vectors(tokens_of(part(0))))


def test_contradicting_options_never_begin(tmp_path):
    with pytest.raises(InspectionRefused, match="a texture is never masked"):
        begun(tmp_path, EnrolOptions(preprocessing="mask_rotation", texture=True))
    with pytest.raises(InspectionRefused, match="goes with 'informed'"):
        begun(tmp_path, EnrolOptions(rotated=True))


# ----- images that are refused --------------------------------------------------------------------


@pytest.mark.parametrize(("role", "what"), [("reference", "reference"), ("good", "good image")])
@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        (b"", "the image is empty"),
        (b"no image", "8 bytes are no image in a known format"),
        (png(surface(0))[:900], "damaged or truncated"),
        (png(surface(0, (20, 25))), "25 x 20 px, expected at least 32 px on each side"),
        (
            png(surface(0, (168, 168))),
            "168 x 168 px has another aspect ratio than the first reference, 210 x 168 px; a "
            "product has one camera geometry",
        ),
        (png(surface(0, (210, 168))), "168 x 210 px has another aspect ratio"),
    ],
)
def test_image_that_cannot_be_used_is_refused_by_name(tmp_path, role, what, encoded, reason):
    enrolment = add(begun(tmp_path, TEXTURE), [surface(5)])
    with pytest.raises(InspectionRefused, match=f"^{what} bad.png: .*{reason}"):
        enrolment.add("bad.png", encoded, role, tokens_of)
    assert (len(enrolment.references), len(enrolment.good_images)) == (1, 0)
    assert enrolment.reference_rows.num_rows == 8 * PATCHES
    assert enrolment.good_rows.num_rows == 0


def test_first_image_may_be_the_bad_one(tmp_path):
    enrolment = begun(tmp_path, TEXTURE)
    with pytest.raises(InspectionRefused, match="reference bad.png: the image is empty"):
        enrolment.add("bad.png", b"", "reference", tokens_of)
    with pytest.raises(InspectionRefused, match="good image a.png: good images that are no ref"):
        enrolment.add("a.png", png(surface(0)), "good", tokens_of)
    assert enrolment.num_staged == 0


@pytest.mark.parametrize("first", ["reference", "good"])
@pytest.mark.parametrize("second", ["reference", "good"])
def test_same_file_twice_is_refused_whatever_its_role(tmp_path, first, second):
    enrolment = add(begun(tmp_path, TEXTURE), [surface(0)])
    enrolment.add("a.png", png(surface(1)), first, tokens_of)
    with pytest.raises(InspectionRefused, match=r" b\.png: it is the same file as a\.png"):
        enrolment.add("b.png", png(surface(1)), second, tokens_of)
    assert enrolment.num_staged == 2


@pytest.mark.parametrize("role", ["reference", "good"])
def test_tokens_of_a_broken_backbone_are_never_enrolled(tmp_path, role):
    enrolment = add(begun(tmp_path, UNROTATED), [surface(0)])
    for broken in (np.nan, 0.0, 0.5):
        with pytest.raises(ValueError, match="the backbone is broken"):
            enrolment.add(
                "a.png",
                png(surface(1)),
                role,
                lambda pixels, value=broken: np.full((PATCHES, DIM), value, np.float32),
            )
    assert enrolment.num_staged == 1


# ----- what would not fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rows_of"),
    [
        (TEXTURE, lambda images: images * 8 * PATCHES),
        (UNROTATED, lambda images: images * PATCHES),
        (replace(UNROTATED, coreset_fraction=0.1), lambda images: images * PATCHES // 10),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bank_that_could_not_be_loaded_is_refused_at_its_first_image_too_many(
    tmp_path, options, rows_of, precision
):
    limit = bank_size_bytes(rows_of(2), DIM, precision)
    enrolment = begun(tmp_path, options, max_bank_bytes=limit, precision=precision)
    add(enrolment, [surface(0), surface(1)])
    needed = bank_size_bytes(rows_of(3), DIM, precision)
    reason = (
        f"reference c.png: 3 images make a memory bank of {rows_of(3)} patches, {needed} bytes "
        f"when loaded, the server allows {limit}; enrol fewer, "
    )
    with pytest.raises(InspectionRefused, match=reason) as refusal:
        enrolment.add("c.png", png(surface(2)), "reference", tokens_of)
    assert ("without rotations" in str(refusal.value)) == (options is TEXTURE)
    add(enrolment, [surface(3)], "good")  # costs no memory


def test_lists_take_memory_of_their_own(tmp_path):
    rows = 2 * 8 * PATCHES
    limit = bank_size_bytes(rows, DIM, "fp32", default_num_lists(rows))
    options = replace(TEXTURE, search="ivf")
    add(begun(tmp_path, options, max_bank_bytes=limit), [surface(0), surface(1)])
    enrolment = begun(tmp_path, options, max_bank_bytes=limit - 1)
    with pytest.raises(InspectionRefused, match="2 images make a memory bank"):
        add(enrolment, [surface(0), surface(1)])


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_a_coreset_of_less_than_a_row_is_one_row(tmp_path, search):
    options = replace(UNROTATED, coreset_fraction=1e-6, search=search)
    add(begun(tmp_path, options), [surface(0)])


# ----- images that are in no bank -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (TEXTURE, 0),
        (replace(TEXTURE, search="exact", coreset_fraction=1.0), 0),
        (replace(TEXTURE, search="ivf"), MAX_PROBES),
        (replace(TEXTURE, coreset_fraction=0.5), MAX_PROBES),
    ],
)
def test_first_references_are_kept_mirrored_where_a_search_loses(tmp_path, options, count):
    images = [surface(seed) for seed in range(MAX_PROBES + 1)]
    enrolment = add(begun(tmp_path, options), images)
    assert len(enrolment.probes) == count
    for probe, image in zip(enrolment.probes, images, strict=False):
        assert np.array_equal(probe, unit_vectors(tokens_of(image[:, ::-1])))


# ----- continued ----------------------------------------------------------------------------------


def continued(store, base, options=None):
    options = options or EnrolOptions(append=True)
    return Enrolment.continued(base, store.read_bank(base), SERVED, options, **limits(store.root))


def test_a_continued_enrolment_begins_with_what_the_version_has(tmp_path):
    store, base = enrol(tmp_path, [part(0), part(1)], EnrolOptions())
    enrolment = continued(store, base)
    assert enrolment.num_staged == 0
    assert enrolment.keeps_bank
    assert enrolment.masked is True
    assert enrolment.masking_test == base.preprocessing.masking_test
    assert enrolment.rotations_deg == ROTATIONS_DEG
    assert enrolment.image_size == IMAGE_SIZE
    assert enrolment.references == base.references
    assert np.array_equal(enrolment.reference_rows.rows(), store.read_bank(base).tokens)
    assert len(enrolment.reference_foreground) == 2
    add(enrolment, [part(2)], "good")
    assert (enrolment.num_staged, enrolment.keeps_bank) == (1, True)
    add(enrolment, [part(3)])
    assert (enrolment.num_staged, enrolment.keeps_bank) == (2, False)
    assert len(base.references) == 2  # the version's own record is unchanged


def test_images_of_the_version_are_not_taken_again(tmp_path):
    store, base = enrol(tmp_path, [surface(0), surface(1)], good=[surface(2)])
    enrolment = continued(store, base)
    for role in ("reference", "good"):
        with pytest.raises(InspectionRefused, match="b.png: it is the same file as reference-1"):
            enrolment.add("b.png", png(surface(1)), role, tokens_of)
    with pytest.raises(InspectionRefused, match="b.png: it is the same file as good-0.png"):
        enrolment.add("b.png", png(surface(2)), "good", tokens_of)
    # A larger bank makes the old good images' distances worthless: they may be sent again.
    add(enrolment, [surface(3)], first=2)
    enrolment.add("b.png", png(surface(2)), "good", tokens_of)


def test_another_geometry_than_the_versions_is_refused(tmp_path):
    store, base = enrol(tmp_path, [surface(0), surface(1)])
    with pytest.raises(InspectionRefused, match="reference bad.png: 168 x 168 px has another"):
        continued(store, base).add("bad.png", png(surface(0, (168, 168))), "reference", tokens_of)


def test_a_coreset_cannot_be_continued(tmp_path):
    store, base = enrol(tmp_path, [surface(0)], replace(TEXTURE, coreset_fraction=0.5))
    with pytest.raises(InspectionRefused, match="the bank of 'screw' is a coreset, 0.5 of its ref"):
        continued(store, base)


def test_a_bank_that_grows_too_large_by_what_is_appended_is_refused(tmp_path):
    store, base = enrol(tmp_path, [surface(0), surface(1)])
    limit = bank_size_bytes(base.num_patches, DIM, "fp32")
    with pytest.raises(InspectionRefused, match="reference reference-2.png: 3 images make"):
        append(store, base, [surface(2)], max_bank_bytes=limit)
