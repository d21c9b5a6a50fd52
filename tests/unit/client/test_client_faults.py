from __future__ import annotations

import json
import time

import grpc
import numpy as np
import pytest
from fake_server import (
    ENSEMBLE,
    GRID,
    FakeTriton,
    Fault,
    bytes_array,
    serving,
)

from dinspect_client import (
    InspectionClient,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
    Verdict,
    wire,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_missing_ensemble_is_model_unavailable(client, triton, image_path) -> None:
    del triton.models[ENSEMBLE]

    with pytest.raises(ModelUnavailable, match=f"{ENSEMBLE!r} is not served") as caught:
        client.inspect("screw", image_path)

    assert caught.value.status == "NOT_FOUND"


def test_model_that_is_loading_is_model_unavailable(client, triton, image_path) -> None:
    triton.faults[ENSEMBLE] = Fault(UNAVAILABLE, "version 1 is not at ready state", 2)
    triton.not_ready.add(ENSEMBLE)

    with pytest.raises(ModelUnavailable, match="not at ready state"):
        client.inspect("screw", image_path)


def test_models_own_not_found_is_a_refusal(client, triton, image_path) -> None:
    triton.faults[ENSEMBLE] = Fault(grpc.StatusCode.NOT_FOUND, "version 9 of screw is not kept")

    with pytest.raises(RequestRejected, match="version 9"):
        client.inspect("screw", image_path)


def test_unavailable_once_is_retried(client, triton, image_path) -> None:
    triton.faults[ENSEMBLE] = Fault(UNAVAILABLE, "Exceeds maximum queue size", times=1)

    assert client.inspect("screw", image_path).verdict is Verdict.NORMAL
    first, second = triton.requests_to(ENSEMBLE)
    assert first.id == second.id


def test_unavailable_twice_is_given_up(client, triton, image_path) -> None:
    triton.faults[ENSEMBLE] = Fault(UNAVAILABLE, "Exceeds maximum queue size", times=5)

    with pytest.raises(ServerUnreachable, match="maximum queue size"):
        client.inspect("screw", image_path)

    assert len(triton.requests_to(ENSEMBLE)) == 2


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS]
)
def test_fault_is_not_retried(client, triton, image_path, code) -> None:
    triton.faults[ENSEMBLE] = Fault(code, "Stub process is not healthy", times=5)

    with pytest.raises(ServerFault, match="not healthy"):
        client.inspect("screw", image_path)

    assert len(triton.requests_to(ENSEMBLE)) == 1


def test_slow_answer_is_a_timeout(triton, url, image_path) -> None:
    with InspectionClient(url, timeout_s=5) as patient:
        patient.products()
    triton.delay_s = 1.0

    with InspectionClient(url, timeout_s=0.3) as client, pytest.raises(RequestTimeout) as caught:
        client.inspect("screw", image_path)

    assert caught.value.status == "DEADLINE_EXCEEDED"


def test_nobody_listening_is_unreachable(closed_url, image_path) -> None:
    with InspectionClient(closed_url) as client:
        with pytest.raises(ServerUnreachable, match=closed_url):
            client.inspect("screw", image_path)
        with pytest.raises(ServerUnreachable, match=closed_url):
            client.server_version()


def test_restarted_server_is_found_again(image_path) -> None:
    triton = FakeTriton()
    with serving(triton) as url:
        client = InspectionClient(url)
        client.inspect("screw", image_path)
    with pytest.raises(ServerUnreachable):
        client.inspect("screw", image_path)

    with serving(triton, port=int(url.rpartition(":")[2])), client:
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.inspect("screw", image_path).verdict is Verdict.NORMAL
                break
            except ServerUnreachable:
                assert time.monotonic() < deadline


