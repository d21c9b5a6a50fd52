"""Students load on first use, leave least recently used first, and never outlive their version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bundles import AT
from trainings import IMAGE_SIZE, ONNX_SHA256, expected_distances, publish_trained, tokens

import students_cache
from refusals import InspectionRefused
from student_thresholds import change_student_thresholds
from students_cache import StudentsCache
from students_store import STUDENTS_FILE, StudentsStore
from version_files import BUNDLE_FILE

PAIR = tokens(9)


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


@pytest.fixture
def opened(monkeypatch):
    """Versions' folders whose students were made ready to run, in order."""
    found = []
    real = students_cache.StudentRunner

    def noted(model, *args):
        found.append(f"{model.parts[-3]}@{model.parts[-2]}")
        return real(model, *args)

    monkeypatch.setattr(students_cache, "StudentRunner", noted)
    return found


def cache(store, max_bytes=10**7, digest=ONNX_SHA256, runtime="onnxruntime"):
    return StudentsCache(store, digest, runtime, "fp32", max_bytes)


def scale_of(students, reference):
    """What the students that answer multiply by."""
    distances = students.get(reference).score(*PAIR, IMAGE_SIZE).distances
    return round(float((distances / expected_distances(PAIR)).mean()), 4)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_students_are_loaded_on_first_use_and_once(store, opened, runtime):
    publish_trained(store, scale=2.0)
    students = cache(store, runtime=runtime)
    assert (opened, students.loaded_bytes) == ([], 0)
    for reference in ("screw", "screw@1", "screw"):
        assert scale_of(students, reference) == 2.0
    assert opened == ["screw@1"]
    assert students.loaded_bytes > 0


def test_new_version_answers_the_next_request(store):
    publish_trained(store, scale=1.0)
    students = cache(store)
    assert scale_of(students, "screw") == 1.0
    publish_trained(store, scale=2.0)
    publish_trained(store, scale=3.0, activate=False)
    assert scale_of(students, "screw") == 2.0
    assert scale_of(students, "screw@3") == 3.0
    store.activate("screw", 1, "ada", AT)
    assert scale_of(students, "screw") == 1.0
    assert students.get("screw").record.version == 1


def test_products_are_answered_by_their_own_students(store, opened):
    for number, name in enumerate("abc", start=1):
        publish_trained(store, name, scale=float(number))
    students = cache(store)
    for _ in range(2):
        assert [scale_of(students, name) for name in "abc"] == [1.0, 2.0, 3.0]
    assert opened == ["a@1", "b@1", "c@1"]


def test_versions_that_share_students_share_what_is_loaded(store, opened):
    base = publish_trained(store)
    students = cache(store)
    students.get("screw")
    size = students.loaded_bytes
    change_student_thresholds(store, base, {"threshold": 0.5}, "bob")
    publish_trained(store, "nut")
    assert students.get("screw").record.threshold == 0.5
    assert students.get("screw@1").record == base
    assert students.get("nut").record.product == "nut"
    assert opened == ["screw@1"]
    assert students.loaded_bytes == size


def test_least_recently_used_students_leave_first(store, opened):
    for number, name in enumerate("abc", start=1):
        publish_trained(store, name, scale=float(number))
    one = cache(store)
    one.get("a")
    students = cache(store, max_bytes=2 * one.loaded_bytes)
    opened.clear()
    for name in "abacab":
        students.get(name)
        assert students.loaded_bytes <= 2 * one.loaded_bytes
    assert opened == ["a@1", "b@1", "c@1", "b@1"]  # c pushed b out, a stayed, b came back for c


def test_students_of_exactly_the_limit_are_loaded(store):
    publish_trained(store)
    measured = cache(store)
    measured.get("screw")
    limit = measured.loaded_bytes
    assert cache(store, limit).get("screw").record.version == 1
    with pytest.raises(
        InspectionRefused, match=f"need {limit} bytes when loaded, the .* {limit - 1}"
    ):
        cache(store, limit - 1).get("screw")


def test_what_cannot_be_loaded_pushes_no_other_out(store, opened):
    publish_trained(store, "sound")
    publish_trained(store, "damaged", scale=2.0)
    path = store.file("damaged", 1, STUDENTS_FILE)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"x")
    measured = cache(store)
    measured.get("sound")
    students = cache(store, measured.loaded_bytes)
    students.get("sound")
    opened.clear()
    for _ in range(2):
        with pytest.raises(InspectionRefused, match="are damaged; train the product again"):
            students.get("damaged")
    students.get("sound")
    assert opened == []
    path.write_bytes(sound)  # put right by hand
    assert students.get("damaged").record.product == "damaged"


def test_students_of_another_backbone_are_refused(store):
    publish_trained(store)
    with pytest.raises(
        InspectionRefused, match="trained for l2bt_screw_28 with backbone a{12}, but"
    ):
        cache(store, digest="e" * 64).get("screw")


def test_record_that_is_replaced_by_hand_is_read_again(store, opened):
    record = publish_trained(store)
    students = cache(store)
    assert students.get("screw").record.threshold == record.threshold
    path = store.file("screw", 1, BUNDLE_FILE)
    path.write_text(replace(record, threshold=0.75).to_json())
    assert students.get("screw").record.threshold == 0.75
    path.write_text(replace(record, backbone=record.backbone | {"onnx_sha256": "e" * 64}).to_json())
    with pytest.raises(InspectionRefused, match="with backbone e{12}"):
        students.get("screw")
    assert opened == ["screw@1"]


def test_records_kept_are_bounded(store, monkeypatch):
    monkeypatch.setattr(students_cache, "MAX_RECORDS", 2)
    for name in "abc":
        publish_trained(store, name)
    students = cache(store)
    for name in "abcabc":
        assert students.get(name).record.product == name
    assert len(students._records) == 2


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nut", "unknown product 'nut'; trained for L2BT are: screw"),
        ("screw@2", r"no version 2; it has \[1\]"),
        ("screw@0", "is not a name"),
        ("../screw", "is not a name"),
        ("", "is not a name"),
        (".lock", "is not a name"),
    ],
)
def test_product_that_is_none_is_refused(store, reference, reason):
    publish_trained(store)
    with pytest.raises(InspectionRefused, match=reason):
        cache(store).get(reference)


def test_deleted_version_answers_no_more(store):
    publish_trained(store)
    publish_trained(store, scale=2.0)
    students = cache(store)
    assert scale_of(students, "screw@1") == 1.0
    store.delete("screw", 1, "ada", AT)
    with pytest.raises(InspectionRefused, match="no version 1"):
        students.get("screw@1")
    store.delete("screw", None, "ada", AT)
    with pytest.raises(InspectionRefused, match="unknown product"):
        students.get("screw")
    assert publish_trained(store, scale=4.0).version == 3
    assert scale_of(students, "screw") == 4.0
    assert np.isclose(
        students.get("screw").record.threshold, store.read_bundle("screw", 3).threshold
    )
