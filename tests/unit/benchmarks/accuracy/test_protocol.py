"""Which rows a run has, and at which settings."""

from __future__ import annotations

from dinspect_bench.accuracy.protocol import plan_protocols
from dinspect_bench.datasets.mvtec import MVTEC_AD_CATEGORIES, MVTEC_AD_ROTATED, MVTEC_AD_TEXTURES
from dinspect_bench.datasets.visa import VISA_CATEGORIES
from dinspect_bench.papers.tables import default_preprocessing


def test_every_combination_is_measured_once():
    protocols = plan_protocols(["anomaly_dino", "l2bt"], [1, 4], [0, 1, 2])
    assert len(protocols) == len(set(protocols)) == 12
    assert {(one.method, one.shots, one.seed) for one in protocols} == {
        (method, shots, seed)
        for method in ("anomaly_dino", "l2bt") for shots in (1, 4) for seed in (0, 1, 2)
    }  # fmt: skip


def test_all_images_are_chosen_in_one_way_only():
    (one,) = plan_protocols(["anomaly_dino"], [None], [1, 2], selection="random")
    assert (one.shots, one.seed, one.selection) == (None, 0, "all")


def test_preprocessing_is_the_papers_unless_it_is_said():
    few, full = plan_protocols(["anomaly_dino"], [2, None], [0])
    assert (few.preprocessing, full.preprocessing) == ("agnostic", "masking_only")
    said = plan_protocols(["anomaly_dino"], [2, None], [0], preprocessing="informed")
    assert {one.preprocessing for one in said} == {"informed"}


def test_selection_is_the_papers_unless_it_is_said():
    plan = plan_protocols(["anomaly_dino", "l2bt"], [4, None], [1])
    assert [one.selection for one in plan] == ["consecutive", "all", "random", "all"]
    said = plan_protocols(["anomaly_dino", "l2bt"], [4], [1], selection="consecutive")
    assert [one.selection for one in said] == ["consecutive"] * 2


def test_each_method_has_its_own_settings():
    bank, students = plan_protocols(["anomaly_dino", "l2bt"], [2], [0], epochs=7, resolution=224)
    assert (bank.epochs, bank.resolution) == (None, 224)
    assert (students.epochs, students.resolution, students.preprocessing) == (7, 224, "pad")
    assert (bank.masks_by_test, students.masks_by_test) == (True, False)


def test_what_is_known_of_parts_counts_in_the_settings_that_ask():
    asks = {
        name: (one.masks_by_test, one.rotates_if_known)
        for name in ("agnostic", "informed", "masking_only", "no_mask_rotation", "mask_rotation")
        for one in plan_protocols(["anomaly_dino"], [1], [0], preprocessing=name)
    }
    assert asks == {
        "agnostic": (True, False), "informed": (True, True), "masking_only": (True, False),
        "no_mask_rotation": (False, False), "mask_rotation": (False, False),
    }  # fmt: skip


def test_rows_are_called_by_what_tells_them_apart():
    names = [str(one) for one in plan_protocols(["l2bt"], [1, 4, None], [2])]
    assert names == ["l2bt, 1 shot, seed 2", "l2bt, 4 shots, seed 2", "l2bt, all images"]


def test_textures_and_rotated_parts_are_those_of_the_papers_table():
    table = [one for one in default_preprocessing() if one.dataset == "mvtec_ad"]
    assert {one.category for one in table} == set(MVTEC_AD_CATEGORIES)
    textures = {one.category for one in table if one.not_masked_because == "texture"}
    assert textures == set(MVTEC_AD_TEXTURES)
    assert {one.category for one in table if one.rotated_informed} == set(MVTEC_AD_ROTATED)
    visa = [one for one in default_preprocessing() if one.dataset == "visa"]
    assert {one.category for one in visa} == set(VISA_CATEGORIES)
    assert not any(one.rotated_informed or one.not_masked_because for one in visa)