@pytest.mark.parametrize("missing", [spec.name for spec in wire.INSPECTION_OUTPUTS])
def test_answer_without_an_output_is_refused(client, triton, image_path, missing) -> None:
    def drop(response) -> None:
        names = [output.name for output in response.outputs]
        if missing in names:
            del response.raw_output_contents[names.index(missing)]
            del response.outputs[names.index(missing)]

    triton.tamper = drop

    with pytest.raises(ProtocolMismatch, match=f"lacks output '{missing}'") as caught:
        client.inspect("screw", image_path)

    assert caught.value.model_name == ENSEMBLE
    assert caught.value.request_id == triton.requests[-1].id


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name", ["anomaly_score", "threshold", "normal_below", "patch_distances", "anomaly_map"]
)
def test_answer_that_is_not_finite_is_refused(client, triton, image_path, name, value) -> None:
    shapes = {"patch_distances": GRID, "anomaly_map": (30, 40)}
    spoilt = np.zeros(shapes.get(name, (1,)))
    spoilt.flat[-1] = value
    triton.outputs[name] = spoilt

    with pytest.raises(ServerFault, match=f"'{name}' holds values that are not finite"):
        client.inspect("screw", image_path)


def test_answer_without_its_bytes_is_refused(client, triton, image_path) -> None:
    def empty(response) -> None:
        if response.model_name == ENSEMBLE:
            response.raw_output_contents[0] = b""

    triton.tamper = empty

    with pytest.raises(ServerFault, match="does not hold what its shape"):
        client.inspect("screw", image_path)


def test_answer_of_another_datatype_is_refused(client, triton, image_path) -> None:
    def retype(response) -> None:
        if response.model_name == ENSEMBLE:
            response.outputs[0].datatype = "INT32"

    triton.tamper = retype

    with pytest.raises(ProtocolMismatch, match="datatype INT32, expected FP32"):
        client.inspect("screw", image_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anomaly_score", np.zeros(2)),
        ("anomaly_score", np.zeros((1, 1))),
        ("patch_distances", np.zeros(4)),
        ("patch_distances", np.zeros((0, 4))),
        ("verdict", np.zeros(0)),
    ],
)
def test_answer_of_another_shape_is_refused(client, triton, image_path, name, value) -> None:
    triton.outputs[name] = value

    with pytest.raises(ProtocolMismatch, match=f"'{name}' has shape"):
        client.inspect("screw", image_path)


@pytest.mark.parametrize("code", [-1, 3])
def test_unknown_verdict_is_refused(client, triton, image_path, code: int) -> None:
    triton.outputs["verdict"] = np.array([code])

    with pytest.raises(ProtocolMismatch, match=f"verdict is {code}"):
        client.inspect("screw", image_path)


def test_normal_above_the_threshold_is_refused(client, triton, image_path) -> None:
    triton.outputs["anomaly_score"] = np.array([0.75])

    with pytest.raises(ServerFault, match=r"normal, but score 0\.75 is above normal_below 0\.375"):
        client.inspect("screw", image_path)


SLIGHTLY = 2.0**-20  # so that all numbers are exact in FP32


@pytest.mark.parametrize(
    ("verdict", "score", "answered"),
    [
        (Verdict.NORMAL, 0.0, True),
        (Verdict.NORMAL, 0.375, True),  # at the lower threshold
        (Verdict.NORMAL, 0.375 + SLIGHTLY, False),
        (Verdict.NORMAL, 0.5, False),
        (Verdict.UNDECIDED, 0.0, True),  # a server may have doubts that no score tells
        (Verdict.UNDECIDED, 0.5, True),  # at the upper threshold
        (Verdict.UNDECIDED, 0.5 + SLIGHTLY, False),
        (Verdict.ANOMALOUS, 0.5 + SLIGHTLY, True),
        (Verdict.ANOMALOUS, 0.25, True),  # too strict is never a wrong "OK"
    ],
)
def test_verdict_must_not_be_milder_than_the_thresholds(
    client, triton, image_path, verdict, score, answered
) -> None:
    triton.outputs |= {"verdict": np.array([verdict]), "anomaly_score": np.array([score])}

    if answered:
        assert client.inspect("screw", image_path).verdict is verdict
    else:
        with pytest.raises(ServerFault, match=f"{verdict.name.lower()}, but score {score}"):
            client.inspect("screw", image_path)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_lower_threshold_above_the_upper_is_refused(client, triton, image_path, verdict) -> None:
    triton.outputs |= {"normal_below": np.array([0.625]), "verdict": np.array([verdict])}

    with pytest.raises(ServerFault, match=r"normal_below 0\.625 is above threshold 0\.5"):
        client.inspect("screw", image_path)


