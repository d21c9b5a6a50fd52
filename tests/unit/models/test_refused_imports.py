"""Whatever a forged or damaged product says, it is refused with a reason and leaves nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import GRID, make_bank, make_good_parts, publish
from exports import OTHER, SERVED, encoded, files_of, forged, refused

from arriving_files import Arrivals
from bank_store import BankStore
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE
from wire import VERSION_FILES


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def elsewhere(tmp_path):
    return BankStore(tmp_path / "elsewhere")


@pytest.fixture
def imports(store):
    return Arrivals(store, VERSION_FILES, 10**6, "imports")


@pytest.mark.parametrize("name", VERSION_FILES)
def test_product_that_lacks_a_file_is_refused(store, elsewhere, imports, name):
    files = files_of(elsewhere, publish(elsewhere))
    del files[name]
    assert refused(imports, store, files) == f"the product lacks {name}"


def test_backbone_that_is_not_served_here_is_refused(store, elsewhere, imports):
    files = files_of(elsewhere, publish(elsewhere))
    said = refused(imports, store, files, served=(OTHER,))
    assert "enrolled with backbone aaaaaaaaaaaa, this server has cccccccccccc" in said
    assert "export and assemble that backbone" in said


@pytest.mark.parametrize("change", [{"grid": (3, 2)}, {"layer": 11}, {"dim": 384}])
def test_record_of_another_geometry_than_its_backbone_is_refused(store, elsewhere, imports, change):
    """Digests can be copied; the bank would meet tokens of another grid, layer or width."""
    files = files_of(elsewhere, publish(elsewhere))
    said = refused(imports, store, files, served=(replace(SERVED, **change),))
    assert "the product's record contradicts its backbone" in said


@pytest.mark.parametrize("name", [BANK_FILE, GOOD_PARTS_FILE])
@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: b""])
def test_damaged_file_is_refused(store, elsewhere, imports, name, damage):
    files = files_of(elsewhere, publish(elsewhere))
    said = refused(imports, store, files | {name: damage(files[name])})
    assert "is damaged" in said


@pytest.mark.parametrize(
    "record",
    [b"", b"{", b"[]", b"null", b"\xff", b"[" * 200_000, b'{"format_version": 1}', b"\x00" * 100],
)
def test_record_that_is_none_is_refused(store, elsewhere, imports, record):
    files = files_of(elsewhere, publish(elsewhere))
    said = refused(imports, store, files | {BUNDLE_FILE: record})
    assert said.startswith("the product's record cannot be used: ")
    assert len(said) < 500


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": float("nan")}, "NaN is no number"),
        ({"normal_below": float("inf")}, "Infinity is no number"),
        ({"defect_threshold": -1.0}, "no cosine distance"),
        ({"threshold": 9.0}, "no cosine distance"),
        ({"normal_below": 1.9}, "is above the threshold"),
        ({"product": "../../etc"}, "no product name"),
        ({"product": 5}, "product is 5"),
        ({"version": -1}, "version is -1"),
        ({"num_patches": 13}, "num_patches is 13"),
        ({"num_references": 1}, "2 references are recorded"),
        ({"grid": [3, 2]}, "grid 3 x 2"),
        ({"image_size": [150, 100]}, "give 3 x 2 patches"),
        ({"dim": 0}, "dim is 0"),
        ({"backbone": {}}, "backbone lacks name"),
        ({"scoring.search": "ivf"}, "'ivf' has 0 lists"),
        ({"scoring.num_neighbours": 13}, "num_neighbours is 13"),
        ({"scoring.image_score": "guess"}, "image_score is 'guess'"),
        ({"scoring.coreset_fraction": 2.0}, "coreset_fraction is 2.0"),
        ({"region.inspected": ["000", "000"]}, "inspects no patch"),
        ({"region.min_defect_area_px": 10**9}, "more than what is inspected"),
        ({"preprocessing.masked": True}, "contradict each other"),
        ({"preprocessing.rotations_deg": [0, 45]}, "the references have 24"),
        ({"calibration.false_positive_rate": 7.0}, "false_positive_rate is 7.0"),
        ({"calibration.good_images": [{"name": "x"}]}, "an image is recorded as"),
    ],
)
def test_record_that_contradicts_itself_is_refused(store, elsewhere, imports, change, reason):
    files = files_of(elsewhere, publish(elsewhere))
    said = refused(imports, store, forged(files, change))
    assert said.startswith("the product's record cannot be used: ")
    assert reason in said


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 7.0])
def test_bank_that_cannot_be_searched_is_refused(store, elsewhere, imports, tmp_path, value):
    files = files_of(elsewhere, publish(elsewhere))
    tensors = make_bank().tensors()
    tensors["memory_bank"][3] = value
    said = refused(imports, store, forged(files, **{BANK_FILE: encoded(tmp_path, tensors)}))
    assert "rows that are no unit vectors" in said


BANKS = [
    (make_bank(3), "(18, 8), expected (12, 8)"),
    (make_bank(dim=9), "(12, 9), expected (12, 8)"),
    (make_bank(num_lists=2), "it has 2 inverted lists, expected 0"),
    (
        replace(make_bank(), reference_foreground=np.zeros((2, *GRID), bool)),
        "the references' foreground is 0.000",
    ),
    (
        replace(make_bank(), reference_foreground=np.ones((2, 3, 2), bool)),
        "foreground is (2, 3, 2)",
    ),
    (
        replace(make_bank(), reference_index=np.full(12, 2**31 - 1, np.int32)),
        "not those of 2 references",
    ),
    (replace(make_bank(), tokens=make_bank().tokens.astype(np.float64)), "is float64, expected"),
]


@pytest.mark.parametrize(("bank", "reason"), BANKS)
def test_bank_that_contradicts_its_record_is_refused(
    store, elsewhere, imports, tmp_path, bank, reason
):
    files = files_of(elsewhere, publish(elsewhere))
    content = encoded(tmp_path, bank.tensors())
    assert reason in refused(imports, store, forged(files, **{BANK_FILE: content}))


@pytest.mark.parametrize("value", [np.nan, -0.1, 3.0])
def test_good_parts_that_would_calibrate_nothing_are_refused(
    store, elsewhere, imports, tmp_path, value
):
    files = files_of(elsewhere, publish(elsewhere))
    parts = make_good_parts(make_bank())
    parts.distances[0, 0, 0] = value
    content = encoded(tmp_path, parts.tensors())
    said = refused(imports, store, forged(files, **{GOOD_PARTS_FILE: content}))
    assert "no cosine distances" in said


@pytest.mark.parametrize("name", [BANK_FILE, GOOD_PARTS_FILE])
@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 64])
def test_file_that_holds_no_tensors_is_refused(store, elsewhere, imports, name, content):
    files = files_of(elsewhere, publish(elsewhere))
    assert "cannot be read" in refused(imports, store, forged(files, **{name: content}))
