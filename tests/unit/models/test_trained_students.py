"""What a training hands over becomes a version only if all of it fits together and to the server."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from store_files import hidden, visible
from trainings import (
    DIM,
    GRID,
    ONNX_SHA256,
    SERVED,
    good_distances,
    graph,
    images,
    publish_files,
    publish_trained,
    training,
    training_files,
)

import student_scoring
from refusals import InspectionRefused
from student_scoring import find_map_thresholds
from students_store import StudentsStore
from wire import TRAINING_FILES

REPORT, STUDENTS, GOOD_PARTS = TRAINING_FILES


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


def refused(store, files, **options):
    """Why files are refused, which must leave nothing and prepare nothing."""
    with pytest.raises(InspectionRefused) as refusal:
        publish_files(store, "screw", files, prepare=pytest.fail, **options)
    assert visible(store) == []
    assert [name for name in hidden(store) if name.endswith(".partial")] == []
    return str(refusal.value)


def test_version_says_all_that_the_training_said(store):
    files = training_files(
        smoothing="boxes", sigma_px=4.0, layers=[4, 12], students=graph(layers=(4, 12)),
        false_positive_rate=0.1, undecided_rate=0.2, training={"epochs": 7, "seed": 1},
    )  # fmt: skip
    record = publish_files(store, "screw", files)
    assert (record.product, record.version, record.method) == ("screw", 1, "l2bt")
    assert record.ensemble == "l2bt_screw_28"
    assert (record.grid, record.image_size, record.layers, record.dim) == (
        [2, 2], [40, 60], [4, 12], DIM,
    )  # fmt: skip
    assert (record.num_references, record.num_patches) == (3, 12)
    assert record.references == images(3)
    assert record.backbone == {
        "name": "dinov2_vits14", "onnx_sha256": ONNX_SHA256, "weights_sha256": "b" * 64,
        "file_sha256": ONNX_SHA256, "runtime": "openvino 2025.3", "precision": "fp32",
    }  # fmt: skip
    assert record.distance.combination == "sum"
    assert (record.smoothing, record.sigma_px) == ("boxes", 4.0)
    assert record.image_score == "mean_top01p_map"
    assert record.training == {"epochs": 7, "seed": 1}
    found = find_map_thresholds(good_distances(), (40, 60), record.map_rule, 0.1, 0.2)
    assert record.threshold == found.threshold
    assert record.normal_below == found.normal_below
    assert record.defect_threshold == found.defect_threshold
    assert record.calibration.reference_scores == found.scores
    assert (record.created_by, record.created_at) == ("ada", record.change.at)
    assert (record.change.action, record.change.from_version) == ("published", None)


def test_thresholds_may_be_set_by_hand(store):
    record = publish_trained(store, threshold=2.0, normal_below=1.5)
    assert (record.threshold, record.normal_below) == (2.0, 1.5)
    assert record.calibration.method == "by_hand"


def test_whole_numbers_are_numbers(store):
    """JSON writes 4.0 as 4."""
    record = publish_trained(store, sigma_px=4, threshold=2, normal_below=1)
    assert (record.sigma_px, record.threshold, record.normal_below) == (4.0, 2.0, 1.0)
    assert store.read_bundle("screw", 1) == record


def test_good_images_may_measure_the_good_parts(store):
    record = publish_trained(store, good_images=images(3), calibration="good_images", references=[])
    assert record.calibration.method == "good_images"
    assert record.calibration.good_images == images(3)
    assert (record.num_references, record.num_patches) == (0, 0)


def test_ensemble_is_prepared_before_the_version_and_for_nothing_else(store):
    seen = []
    files = training_files()
    publish_files(store, "screw", files, prepare=lambda: seen.append(store.products()))
    assert seen == [{}]

    def fails():
        raise OSError("no ensemble")

    with pytest.raises(OSError, match="no ensemble"):
        publish_files(store, "nut", files, prepare=fails)
    assert store.products() == {"screw": [1]}
    assert [name for name in hidden(store) if name.endswith(".partial")] == []


@pytest.mark.parametrize("key", training())
def test_key_that_is_missing_is_refused(store, key):
    said = training()
    del said[key]
    files = training_files() | {REPORT: json.dumps(said).encode()}
    assert f"training.json cannot be used: TrainingReport lacks or does not know ['{key}']" in (
        refused(store, files)
    )


VALUES = ["x", [], {}, [1], [None], {"a": 1}, True, 1.5, None]
ALLOWED = {
    ("sigma_px", "1.5"),
    ("threshold", "1.5"),
    ("good_images", "[]"),
    ("false_positive_rate", "None"),
    ("undecided_rate", "None"),
    ("threshold", "None"),
    ("normal_below", "None"),
}


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("key", sorted(set(training()) - {"training"}))
def test_value_of_another_type_is_refused(store, key, value):
    if (key, str(value)) in ALLOWED:
        assert publish_trained(store, **{key: value}).version == 1
    else:
        assert refused(store, training_files(**{key: value}))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b"[" * 100_000,
        json.dumps(training()).replace("2.0", "NaN").encode(),
        json.dumps(training()).replace("2.0", "1e999").encode(),
        json.dumps(training()).replace("2.0", "1" + "0" * 400).encode(),
        json.dumps(training()).replace("40", "-Infinity").encode(),
    ],
)  # fmt: skip
def test_report_that_is_none_is_refused(store, content):
    assert "training.json cannot be used" in refused(store, training_files() | {REPORT: content})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "does not know ['extra']"),
        ({"grid": [2]}, "must be two numbers each"),
        ({"layers": [4, 8, 12]}, "must be two numbers each"),
        ({"image_size": [40, 60, 3]}, "must be two numbers each"),
        ({"grid": [2, 3]}, "of a grid [2, 3]"),
        ({"grid": [4, 4]}, "of a grid [4, 4]"),
        ({"layers": [8, 11]}, "take blocks [8, 11]"),
        ({"layers": [12, 8]}, "not ascending"),
        ({"layers": [12, 12]}, "not ascending"),
        ({"dim": 16}, "and width 16, backbone dinov2_vits14_28"),
        ({"backbone_sha256": "e" * 64}, "backbone eeeeeeeeeeee, this server has aaaaaaaaaaaa"),
        ({"backbone_sha256": ""}, "this server has aaaaaaaaaaaa"),
        ({"image_size": [0, 60]}, "image_size is [0, 60]"),
        ({"image_size": [-40, 60]}, "image_size is [-40, 60]"),
        ({"smoothing": "median"}, "'median' is none of gaussian, boxes"),
        ({"sigma_px": -1.0}, "sigma_px is -1.0"),
        ({"sigma_px": 1e12}, "sigma_px is 1000000000000.0"),
        ({"distance": {"normalisation": "l1", "metric": "cosine", "combination": "sum"}}, "'l1'"),
        ({"distance": {"metric": "cosine"}}, "lacks or does not know"),
        ({"references": []}, "hold 3 images, but 0 are named"),
        ({"references": images(2)}, "hold 3 images, but 2 are named"),
        ({"references": [{"name": "a"}] * 3}, "an image is recorded as ['name']"),
        ({"good_images": images(3)}, "'cross_fit', but 3 good images are named"),
        ({"calibration": "good_images"}, "'good_images', but 0 good images are named"),
        ({"calibration": "good_images", "good_images": images(4)}, "3 images, but 4 are named"),
        ({"calibration": "by_hand"}, "'calibration' is 'by_hand'"),
        ({"calibration": "leave_one_out"}, "'calibration' is 'leave_one_out'"),
        ({"false_positive_rate": 0.0}, "between 0 and 1"),
        ({"false_positive_rate": 0.6, "undecided_rate": 0.5}, "together reach 1"),
        ({"threshold": -1.0}, "a score from 0"),
        ({"threshold": 1e7}, "a score from 0"),
        ({"normal_below": 1.0}, "goes with a threshold"),
        ({"threshold": 0.5, "undecided_rate": 0.5}, "exclude each other"),
    ],
    ids=str,
)
def test_contradicting_training_is_refused(store, changes, reason):
    assert reason in refused(store, training_files(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": [10**9, 10**9]},
        {"image_size": [6001, 6001]},
        {"image_size": [32, 10**9]},
        {"sigma_px": 1e12},
        {"sigma_px": 1e4},
    ],
)
def test_no_map_is_drawn_before_its_size_is_checked(store, monkeypatch, changes):
    monkeypatch.setattr(student_scoring, "anomaly_map", pytest.fail)
    assert "training's report cannot be used" in refused(store, training_files(**changes))


@pytest.mark.parametrize("name", TRAINING_FILES)
def test_missing_file_is_named(store, name):
    from arriving_files import Arrivals

    arrivals = Arrivals(store, TRAINING_FILES, 10**6, "trainings")
    arrived = arrivals.get("s", "screw")
    for other, content in training_files().items():
        if other != name:
            arrived.add(other, 0, content)
    with pytest.raises(InspectionRefused, match=f"the product lacks {name}"):
        arrived.require_whole()
    arrivals.drop("s")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage", "the students' graph cannot be run"),
        (graph(layers=(4, 12)), "from blocks 8 and 12"),
        (graph(dim=16), "cannot be run"),
        (graph(float("nan")), "NaN or infinity"),
    ],
)
def test_students_that_do_not_run_are_refused(store, content, reason):
    assert reason in refused(store, training_files(students=content))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"garbage", "the good parts cannot be read"),
        (save({"patch_distances": np.zeros((3, 3, 3), np.float32)}), "(3, 3, 3)"),
        (save({"patch_distances": np.full((3, *GRID), np.nan, np.float32)}), "no distances"),
        (save({"distances": np.zeros((3, *GRID), np.float32)}), "patch_distances are missing"),
    ],
)
def test_good_parts_that_are_none_are_refused(store, content, reason):
    assert reason in refused(store, training_files() | {GOOD_PARTS: content})


def test_students_go_to_the_size_of_their_backbone(store):
    other = replace(SERVED, label="56", grid=(4, 4), onnx_sha256="e" * 64)
    record = publish_files(store, "screw", training_files(), served=(other, SERVED))
    assert record.ensemble == "l2bt_screw_28"


def test_size_that_is_no_square_is_refused(store):
    wide = replace(SERVED, grid=(2, 3), label="28x42")
    files = training_files(
        grid=[2, 3], students=graph(grid=(2, 3)), distances=np.ones((3, 2, 3), np.float32)
    )
    assert "padded to a square" in refused(store, files, served=(wide,))