def test_one_threshold_for_both_is_an_answer(client, triton, image_path) -> None:
    triton.outputs |= {"normal_below": np.array([0.5]), "anomaly_score": np.array([0.5])}

    assert client.inspect("screw", image_path).verdict is Verdict.NORMAL


def region_of(**changes):
    return {"box_px": [30, 20, 10, 10], "area_px": 1, "peak": 1.0, "peak_at_px": [39, 29]} | changes


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([region_of(box_px=[31, 20, 10, 10])], "none of a map"),  # over the right edge
        ([region_of(box_px=[30, 21, 10, 10])], "none of a map"),  # over the lower edge
        ([region_of(box_px=[-1, 20, 41, 10])], "none of a map"),
        ([region_of(box_px=[30, 20, 9, 10])], "none of a map"),  # without its peak
        ([region_of(box_px=[30, 20, 10, 9])], "none of a map"),
        ([region_of(area_px=0)], "none of a map"),
        ([region_of(area_px=101)], "none of a map"),
        ([region_of(peak=0.99)], "none of a map"),  # not the map's value there
        ([region_of(peak=1e300)], "none of a map"),
        (
            [region_of(box_px=[0, 0, 1, 1], peak=0.0, peak_at_px=[0, 0]), region_of()],
            "do not begin with the highest peak",
        ),
    ],
)
def test_defect_region_that_is_not_of_the_map_is_refused(
    client, triton, image_path, regions, message
) -> None:
    triton.outputs["defect_regions"] = bytes_array(json.dumps(regions))

    with pytest.raises(ServerFault, match=message):
        client.inspect("screw", image_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "JSON dict, expected list"),
        ("[1]", "malformed"),
        ("nonsense", "is not JSON"),
        (json.dumps([region_of(box_px=[1, 2, 3])]), r"box_px has 3 values, expected 4"),
        (json.dumps([region_of(area_px=1.5)]), r"area_px is 1\.5, expected int"),
        (json.dumps([region_of(peak=float("nan"))]), "peak is nan, expected a finite number"),
        ('[{"box_px": [0, 0, 1, 1]}]', "lacks 'area_px'"),
    ],
)
def test_malformed_defect_regions_are_a_mismatch(client, triton, image_path, text, message) -> None:
    triton.outputs["defect_regions"] = bytes_array(text)

    with pytest.raises(ProtocolMismatch, match=message) as caught:
        client.inspect("screw", image_path)

    assert caught.value.model_name == ENSEMBLE
    assert caught.value.request_id == triton.requests[-1].id


def test_map_of_another_size_than_the_array_is_refused(client, triton, image_rgb) -> None:
    triton.outputs["anomaly_map"] = np.zeros((40, 30))

    with pytest.raises(ServerFault, match=r"\(40, 30\) for an image of \(30, 40\)"):
        client.inspect("screw", image_rgb)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs, outputs: outputs.pop("verdict"), "output 'verdict' is missing"),
        (lambda inputs, outputs: outputs.update(verdict="FP32"), "'verdict' is FP32, expected"),
        (lambda inputs, outputs: inputs.pop("image"), "input 'image' is missing"),
        (lambda inputs, outputs: inputs.update(mask="UINT8"), "unknown input 'mask'"),
    ],
)
def test_other_metadata_than_the_contract_is_refused(
    client, triton, image_path, change, message
) -> None:
    change(*triton.models[ENSEMBLE])

    with pytest.raises(ProtocolMismatch, match=message):
        client.inspect("screw", image_path)

    assert triton.requests_to(ENSEMBLE) == []


def test_metadata_is_asked_for_once_until_the_model_goes_away(client, triton, image_path) -> None:
    for _ in range(3):
        client.inspect("screw", image_path)
    assert triton.metadata_requests.count(ENSEMBLE) == 1

    triton.faults[ENSEMBLE] = Fault(grpc.StatusCode.NOT_FOUND, "unknown model", times=1)
    triton.not_ready.add(ENSEMBLE)
    with pytest.raises(ModelUnavailable):
        client.inspect("screw", image_path)
    client.inspect("screw", image_path)
    assert triton.metadata_requests.count(ENSEMBLE) == 2


def test_additional_output_is_no_mismatch(client, triton, image_path) -> None:
    triton.models[ENSEMBLE][1]["regions"] = "BYTES"

    assert client.inspect("screw", image_path).verdict is Verdict.NORMAL
