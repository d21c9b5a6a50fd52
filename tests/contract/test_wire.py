from __future__ import annotations

import pytest

from dinspect_client import wire


def test_contract_is_the_published_one():
    """Plants build on these names and types: changing one is a new contract version."""
    assert wire.CONTRACT_VERSION == 1
    specs = {s.name: (s.datatype, s.shape) for s in (wire.IMAGE, wire.IMAGE_RGB, wire.PRODUCT)}
    assert specs == {
        "image": ("BYTES", (1,)),
        "image_rgb": ("UINT8", (-1, -1, 3)),
        "product": ("BYTES", (1,)),
    }
    assert {s.name: (s.datatype, s.shape) for s in wire.INSPECTION_OUTPUTS} == {
        "anomaly_score": ("FP32", (1,)),
        "threshold": ("FP32", (1,)),
        "verdict": ("INT32", (1,)),
        "patch_distances": ("FP32", (-1, -1)),
        "anomaly_map": ("FP32", (-1, -1)),
        "bundle_version": ("INT64", (1,)),
        "normal_below": ("FP32", (1,)),
        "defect_regions": ("BYTES", (1,)),
    }
    assert [(v.name, v.value) for v in wire.Verdict] == [
        ("NORMAL", 0),
        ("ANOMALOUS", 1),
        ("UNDECIDED", 2),
    ]


@pytest.mark.parametrize(
    ("grid", "name"),
    [
        ((32, 32), "anomaly_dino_448"),
        ((32, 42), "anomaly_dino_448x588"),
        ((74, 74), "anomaly_dino_1036"),
    ],
)
def test_ensembles_are_named_by_input_size(grid, name):
    assert wire.anomaly_dino_model(wire.grid_label(grid)) == name
    assert wire.anomaly_dino_model(wire.grid_label(grid), raw=True) == f"{name}_raw"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("screw", ("screw", None)),
        ("screw@3", ("screw", 3)),
        ("M6_bolt-2.b@12", ("M6_bolt-2.b", 12)),
    ],
)
def test_product_references(reference, expected):
    assert wire.parse_product(reference) == expected


@pytest.mark.parametrize(
    "reference", ["", "@1", "a@", "a@0", "a@-1", "a/b", "a b", "ä", "a@1@2", "a\n"]
)
def test_impossible_product_references(reference):
    with pytest.raises(ValueError, match="is not a name"):
        wire.parse_product(reference)


def keys(holder):
    return {value for name, value in vars(holder).items() if name.isupper()}


def test_options_are_those_the_server_knows():
    from enrol_options import EnrolOptions
    from zero_shot_options import ZeroShotOptions

    assert keys(wire.EnrollOption) == set(EnrolOptions.__dataclass_fields__)
    assert keys(wire.ZeroShotOption) == set(ZeroShotOptions.__dataclass_fields__)


def test_keys_of_a_change_are_those_the_server_knows():
    from product_changes import REGION_KEYS, THRESHOLD_KEYS

    general = {
        "operation", "operator", "method", "file", "offset", "session", "commit", "activate",
    }  # fmt: skip
    assert keys(wire.ManageKey) == general | set(THRESHOLD_KEYS) | set(REGION_KEYS)


def test_defect_regions_are_what_the_server_finds():
    from defect_regions import DefectRegion

    assert keys(wire.DefectRegionKey) == set(DefectRegion.__dataclass_fields__)


def test_version_files_are_those_of_the_store():
    import version_files

    assert wire.VERSION_FILES == (
        version_files.BUNDLE_FILE,
        version_files.BANK_FILE,
        version_files.GOOD_PARTS_FILE,
    )
