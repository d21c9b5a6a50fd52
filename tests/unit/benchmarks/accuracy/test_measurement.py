"""One row: its key, its figures, and when it is on record; with a stand-in for the server."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from accuracy_fakes import BACKBONE, FakeClient, blob_map
from small_trees import write_image, write_mvtec_category

from dinspect_bench.accuracy.measurement import PIXEL_FIGURES, Measurement, measure, thinned
from dinspect_bench.accuracy.protocol import plan_protocols
from dinspect_bench.accuracy.served_backbones import RunningBackbone, Serving
from dinspect_bench.accuracy.temporary_product import ProductMaker
from dinspect_bench.accuracy.worst_images import PictureFolder
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_bench.errors import DatasetError

RUNNING = RunningBackbone(BACKBONE.onnx_sha256, BACKBONE.runtime, BACKBONE.precision)
SERVING = Serving((RUNNING,), None, "fp32")


@pytest.fixture
def folder(tmp_path):
    return write_mvtec_category(tmp_path / "nut", num_good=6)


def wanted(folder, **settings):
    (protocol,) = plan_protocols(["anomaly_dino"], [2], [0], **settings)
    (category,) = load_mvtec(folder)
    return Measurement("parts", category, protocol, category.sha256())


def answers(path):
    """Defects score high and their maps are right; the first good image scores higher than one."""
    score = {"good/000.png": 0.55, "good/001.png": 0.1, "crack/000.png": 0.5}.get(
        "/".join(path.parts[-2:]), 0.9
    )
    return score, blob_map(high=0.0 if "good" in path.parts else 1.0)


def record_of(folder, tmp_path, one=None):
    client = FakeClient(answers)
    maker = ProductMaker(client, "host:1", tmp_path / "work", "me")
    pictures = PictureFolder(tmp_path / "pictures", tmp_path)
    record = measure(one or wanted(folder), SERVING, maker, pictures)
    assert client.there == {}
    return record, client


def test_record_holds_settings_figures_and_circumstances(folder, tmp_path):
    record, client = record_of(folder, tmp_path)
    assert json.loads(json.dumps(record, allow_nan=False)) == json.loads(json.dumps(record))
    assert record["record"] == "accuracy"
    settings = ("dataset", "category", "method", "backbone", "resolution", "shots", "seed")
    assert [record[name] for name in settings] == [
        "parts", "nut", "anomaly_dino", "dinov2_vits14", 448, 2, 0
    ]  # fmt: skip
    assert (record["backbone_sha256"], record["bundle_version"]) == (BACKBONE.onnx_sha256, 7)
    assert (record["search_precision"], record["students_precision"]) == ("bf16", None)
    assert (record["num_good"], record["num_defective"], record["num_regions"]) == (2, 4, 4)
    assert record["image_auroc"] == pytest.approx(7 / 8)
    assert record["pixel_auroc"] == record["aupro_30"] == record["pixel_f1_max"] == 1.0
    assert record["curves"]["roc"][0] == (0.0, 0.0)
    assert len(record["curves"]["pro"]) > 1
    assert len(record["worst"]) == 5
    assert record["created"][-6:] == "+00:00"
    assert record["environment"]["python"]
    assert len(client.inspected) == 6


def test_category_without_masks_has_no_figures_per_pixel(tmp_path):
    folder = write_mvtec_category(tmp_path / "nut", masks=False)
    record, _ = record_of(folder, tmp_path)
    assert [record[name] for name in PIXEL_FIGURES] == [None] * len(PIXEL_FIGURES)
    assert record["curves"]["pro"] == []
    assert record["image_auroc"] == pytest.approx(7 / 8)


def test_figures_per_pixel_have_one_set_of_keys(folder, tmp_path):
    record, _ = record_of(folder, tmp_path)
    from dinspect_bench.accuracy.pixel_metrics import measure_pixels

    maps, masks = [blob_map()], [blob_map() > 0.5]
    assert set(measure_pixels(maps, masks).to_record()) == set(PIXEL_FIGURES)
    assert set(PIXEL_FIGURES) <= set(record)


def test_defect_that_nobody_outlined_counts_per_image_alone(folder, tmp_path):
    write_image(folder / "test_unmasked/crack/090.png")
    record, _ = record_of(folder, tmp_path)
    assert (record["num_defective"], record["num_regions"], record["num_not_outlined"]) == (5, 4, 1)
    assert record["image_auroc"] == pytest.approx(9 / 10)
    assert record["pixel_auroc"] == 1.0  # its map is high and its mask unknown


def test_copies_are_taken_once_and_told(folder, tmp_path):
    good = folder / "train/good"
    (good / "001.png").write_bytes((good / "000.png").read_bytes())
    (folder / "test/good/001.png").write_bytes((good / "000.png").read_bytes())
    (folder / "test/good/000.png").write_bytes((good / "005.png").read_bytes())  # in no slice
    record, client = record_of(folder, tmp_path)
    assert [path.name for path in client.made[0][1]] == ["000.png"]
    assert (record["num_references"], record["num_copies"]) == (1, 1)
    assert record["num_test_learnt_from"] == 1


def test_what_is_left_out_is_named(folder, tmp_path):
    one = wanted(folder)
    left = folder / "train/good/005.png"
    category = replace(one.category, good=one.category.good[:5], left_out=(left,))
    record, _ = record_of(folder, tmp_path, replace(one, category=category))
    assert record["left_out"] == ["train/good/005.png"]


def test_row_on_record_is_found_by_settings_data_and_backbone(folder, tmp_path):
    one = wanted(folder)
    record = json.loads(json.dumps(record_of(folder, tmp_path)[0]))
    newer = record | {"image_auroc": 0.0}
    assert one.fitting([record, newer], SERVING) == [record, newer]
    assert one.fitting([], SERVING) == []
    for other in (
        RUNNING._replace(backbone_sha256="ef" * 32), RUNNING._replace(precision="int8"),
        RUNNING._replace(runtime="openvino 2"),
    ):  # fmt: skip
        assert one.fitting([record], replace(SERVING, backbones=(other,))) == []
        assert one.fitting([record], replace(SERVING, backbones=(other, RUNNING))) == [record]
    for key in ("dataset", "category", "method", "shots", "seed", "selection", "resolution",
                "preprocessing", "epochs", "texture", "rotated", "data_sha256", "record",
                "students_precision"):  # fmt: skip
        assert one.fitting([record | {key: "other"}], SERVING) == [], key


def test_other_data_are_another_row(folder, tmp_path):
    record = record_of(folder, tmp_path)[0]
    write_image(folder / "test/crack/000.png", value=1)
    assert wanted(folder).fitting([record], SERVING) == []


def test_students_of_another_precision_are_another_row(folder):
    (protocol,) = plan_protocols(["l2bt"], [2], [0])
    one = replace(wanted(folder), protocol=protocol)
    record = one.key() | RUNNING.key() | {"search_precision": None, "students_precision": "fp32"}
    assert one.students_key(SERVING) == {"students_precision": "fp32"}
    assert one.fitting([record], SERVING) == [record]
    assert one.fitting([record], replace(SERVING, students_precision="bf16")) == []


def test_texture_is_part_of_the_row_where_it_matters(folder):
    one = wanted(folder)
    textured = replace(one, category=replace(one.category, texture=True))
    assert (one.key()["texture"], textured.key()["texture"]) == (False, True)
    forced = wanted(folder, preprocessing="mask_rotation")
    assert replace(forced, category=textured.category).key()["texture"] is False


def test_too_few_images_are_told_before_anything_is_made(folder):
    one = wanted(folder)
    with pytest.raises(DatasetError, match="slice 3 of 2 shots needs 8"):
        replace(one, protocol=replace(one.protocol, seed=3)).selected()


def test_all_images_are_learnt_from(folder):
    (protocol,) = plan_protocols(["l2bt"], [None], [0])
    one = replace(wanted(folder), protocol=protocol)
    assert one.selected() == one.category.good


def test_curve_is_thinned_and_keeps_its_ends():
    points = [(x / 1000, x / 1000) for x in range(1001)]
    few = thinned(points)
    assert len(few) == 300
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert few == sorted(set(few))
    assert thinned(points[:300]) == points[:300]
    assert np.diff([x for x, _ in few]).max() < 0.0045
