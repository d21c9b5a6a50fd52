"""A record that contradicts itself is refused before anything is inspected by it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import GRID, make_bank, make_draft, make_good_parts

from bundle import Bundle, Region
from record_checks import check_record

BACKGROUND = np.array([[False, True, True], [True, True, True]])
IMAGE = {"name": "good.png", "sha256": "d" * 64}


def sound(**bank) -> Bundle:
    made = make_bank(**bank)
    draft = make_draft(made, make_good_parts(made))
    return replace(draft, version=1, bank_sha256="e" * 64, good_parts_sha256="f" * 64)


def changed(part, **values):
    """Of a sound record, one part with other values."""
    bundle = sound()
    if part is None:
        return replace(bundle, **values)
    return replace(bundle, **{part: replace(getattr(bundle, part), **values)})


@pytest.mark.parametrize(
    "bundle",
    [
        sound(),
        sound(num_references=1),
        sound(num_rotations=8),
        sound(num_lists=4),
        sound(foreground=BACKGROUND),
        changed("scoring", num_neighbours=12),
        changed("scoring", image_score="max_map"),
        changed("preprocessing", texture=True),
        changed("region", inspected=["011", "011"], roi_px=[50, 0, 100, 100]),
        changed("region", inspected=["000", "001"], ignore_mask_sha256="c" * 64),
        changed("region", min_defect_area_px=14_000),
        changed("calibration", method="good_images", good_images=[IMAGE]),
        changed("calibration", method="by_hand", false_positive_rate=None, undecided_rate=None),
        changed(None, threshold=0.0, normal_below=0.0),
        changed(None, threshold=2.0, normal_below=0.0),
    ],
)
def test_sound_record_passes(bundle):
    check_record(bundle)


def test_thinned_out_record_passes():
    bundle = sound()
    scoring = replace(bundle.scoring, coreset_fraction=0.25)
    check_record(replace(bundle, scoring=scoring, num_patches=3))


CONTRADICTIONS = [
    # who and what
    (None, {"product": "../screw"}, "'../screw' is no product name"),
    (None, {"product": ".hidden"}, "is no product name"),
    (None, {"product": "a" * 65}, "is no product name"),
    (None, {"product": ""}, "is no product name"),
    (None, {"version": 0}, "version is 0"),
    (None, {"version": -3}, "version is -3"),
    (None, {"version": 10**9}, "version is 1000000000"),
    (None, {"method": "l2bt"}, "method is 'l2bt'"),
    (None, {"bank_sha256": ""}, "bank_sha256 is '', no SHA-256"),
    (None, {"bank_sha256": "E" * 64}, "no SHA-256"),
    (None, {"good_parts_sha256": "f" * 63}, "good_parts_sha256 is .* no SHA-256"),
    (None, {"backbone": {}}, "backbone lacks name"),
    # images
    (None, {"num_references": 3}, "2 references are recorded, num_references 3"),
    (None, {"references": [], "num_references": 0}, "0 references"),
    (None, {"references": [{"name": "a"}, {"name": "b"}]}, r"recorded as \['name'\]"),
    ("calibration", {"good_images": [{"sha256": "a"}]}, r"recorded as \['sha256'\]"),
    # geometry
    (None, {"image_size": [150, 100]}, "images of 100 x 150 px give 3 x 2 patches"),
    (None, {"image_size": [100]}, r"image_size is \[100\]"),
    (None, {"image_size": [0, 0]}, "image_size is"),
    (None, {"image_size": [-100, -150]}, "image_size is"),
    (None, {"image_size": [10**200, 10**200]}, "too many pixels"),
    (None, {"image_size": [1, 10**400]}, "too many pixels"),
    (None, {"layer": 0}, "layer is 0"),
    (None, {"dim": 0}, "dim is 0"),
    (None, {"dim": -8}, "dim is -8"),
    # region
    ("region", {"inspected": ["000", "000"], "roi_px": [0, 0, 1, 1]}, "inspects no patch"),
    ("region", {"inspected": ["11x", "111"]}, "inspects no patch"),
    ("region", {"inspected": ["110", "111"]}, "leaves out patches but says no reason"),
    ("region", {"roi_px": []}, r"roi_px is \[\]"),
    ("region", {"roi_px": [0, 0, 10]}, "roi_px is"),
    ("region", {"roi_px": [-1, 0, 10, 10]}, "roi_px is"),
    ("region", {"roi_px": [0, 0, 151, 100]}, "not in the images"),
    ("region", {"roi_px": [0, 1, 150, 100]}, "not in the images"),
    ("region", {"roi_px": [0, 0, 0, 10]}, "not in the images"),
    ("region", {"min_defect_area_px": -1}, "min_defect_area_px is -1"),
    ("region", {"min_defect_area_px": 15_100}, "more than what is inspected"),
    # preprocessing
    ("preprocessing", {"setting": "guess"}, "setting is 'guess'"),
    ("preprocessing", {"rotations_deg": []}, r"rotations_deg is \[\]"),
    ("preprocessing", {"rotations_deg": [45, 0]}, "rotations_deg is"),
    ("preprocessing", {"rotations_deg": [0, 0]}, "rotations_deg is"),
    ("preprocessing", {"rotations_deg": [0, 30]}, "rotations_deg is"),
    ("preprocessing", {"masked": True}, "masked and foreground_share contradict"),
    ("preprocessing", {"foreground_share": [0.5, 0.5]}, "masked and foreground_share contradict"),
    # scoring
    ("scoring", {"image_score": "mean"}, "image_score is 'mean'"),
    ("scoring", {"search": "hnsw"}, "search is 'hnsw'"),
    ("scoring", {"num_neighbours": 0}, "num_neighbours is 0, expected 1 to 12"),
    ("scoring", {"num_neighbours": 13}, "num_neighbours is 13, expected 1 to 12"),
    ("scoring", {"num_lists": 4, "num_probes": 2}, "'exact' has 4 lists and 2 probes"),
    ("scoring", {"search": "ivf"}, "'ivf' has 0 lists and 0 probes"),
    ("scoring", {"search": "ivf", "num_lists": 4}, "'ivf' has 4 lists and 0 probes"),
    ("scoring", {"search": "ivf", "num_lists": 4, "num_probes": 5}, "4 lists and 5 probes"),
    ("scoring", {"search": "ivf", "num_lists": 13, "num_probes": 1}, "of 12 patches"),
    ("scoring", {"coreset_fraction": 0.0}, "coreset_fraction is 0.0"),
    ("scoring", {"coreset_fraction": 1.5}, "coreset_fraction is 1.5"),
    (None, {"num_patches": 11}, "num_patches is 11, the references have 12"),
    (None, {"num_patches": 0}, "num_neighbours is 1, expected 1 to 0"),
    # thresholds
    (None, {"threshold": -0.1, "normal_below": -0.1}, "threshold is -0.1, no cosine distance"),
    (None, {"threshold": 3.0}, "threshold is 3.0, no cosine distance"),
    (None, {"normal_below": -0.1}, "normal_below is -0.1"),
    (None, {"defect_threshold": -1.0}, "defect_threshold is -1.0"),
    (None, {"threshold": 0.2, "normal_below": 0.3}, "normal_below 0.3 is above the threshold 0.2"),
    # calibration
    ("calibration", {"method": "guess"}, "method is 'guess'"),
    ("calibration", {"method": "good_images"}, "good images of the calibration are missing"),
    ("calibration", {"method": "by_hand"}, "thresholds set by hand have no rates"),
    ("calibration", {"false_positive_rate": None}, "false_positive_rate is None"),
    ("calibration", {"undecided_rate": None}, "undecided_rate None"),
    ("calibration", {"false_positive_rate": 0.0}, "false_positive_rate is 0.0"),
    ("calibration", {"false_positive_rate": 5.0}, "false_positive_rate is 5.0"),
    ("calibration", {"undecided_rate": -0.1}, "undecided_rate -0.1"),
    ("calibration", {"undecided_rate": 0.95}, "expected shares"),
]


@pytest.mark.parametrize(("part", "values", "reason"), CONTRADICTIONS)
def test_contradiction_is_refused_with_the_reason(part, values, reason):
    with pytest.raises(ValueError, match=reason):
        check_record(changed(part, **values))


@pytest.mark.parametrize(
    "key", ["name", "onnx_sha256", "weights_sha256", "file_sha256", "runtime", "precision"]
)
def test_backbone_that_is_not_fully_named_is_refused(key):
    bundle = sound()
    for backbone in (
        {name: value for name, value in bundle.backbone.items() if name != key},
        bundle.backbone | {key: 5},
    ):
        with pytest.raises(ValueError, match=f"backbone lacks {key}"):
            check_record(replace(bundle, backbone=backbone))


@pytest.mark.parametrize("precision", [None, "int8", 16, ["fp32"]])
def test_search_precision_that_nobody_can_size_is_refused(precision):
    """The list of products tells how large a bank will be; one record must not break it."""
    backbone = sound().backbone | {"search_precision": precision}
    with pytest.raises(ValueError, match="search_precision is"):
        check_record(changed(None, backbone=backbone))


def test_textures_are_not_masked():
    bundle = sound(foreground=BACKGROUND)
    with pytest.raises(ValueError, match="a texture is said to be masked"):
        check_record(replace(bundle, preprocessing=replace(bundle.preprocessing, texture=True)))


@pytest.mark.parametrize("share", [[], [0.5], [0.6, 0.5], [-0.1, 0.5], [0.5, 1.1], [0.1, 0.2, 0.3]])
def test_foreground_share_that_makes_no_sense_is_refused(share):
    bundle = sound(foreground=BACKGROUND)
    preprocessing = replace(bundle.preprocessing, foreground_share=share)
    with pytest.raises(ValueError, match="foreground_share is"):
        check_record(replace(bundle, preprocessing=preprocessing))


def test_thinned_out_bank_is_not_larger_than_its_references():
    bundle = sound()
    scoring = replace(bundle.scoring, coreset_fraction=0.5)
    with pytest.raises(ValueError, match="num_patches is 13, the references have 12"):
        check_record(replace(bundle, scoring=scoring, num_patches=13))


def test_smallest_defect_may_cover_what_is_inspected_and_no_more():
    """One patch of the 2 x 3 grid of 100 x 150 px images is 50 x 50 px."""
    region = Region(["100", "000"], None, "c" * 64, 2500)
    check_record(replace(sound(), region=region))
    with pytest.raises(ValueError, match="min_defect_area_px is 2501"):
        check_record(replace(sound(), region=replace(region, min_defect_area_px=2501)))
    assert GRID == (2, 3)
