"""A version's files contradict neither each other nor its record, or it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import DIM, GRID, make_bank, make_draft, make_good_parts, unit_rows

from bundle import Region
from calibration import GoodParts
from durable_files import write_tensors
from refusals import InspectionRefused
from version_files import BANK_FILE, GOOD_PARTS_FILE, bundle_from_json, read_bank, read_good_parts

BACKGROUND = np.array([[False, True, True], [True, True, True]])
WHAT = "the bank"


def written(folder, bank, parts=None, record_of=None, **changes):
    """Files of a bank beside the record of (another) one; returns the record."""
    record_of = record_of or bank
    parts = parts or make_good_parts(record_of)
    draft = make_draft(record_of, make_good_parts(record_of), **changes)
    return replace(
        draft,
        version=1,
        bank_sha256=write_tensors(folder / BANK_FILE, bank.tensors()),
        good_parts_sha256=write_tensors(folder / GOOD_PARTS_FILE, parts.tensors()),
    )


def refused_bank(folder, bank, record_of=None, **changes):
    bundle = written(folder, bank, record_of=record_of, **changes)
    with pytest.raises(InspectionRefused, match=f"^{WHAT} contradicts its record: ") as refused:
        read_bank(folder, bundle, WHAT)
    return str(refused.value)


@pytest.mark.parametrize(
    "bank",
    [
        make_bank(),
        make_bank(1, num_rotations=8),
        make_bank(3, num_lists=4),
        make_bank(2, foreground=BACKGROUND),
    ],
)
def test_files_of_a_sound_version_are_read(tmp_path, bank):
    bundle = written(tmp_path, bank)
    assert np.array_equal(read_bank(tmp_path, bundle, WHAT).tokens, bank.tokens)
    assert len(read_good_parts(tmp_path, bundle, WHAT).distances) == bundle.num_references
    assert bundle_from_json(bundle.to_json().encode()) == bundle


def test_record_that_contradicts_itself_is_not_read():
    bundle = replace(
        make_draft(make_bank(), make_good_parts(make_bank())),
        version=1,
        bank_sha256="e" * 64,
        good_parts_sha256="f" * 64,
        num_patches=11,
    )
    with pytest.raises(ValueError, match="num_patches is 11"):
        bundle_from_json(bundle.to_json().encode())


def test_bank_of_other_size_is_refused(tmp_path):
    assert "it is (18, 8), expected (12, 8)" in refused_bank(tmp_path, make_bank(3), make_bank(2))
    assert "it is (12, 5), expected (12, 8)" in refused_bank(
        tmp_path, make_bank(dim=5), make_bank()
    )


def test_bank_of_another_grid_is_refused(tmp_path):
    """As many patches, but three rows of two; also what is masked would be another patch."""
    bank = make_bank()
    turned = replace(bank, reference_foreground=np.ones((2, 3, 2), bool))
    said = refused_bank(tmp_path, turned, bank)
    assert "its foreground is (2, 3, 2), expected (2, 2, 3)" in said


@pytest.mark.parametrize("shape", [(1, *GRID), (3, *GRID), GRID, (2, 6)])
def test_foreground_of_other_references_is_refused(tmp_path, shape):
    bank = replace(make_bank(), reference_foreground=np.ones(shape, bool))
    assert "its foreground is" in refused_bank(tmp_path, bank, make_bank())


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ([0] * 6 + [2] * 6, "not those of 2 references"),
        ([-1] * 6 + [0] * 6, "not those of 2 references"),
        ([1] * 6 + [0] * 6, "one after the other"),
        ([0, 1] * 6, "one after the other"),
        ([0] * 5 + [1] * 7, "its references do not have 6 rows each"),
        ([0] * 12, "its references do not have 6 rows each"),
    ],
)
def test_rows_of_other_references_are_refused(tmp_path, index, reason):
    """Leaving one reference out of the bank must leave out that one, and all of it."""
    bank = replace(make_bank(), reference_index=np.array(index, np.int32))
    assert reason in refused_bank(tmp_path, bank, make_bank())


def test_thinned_out_bank_may_have_rows_of_some_references_only(tmp_path):
    bank = replace(make_bank(), tokens=unit_rows(3), reference_index=np.array([0, 0, 0], np.int32))
    whole = make_draft(make_bank(), make_good_parts(make_bank()))
    bundle = written(
        tmp_path,
        bank,
        record_of=make_bank(),
        num_patches=3,
        scoring=replace(whole.scoring, coreset_fraction=0.25),
    )
    assert len(read_bank(tmp_path, bundle, WHAT).tokens) == 3


def test_lists_that_the_record_does_not_tell_of_are_refused(tmp_path):
    assert "it has 0 inverted lists, expected 4" in refused_bank(
        tmp_path, make_bank(), make_bank(num_lists=4)
    )
    assert "it has 4 inverted lists, expected 0" in refused_bank(
        tmp_path, make_bank(num_lists=4), make_bank()
    )
    assert "it has 3 inverted lists, expected 4" in refused_bank(
        tmp_path, make_bank(num_lists=3), make_bank(num_lists=4)
    )


@pytest.mark.parametrize("shape", [(4, DIM + 1), (4,), (4, DIM, 1)])
def test_centroids_of_other_tokens_are_refused(tmp_path, shape):
    bank = replace(make_bank(num_lists=4), centroids=np.ones(shape, np.float32))
    assert "its centroids are" in refused_bank(tmp_path, bank, make_bank(num_lists=4))


def test_foreground_share_that_is_not_the_references_is_refused(tmp_path):
    """A smaller share lets a part that is missing pass as normal."""
    bank = make_bank(foreground=BACKGROUND)
    sound = make_draft(bank, make_good_parts(bank)).preprocessing
    for share in ([0.0, 5 / 6], [5 / 6, 1.0], [0.1, 0.1]):
        preprocessing = replace(sound, foreground_share=share)
        said = refused_bank(tmp_path, bank, preprocessing=preprocessing)
        assert "the references' foreground is 0.833 to 0.833" in said


def test_foreground_share_is_that_of_the_region(tmp_path):
    bank = make_bank(foreground=BACKGROUND)
    region = Region(["110", "000"], None, "c" * 64, 0)
    bundle = written(tmp_path, bank, region=region)
    assert bundle.preprocessing.foreground_share == [0.5, 0.5]
    read_bank(tmp_path, bundle, WHAT)


def test_background_of_a_product_that_is_not_masked_is_refused(tmp_path):
    said = refused_bank(tmp_path, make_bank(foreground=BACKGROUND), make_bank())
    assert "the references' foreground is 0.833 to 0.833" in said


def parts_with(**changes):
    return replace(make_good_parts(make_bank()), **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 2.1])
def test_good_parts_whose_distances_are_none_are_refused(tmp_path, value):
    parts = make_good_parts(make_bank())
    parts.distances[1, 0, 2] = value
    bundle = written(tmp_path, make_bank(), parts)
    with pytest.raises(InspectionRefused, match="that are no cosine distances"):
        read_good_parts(tmp_path, bundle, WHAT)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (parts_with(distances=np.zeros((2, *GRID))), "its distances are float64, expected float32"),
        (parts_with(foreground=np.zeros((2, *GRID), bool)), "masked patches have a distance"),
        (
            GoodParts(np.zeros((3, *GRID), np.float32), np.ones((3, *GRID), bool)),
            "it holds 3 images, the record 2 scores",
        ),
        (
            GoodParts(np.zeros((1, *GRID), np.float32), np.ones((1, *GRID), bool)),
            "it holds 1 images, the record 2 scores",
        ),
        (
            GoodParts(np.zeros((2, 3, 2), np.float32), np.ones((2, 3, 2), bool)),
            "expected \\(images",
        ),
    ],
)
def test_good_parts_of_another_version_are_refused(tmp_path, parts, reason):
    bundle = written(tmp_path, make_bank(), parts)
    with pytest.raises(InspectionRefused, match=reason):
        read_good_parts(tmp_path, bundle, WHAT)


def test_swapped_files_are_noticed(tmp_path):
    bundle = written(tmp_path, make_bank())
    bank, parts = (tmp_path / BANK_FILE), (tmp_path / GOOD_PARTS_FILE)
    content = bank.read_bytes()
    bank.write_bytes(parts.read_bytes())
    parts.write_bytes(content)
    for read in (read_bank, read_good_parts):
        with pytest.raises(InspectionRefused, match=f"{WHAT} is damaged"):
            read(tmp_path, bundle, WHAT)
    # Also where the digests were swapped with them.
    swapped = replace(
        bundle, bank_sha256=bundle.good_parts_sha256, good_parts_sha256=bundle.bank_sha256
    )
    with pytest.raises(InspectionRefused, match="the memory bank lacks 'memory_bank'"):
        read_bank(tmp_path, swapped, WHAT)
    with pytest.raises(InspectionRefused, match="the good parts lack 'patch_distances'"):
        read_good_parts(tmp_path, swapped, WHAT)
