from __future__ import annotations

import pickle

import grpc
import pytest

from dinspect_client import errors
from dinspect_client.errors import (
    InspectionError,
    InvalidImageError,
    ModelUnavailable,
    ProductFileError,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
    error_from_status,
)

EXPECTED = {
    "INVALID_ARGUMENT": RequestRejected,
    "UNAVAILABLE": ServerUnreachable,
    "DEADLINE_EXCEEDED": RequestTimeout,
    "NOT_FOUND": ModelUnavailable,
    "INTERNAL": ServerFault,
    "CANCELLED": ServerUnreachable,
    "UNAUTHENTICATED": ServerUnreachable,
    "UNIMPLEMENTED": RequestRejected,
}


def test_table_covers_exactly_the_statuses_of_grpc() -> None:
    assert set(errors._ERROR_BY_STATUS) == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_status_maps_when_given_as_code_or_as_text(code: grpc.StatusCode) -> None:
    as_code = error_from_status(code, "reason", url="host:1")
    as_text = error_from_status(f"StatusCode.{code.name}", "reason", url="host:1")

    assert type(as_code) is type(as_text)
    assert type(as_code) is not InspectionError
    assert as_code.status == as_text.status == code.name
    assert "reason" in str(as_code)
    assert type(as_code) is EXPECTED.get(code.name, type(as_code))


def test_missing_status_and_reason_give_a_fault() -> None:
    error = error_from_status(None, None, url="host:1")

    assert type(error) is ServerFault
    assert error.status == "UNKNOWN"
    assert "no reason given" in str(error)


@pytest.mark.parametrize(
    ("status", "model_ready", "expected"),
    [
        ("NOT_FOUND", True, RequestRejected),
        ("NOT_FOUND", False, ModelUnavailable),
        ("UNAVAILABLE", True, ServerUnreachable),
        ("UNAVAILABLE", False, ModelUnavailable),
        ("INTERNAL", False, ServerFault),
    ],
)
def test_readiness_tells_the_server_from_the_model_in_it(status, model_ready, expected) -> None:
    error = error_from_status(status, "reason", url="host:1", model_ready=model_ready)

    assert type(error) is expected


@pytest.mark.parametrize(
    "raw",
    [
        "in ensemble 'anomaly_dino_448', image is empty",
        "in ensemble 'outer', in ensemble 'inner', image is empty",
        "image is empty",
    ],
)
def test_reason_loses_the_ensembles_but_the_raw_text_stays(raw: str) -> None:
    error = error_from_status("INVALID_ARGUMENT", raw, url="host:1", model_name="m")

    assert str(error) == "image is empty"
    assert error.status_message == raw
    assert error.model_name == "m"


def test_fault_shows_the_first_line_only() -> None:
    raw = "ValueError: broken\nAt:\n  /models/cosine_knn/1/model.py(3): execute"
    error = error_from_status("INTERNAL", raw, url="host:1", model_name="m")

    assert str(error) == "model 'm' at host:1 failed: ValueError: broken"
    assert error.status_message == raw


@pytest.mark.parametrize("kind", [InspectionError, *InspectionError.__subclasses__()])
def test_errors_survive_pickling_with_all_they_know(kind: type[InspectionError]) -> None:
    error = kind("what", status="S", status_message="raw", model_name="m", request_id="r")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes

    assert type(copy) is kind
    assert str(copy) == "what"
    assert (
        vars(copy)
        == vars(error)
        == {
            "status": "S",
            "status_message": "raw",
            "model_name": "m",
            "request_id": "r",
        }
    )


def test_exit_status_tells_bad_input_from_a_missing_server() -> None:
    statuses = {kind: kind.exit_status for kind in InspectionError.__subclasses__()}

    assert statuses == {
        InvalidImageError: 2,
        ProductFileError: 2,
        RequestRejected: 2,
        ServerUnreachable: 3,
        RequestTimeout: 3,
        ModelUnavailable: 3,
        ServerFault: 3,
        ProtocolMismatch: 3,
    }


def test_every_class_is_in_the_drawn_tree() -> None:
    drawing = errors.__doc__ or ""

    for kind in InspectionError.__subclasses__():
        assert f"── {kind.__name__} " in drawing
