"""The client's records are the server's, field by field, and hold what JSON may say."""

from __future__ import annotations

import dataclasses
import json
from typing import get_type_hints

import pytest
from fake_products import version_report
from fake_students import students_report

import bundle as server
import change_log
import students_record
import version_record
from dinspect_client import (
    LoggedChange,
    ProductVersion,
    ProtocolMismatch,
    StudentsVersion,
    records,
    versions,
)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (versions.ProductVersion, server.Bundle),
        (versions.StudentsVersion, students_record.StudentsRecord),
        (versions.TokenDistance, students_record.Distance),
        (versions.Preprocessing, server.Preprocessing),
        (versions.Scoring, server.Scoring),
        (versions.Region, server.Region),
        (versions.Calibration, version_record.Calibration),
        (versions.Change, version_record.Change),
        (versions.VersionRecord, version_record.VersionRecord),
        (LoggedChange, change_log.LoggedChange),
    ],
)
def test_fields_are_those_of_the_servers_record(ours, theirs) -> None:
    assert [f.name for f in dataclasses.fields(ours)] == [
        f.name for f in dataclasses.fields(theirs)
    ]


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        ("Preprocessing", server),
        ("Scoring", server),
        ("TokenDistance", students_record),
        ("Region", server),
        ("Calibration", version_record),
        ("Change", version_record),
    ],
)
def test_plain_fields_have_the_servers_types(kind, module) -> None:
    """Lists are tuples and objects are records here; all else is the same."""
    ours = get_type_hints(getattr(versions, kind))
    theirs = get_type_hints(getattr(module, kind.removeprefix("Token")))
    plain = {name for name, hint in theirs.items() if hint in (str, int, float, bool)}
    assert plain
    assert {name: ours[name] for name in plain} == {name: theirs[name] for name in plain}


def test_servers_own_record_comes_back_as_it_was() -> None:
    record = server.Bundle.from_json(json.dumps(version_report("screw", 3)))
    report = json.loads(json.dumps(dataclasses.asdict(record)))

    version = ProductVersion.from_report(report)

    assert json.loads(json.dumps(version.to_dict())) == report
    assert version.preprocessing.rotations_deg == (0, 45, 90, 135, 180, 225, 270, 315)
    assert version.references[1].name == "b.png"


def test_servers_own_record_of_students_comes_back_as_it_was() -> None:
    record = students_record.StudentsRecord.from_json(json.dumps(students_report("screw", 3)))
    report = json.loads(json.dumps(dataclasses.asdict(record)))

    version = StudentsVersion.from_report(report)

    assert json.loads(json.dumps(version.to_dict())) == report
    assert (version.reference, version.layers, version.training["epochs"]) == (
        "screw@3",
        (8, 12),
        50,
    )
    assert version.distance == versions.TokenDistance("l2", "euclidean", "product")


@pytest.mark.parametrize("kind", versions.VERSION_KINDS.values())
def test_record_of_one_method_is_none_of_the_other(kind) -> None:
    reports = {"anomaly_dino": version_report("screw", 3), "l2bt": students_report("screw", 3)}

    assert kind.from_report(reports.pop(kind.METHOD)).method == kind.METHOD
    with pytest.raises(ProtocolMismatch, match="lacks"):
        kind.from_report(reports.popitem()[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [8]}, "layers has 1 values, expected 2"),
        ({"sigma_px": None}, "sigma_px is None, expected int or float"),
        ({"training": []}, r"training is \[\], expected dict"),
        (
            {"distance": {"normalisation": "l2", "metric": "cosine"}},
            r"lacks 'distance\.combination'",
        ),
        ({"backbone": {}}, r"lacks 'backbone\.name'"),
    ],
)
def test_field_of_students_of_another_form_is_named(changes, message) -> None:
    with pytest.raises(ProtocolMismatch, match=message):
        StudentsVersion.from_report(students_report("screw", 3, **changes))


def test_measured_loss_is_what_the_server_measures() -> None:
    import numpy as np

    from nearest_neighbours import CosineSearch
    from search_loss import measure_loss

    rows = np.eye(4, dtype=np.float32)
    search = CosineSearch(rows[:2], 4, "fp32")
    report = version_report("screw", 3)
    report["scoring"]["measured_loss"] = measure_loss(search, rows, [rows], 1)

    loss = ProductVersion.from_report(report).scoring.measured_loss

    assert loss.images == 1
    assert (loss.max_distance_error, loss.mean_distance_error) == (1.0, 0.5)


def test_what_a_newer_server_adds_is_left_out() -> None:
    report = version_report("screw", 3) | {"lighting": "ring"}
    report["scoring"] = report["scoring"] | {"temperature": 1.0}

    assert ProductVersion.from_report(report).to_dict() == version_report("screw", 3)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", "3", "version is '3', expected int"),
        ("version", True, "version is True, expected int"),
        ("version", 3.0, r"version is 3\.0, expected int"),
        ("threshold", None, "threshold is None, expected int or float"),
        ("threshold", float("nan"), "threshold is nan, expected a finite number"),
        ("threshold", float("inf"), "threshold is inf, expected a finite number"),
        ("threshold", 10**400, "threshold is inf, expected a finite number"),
        ("threshold", True, "threshold is True"),
        ("grid", [1], "grid has 1 values, expected 2"),
        ("grid", [1, "2"], r"grid\[1\] is '2', expected int"),
        ("grid", {"rows": 1}, "expected list"),
        ("preprocessing.masked", 1, r"preprocessing\.masked is 1, expected bool"),
        ("preprocessing.masking_test", [], r"preprocessing\.masking_test is \[\], expected dict"),
        ("calibration.reference_scores", [0.5, "x"], r"reference_scores\[1\] is 'x'"),
        (
            "calibration.good_images",
            [{"name": "a"}],
            r"lacks 'calibration\.good_images\[0\]\.sha256'",
        ),
        ("scoring", None, "scoring is None, expected dict"),
        ("scoring.measured_loss", {}, r"lacks 'scoring\.measured_loss\.images'"),
        ("region.inspected", "1" * 1000, r"1\.\.\., expected list"),
        ("backbone.search_precision", None, r"backbone\.search_precision is None, expected str"),
    ],
)
def test_field_of_another_form_is_named(path, value, message) -> None:
    report = version_report("screw", 3)
    target = report
    *parents, name = path.split(".")
    for parent in parents:
        target = target[parent]
    target[name] = value

    with pytest.raises(ProtocolMismatch, match=message):
        ProductVersion.from_report(report)


@pytest.mark.parametrize("report", [None, [], "screw", 3])
def test_report_that_is_no_object_is_malformed(report) -> None:
    with pytest.raises(ProtocolMismatch, match="malformed"):
        ProductVersion.from_report(report)


def test_whole_numbers_are_distances_too() -> None:
    version = ProductVersion.from_report(version_report("screw", 3, threshold=1))

    assert (version.threshold, type(version.threshold)) == (1.0, float)


def test_records_cannot_be_changed_and_are_compared_by_value() -> None:
    version = ProductVersion.from_report(version_report("screw", 3))

    assert version == ProductVersion.from_report(version_report("screw", 3))
    assert version != ProductVersion.from_report(version_report("screw", 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        version.threshold = 0.0


def test_mappings_and_lists_of_a_record_become_plain_json() -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        items: tuple[int, ...]

    assert records.record_to_json((Inner((1, 2)), None, "x")) == [{"items": [1, 2]}, None, "x"]
