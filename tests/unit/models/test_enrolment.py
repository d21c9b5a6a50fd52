from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bank_store import BankStore
from enrolment import MAX_SESSIONS, Enrolment, EnrolOptions, Sessions
from refusals import InspectionRefused
from served_size import ServedSize

SERVED = ServedSize(
    label="28",
    ensemble="anomaly_dino_28",
    backbone="tiny",
    grid=(2, 2),
    layer=12,
    name="dinov2_vits14",
    onnx_sha256="a" * 64,
    weights_sha256="b" * 64,
    file_sha256="a" * 64,
    native_runtime="",
    native_precision="",
)


def png(seed=0, size=(56, 56)):
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue(), array


def tokens_of(pixels):
    """Stands in for the backbone: the mean colour of each 14 px patch, and a constant."""
    means = pixels.reshape(2, 14, 2, 14, 3).mean((1, 3)).reshape(4, 3)
    return np.concatenate([means, np.full((4, 1), 50.0)], axis=1).astype(np.float32)


def begun(options=None, max_bank_bytes=1 << 20):
    return Enrolment("screw", SERVED, (56, 56), png()[1], options or EnrolOptions(), max_bank_bytes)


def enrol(count, options=None, tmp_path=None):
    enrolment = begun(options)
    for seed in range(count):
        enrolment.add(f"{seed}.png", png(seed)[0], tokens_of)
    runtime = {"runtime": "openvino 1", "precision": "fp32"}
    return enrolment.publish(BankStore(tmp_path), runtime, "fp32", tokens_of)


def test_bundle_says_from_what_it_was_made(tmp_path):
    bundle = enrol(3, EnrolOptions(operator="ada"), tmp_path)
    assert (bundle.num_references, bundle.num_patches, bundle.dim) == (3, 12, 4)
    assert bundle.calibration["method"] == "leave_one_out"
    assert len(bundle.calibration["reference_scores"]) == 3
    assert bundle.threshold == max(bundle.calibration["reference_scores"])
    assert bundle.operator == "ada"
    assert [one["name"] for one in bundle.references] == ["0.png", "1.png", "2.png"]
    assert bundle.backbone["precision"] == "fp32"


def test_single_reference_is_calibrated_on_its_rotations(tmp_path):
    bundle = enrol(1, None, tmp_path)
    assert bundle.calibration["method"] == "rotations_of_the_only_reference"
    assert len(bundle.calibration["reference_scores"]) == 7
    assert bundle.threshold > 0
    assert bundle.normal_below == 0.0  # below the threshold nothing is called normal


def test_threshold_by_hand_is_kept(tmp_path):
    bundle = enrol(2, EnrolOptions(threshold=0.25), tmp_path)
    assert bundle.threshold == 0.25
    assert bundle.calibration["method"] == "by_hand"


def test_another_geometry_is_refused_by_name():
    enrolment = begun()
    with pytest.raises(
        InspectionRefused, match=r"reference wide\.png: 70 x 56 px has another aspect"
    ):
        enrolment.add("wide.png", png(size=(56, 70))[0], tokens_of)
    with pytest.raises(InspectionRefused, match=r"reference bad\.png: the image is empty"):
        enrolment.add("bad.png", b"", tokens_of)
    assert enrolment.tokens == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "JSON object"),
        ({"shots": 3}, r"unknown options \['shots'\]; known are"),
        ({"false_positive_rate": 0}, "between 0 and 1"),
        ({"false_positive_rate": True}, "between 0 and 1"),
        ({"threshold": -1}, r"in \[0, 2\]"),
        ({"threshold": "high"}, r"in \[0, 2\]"),
        ({"resolution": "448"}, "integer"),
        ({"resolution": 450}, "a multiple of the 14 px patch"),
        ({"commit": 1}, "true or false"),
        ({"session": "x" * 201, "num_staged": 0}, "short string"),
        ({"session": "x"}, "num_staged"),
        ({"num_staged": -1}, "at least 0"),
        ({"image_names": 5}, "a list of strings"),
    ],
)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(InspectionRefused, match=reason):
        EnrolOptions.from_json(options)


def test_absent_and_null_options_mean_the_default():
    assert EnrolOptions.from_json({"threshold": None}) == EnrolOptions()


def test_sessions_are_bounded_and_forgotten():
    sessions = Sessions()
    for index in range(MAX_SESSIONS):
        sessions.put(str(index), begun())
    with pytest.raises(InspectionRefused, match="open already"):
        sessions.put("more", begun())
    sessions.get("0").touched_s -= 10_000
    assert sessions.get("0") is None
    assert sessions.get("1") is not None
    sessions.drop("1")
    assert sessions.get("1") is None


def test_rotations_of_the_only_reference_are_really_turned(tmp_path):
    scores = enrol(1, None, tmp_path).calibration["reference_scores"]
    assert min(scores) > 1e-6
    assert len(set(scores)) == 7


def test_an_open_session_goes_on_when_no_more_can_be_opened():
    sessions = Sessions()
    for index in range(MAX_SESSIONS):
        sessions.put(str(index), begun())
    going_on = sessions.get("3")
    sessions.put("3", going_on)
    assert sessions.get("3") is going_on


def test_same_file_twice_is_refused():
    enrolment = begun()
    enrolment.add("a.png", png(1)[0], tokens_of)
    with pytest.raises(InspectionRefused, match=r"reference b\.png: it is the same file as a\.png"):
        enrolment.add("b.png", png(1)[0], tokens_of)


def test_bank_that_could_not_be_loaded_is_refused_at_once():
    enrolment = begun(max_bank_bytes=2 * 4 * 4 * 4)
    enrolment.add("a.png", png(1)[0], tokens_of)
    enrolment.add("b.png", png(2)[0], tokens_of)
    with pytest.raises(InspectionRefused, match="3 images make a memory bank of 192 bytes"):
        enrolment.add("c.png", png(3)[0], tokens_of)


def test_later_parts_may_repeat_but_not_change_the_options():
    first = EnrolOptions(threshold=0.2, operator="ada")
    EnrolOptions().check_repeats(first)
    EnrolOptions(threshold=0.2).check_repeats(first)
    with pytest.raises(InspectionRefused, match="the first part of the enrolment said 0.2"):
        EnrolOptions(threshold=0.3).check_repeats(first)
