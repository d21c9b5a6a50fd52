"""A record of students that contradicts itself is refused, whatever it is that contradicts."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from trainings import images, publish_trained

from map_operator import MapRule
from refusals import InspectionRefused
from students_record import record_from_json
from students_store import StudentsStore
from version_files import BUNDLE_FILE


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return publish_trained(StudentsStore(tmp_path_factory.mktemp("store") / "students"))


def test_record_reads_what_it_wrote(record):
    assert record_from_json(record.to_json().encode()) == record
    assert record.map_rule == MapRule(True, "gaussian", 2.0)


CONTRADICTIONS = [
    ({"product": "../screw"}, "is no product name"),
    ({"product": "a" * 65}, "is no product name"),
    ({"version": 0}, "version is 0"),
    ({"version": 10**9}, "version is 1000000000"),
    ({"version": True}, "StudentsRecord.version is True"),
    ({"method": "anomaly_dino"}, "method is 'anomaly_dino'"),
    ({"format_version": 2}, "format_version is 2, this server reads 1"),
    ({"students_sha256": "A" * 64}, "students_sha256 is"),
    ({"students_sha256": "a" * 63}, "students_sha256 is"),
    ({"good_parts_sha256": ""}, "good_parts_sha256 is"),
    ({"backbone": {"name": "x"}}, "backbone lacks onnx_sha256"),
    ({"backbone.runtime": 5}, "backbone lacks runtime"),
    ({"grid": [2, 3]}, "padded to a square"),
    ({"grid": [2]}, "grid is [2], expected two"),
    ({"grid": [-2, -2]}, "grid is [-2, -2], expected two"),
    ({"image_size": [40]}, "image_size is [40], expected two"),
    ({"image_size": [0, 60]}, "image_size is [0, 60], expected two"),
    ({"image_size": [40, 60, 3]}, "expected two"),
    ({"image_size": [32, 6001]}, "too many pixels as a square"),
    ({"image_size": [6001, 32]}, "too many pixels as a square"),
    ({"layers": [12, 8]}, "not ascending"),
    ({"layers": [12, 12]}, "not ascending"),
    ({"layers": [0, 12]}, "layers is [0, 12], expected two"),
    ({"layers": [4, 8, 12]}, "expected two"),
    ({"dim": 0}, "dim is 0"),
    ({"num_references": 4}, "3 images are recorded, num_references is 4"),
    ({"references": images(2)}, "2 images are recorded, num_references is 3"),
    ({"references": [], "num_references": 0}, "neither training images nor good images"),
    ({"references": [{"name": "a"}] * 3}, "an image is recorded as ['name']"),
    ({"num_patches": 11}, "num_patches is 11, the references have 12"),
    ({"num_patches": 13}, "num_patches is 13, the references have 12"),
    ({"calibration.good_images": [{"sha256": "x"}]}, "an image is recorded as ['sha256']"),
    ({"calibration.method": "leave_one_out"}, "method is 'leave_one_out'"),
    ({"calibration.good_images": images(2)}, "cross_fit is recorded with 2 good images"),
    ({"calibration.method": "good_images"}, "good_images is recorded with 0 good images"),
    ({"calibration.method": "by_hand"}, "set by hand have no rates"),
    ({"calibration.false_positive_rate": None}, "expected shares"),
    ({"calibration.undecided_rate": None}, "expected shares"),
    ({"calibration.false_positive_rate": 0.0}, "expected shares"),
    ({"calibration.undecided_rate": -0.1}, "expected shares"),
    ({"calibration.undecided_rate": 0.95}, "expected shares"),
    ({"distance.normalisation": "l1"}, "'l1' is none of l2, none"),
    ({"distance.metric": "l2"}, "'l2' is none of euclidean, cosine"),
    ({"distance.combination": "mean"}, "'mean' is none of product, sum, forward, backward"),
    ({"smoothing": "median"}, "'median' is none of gaussian, boxes"),
    ({"image_score": "max"}, "'max' is none of mean_top01p_map"),
    ({"sigma_px": -1.0}, "sigma_px is -1.0"),
    ({"sigma_px": 1001.0}, "sigma_px is 1001.0"),
    ({"threshold": -0.1, "normal_below": -0.1}, "threshold is -0.1, no distance"),
    ({"normal_below": -0.1}, "normal_below is -0.1, no distance"),
    ({"defect_threshold": -0.1}, "defect_threshold is -0.1, no distance"),
    ({"normal_below": 1.0}, "is above the threshold"),
    ({"threshold": 5}, "StudentsRecord.threshold is 5"),
    ({"training": []}, "StudentsRecord.training is []"),
    ({"extra": 1}, "lacks or does not know ['extra']"),
    ({"change.at": None}, "Change.at is None"),
]


@pytest.mark.parametrize(("changes", "reason"), CONTRADICTIONS, ids=str)
def test_contradiction_is_refused(record, changes, reason):
    said = json.loads(record.to_json())
    for key, value in changes.items():
        part, _, inner = key.partition(".")
        if inner:
            said[part][inner] = value
        else:
            said[part] = value
    with pytest.raises(ValueError, match=".") as refusal:
        record_from_json(json.dumps(said).encode())
    assert reason in str(refusal.value)


@pytest.mark.parametrize("key", ["distance", "layers", "students_sha256", "calibration"])
def test_record_that_lacks_something_is_refused(record, key):
    said = json.loads(record.to_json())
    del said[key]
    with pytest.raises(ValueError, match=f"lacks or does not know .*'{key}'"):
        record_from_json(json.dumps(said).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "-Infinity"])
@pytest.mark.parametrize("key", ["threshold", "defect_threshold", "sigma_px"])
def test_number_that_is_none_is_refused(record, key, number):
    said = json.loads(record.to_json()) | {key: "@"}
    with pytest.raises(ValueError, match="is no number"):
        record_from_json(json.dumps(said).replace('"@"', number).encode())


def test_product_with_a_record_that_contradicts_itself_is_refused(tmp_path):
    store = StudentsStore(tmp_path / "students")
    record = publish_trained(store)
    store.file("screw", 1, BUNDLE_FILE).write_text(replace(record, grid=[2, 3]).to_json())
    with pytest.raises(InspectionRefused, match="is damaged or of another format .*square"):
        store.read_bundle("screw", 1)


@pytest.mark.parametrize("product", ["nut", "screw"])
def test_record_of_another_version_is_refused(tmp_path, product):
    store = StudentsStore(tmp_path / "students")
    record = publish_trained(store)
    other = replace(record, product=product, version=2 if product == "screw" else 1)
    store.file("screw", 1, BUNDLE_FILE).write_text(other.to_json())
    with pytest.raises(InspectionRefused, match="names another product or version.*train"):
        store.read_bundle("screw", 1)
