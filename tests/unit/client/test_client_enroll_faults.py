from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_server import Fault, bytes_array, decode_inputs

from dinspect_client import (
    InvalidImageError,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    ServerFault,
    ServerUnreachable,
)


def sent_options(triton):
    """Options of each part."""
    parts = [decode_inputs(request) for request in triton.requests_to("enroll")]
    return [json.loads(part["options"][0]) for part in parts]


@pytest.mark.parametrize("name", ["", "screw@3", "a b", "x" * 65])
def test_unfit_name_is_refused_before_anything_is_sent(client, triton, name) -> None:
    with pytest.raises(RequestRejected, match="cannot be enrolled"):
        client.enroll(name, [b"x"])

    assert triton.requests == []


def test_no_image_is_refused(client, triton) -> None:
    with pytest.raises(RequestRejected, match="no image to enrol"):
        client.enroll("screw", [], good_images=[b"x"])
    with pytest.raises(RequestRejected, match="no image to append"):
        client.append("screw")

    assert triton.requests == []


@pytest.mark.parametrize(
    "images", ["good/000.png", b"x", Path("good"), np.zeros((4, 4, 3), np.uint8)]
)
def test_single_image_in_place_of_a_list_is_refused(client, triton, images) -> None:
    with pytest.raises(InvalidImageError, match="single"):
        client.enroll("screw", images)

    assert triton.requests == []


def test_array_of_many_images_is_a_list_of_them(client) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)

    assert client.enroll("screw", images).num_references == 3


def test_part_is_never_sent_twice(client, triton) -> None:
    triton.faults["enroll"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    with pytest.raises(ServerUnreachable, match="queue full"):
        client.enroll("screw", [b"x"])

    assert len(triton.requests_to("enroll")) == 1


@pytest.mark.parametrize("role", ["references", "good images"])
def test_missing_or_empty_image_is_told_before_anything_is_sent(
    client, triton, tmp_path, role
) -> None:
    (tmp_path / "empty.png").touch()

    for name in ("missing.png", "empty.png"):
        images = [[b"x"] * 8 + [tmp_path / name], [b"x"]]
        references, good = images if role == "references" else reversed(images)
        with pytest.raises(InvalidImageError, match=rf"{name[:-4]}\.png"):
            client.enroll("screw", references, good_images=good)

    assert triton.requests == []


def test_enrolment_that_stops_here_is_forgotten_there(client, triton, tmp_path) -> None:
    """The file is there at first and gone when its part is due."""
    path = tmp_path / "vanishing.png"
    path.write_bytes(b"x")

    with pytest.raises(InvalidImageError, match=r"vanishing\.png"):
        client.enroll("screw", [b"x"] * 16 + [path], on_progress=lambda *_: path.unlink(True))

    assert not any(options["commit"] for options in sent_options(triton))
    assert len(sent_options(triton)) == 2  # the second ends the session
    assert triton.staged == {}


def test_interrupted_enrolment_is_forgotten_and_nothing_committed(client, triton) -> None:
    def interrupt(num_done: int, _: int) -> None:
        if num_done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.enroll("screw", [b"x"] * 17, on_progress=interrupt)

    assert not any(options["commit"] for options in sent_options(triton))
    assert triton.staged == {}


@pytest.mark.parametrize("num_parts", [1, 2])
def test_real_interrupt_of_a_part_on_its_way_is_forgotten(
    triton, start_command, tmp_path, num_parts
) -> None:
    """The server takes the part that it has begun with, whatever becomes of the caller."""
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"%d" % number)
    triton.delay_s = 0.4
    process = start_command("enroll", "screw", tmp_path)
    deadline = time.monotonic() + 30
    while len(triton.requests) < num_parts and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)

    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not any(options["commit"] for options in sent_options(triton))
    assert triton.staged == {}


def test_interrupt_survives_a_server_that_does_not_listen(client, triton) -> None:
    def interrupt(num_done: int, _: int) -> None:
        triton.faults["enroll"] = Fault(grpc.StatusCode.UNAVAILABLE, "gone", times=9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.enroll("screw", [b"x"] * 17, on_progress=interrupt)


def test_refused_part_is_the_last_one_sent(client, triton) -> None:
    with pytest.raises(RequestRejected, match="no image in a known format"):
        client.enroll("screw", [b"x"] * 8 + [b"-"] + [b"x"] * 8)

    assert len(triton.requests_to("enroll")) == 2


def test_nothing_is_committed_when_the_server_lost_an_image(client, triton) -> None:
    original = triton._enroll

    def losing(inputs):
        outputs = original(inputs)
        outputs["report"][0] = outputs["report"][0].replace(b'"num_staged": 8', b'"num_staged": 7')
        return outputs

    triton._enroll = losing

    with pytest.raises(ServerFault, match="holds 7 images of 8 sent"):
        client.enroll("screw", [b"x"] * 9)

    assert not any(options["commit"] for options in sent_options(triton))
    assert triton.staged == {}


def test_version_from_fewer_images_than_sent_is_never_returned(client, triton) -> None:
    original = triton._enroll

    def forgetful(inputs):
        outputs = original(inputs)
        outputs["report"][0] = outputs["report"][0].replace(
            b'"num_references": 9', b'"num_references": 1'
        )
        return outputs

    triton._enroll = forgetful

    with pytest.raises(ServerFault, match="1 references, but 9 named"):
        client.enroll("screw", [b"x"] * 9)


def tampered_report(triton, change) -> None:
    """Let the server commit, and say something else."""
    original = triton._enroll

    def tampering(inputs):
        outputs = original(inputs)
        report = json.loads(outputs["report"][0])
        if "references" in report:
            change(report)
        outputs["report"] = bytes_array(json.dumps(report))
        return outputs

    triton._enroll = tampering


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda report: report.update(version=5), "bundle_version is 4, the report is of screw@5"),
        (lambda report: report.update(version=0), "it is about screw@0"),
        (lambda report: report.update(product="nut"), "it is about nut@4, asked was screw"),
        (lambda report: report.update(threshold=0.51), r"threshold is 0\.5, the report says 0\.51"),
        (
            lambda report: report["references"][0].update(sha256="00"),
            "from 2 reference images that are not the 2 that were sent; do not use it",
        ),
        (
            lambda report: report["references"].reverse(),
            "from 2 reference images that are not the 2 that were sent",
        ),
        (
            lambda report: report.update(
                num_references=3, references=[report["references"][0], *report["references"]]
            ),
            "from 3 reference images that are not the 2 that were sent",
        ),
        (
            lambda report: report["calibration"].update(good_images=[]),
            "from 0 good images that are not the 1 that were sent",
        ),
    ],
)
def test_version_of_something_else_is_never_returned(client, triton, change, message) -> None:
    tampered_report(triton, change)

    with pytest.raises(ServerFault, match=message) as caught:
        client.enroll("screw", [b"x", b"y"], good_images=[b"g"])

    assert caught.value.request_id == triton.requests[-1].id


def test_version_without_the_appended_image_is_never_returned(client, triton) -> None:
    tampered_report(
        triton, lambda report: report.update(num_references=2, references=report["references"][:2])
    )

    with pytest.raises(ServerFault, match="not the 1 that were sent"):
        client.append("screw", [b"x"])


def test_malformed_record_is_a_mismatch_that_names_the_request(client, triton) -> None:
    tampered_report(triton, lambda report: report["scoring"].pop("search"))

    with pytest.raises(ProtocolMismatch, match=r"lacks 'scoring\.search'") as caught:
        client.enroll("screw", [b"x"])

    assert caught.value.request_id == triton.requests[-1].id


def test_server_without_enrolment_is_told(client, triton) -> None:
    del triton.models["enroll"]

    with pytest.raises(ModelUnavailable, match="'enroll' is not served"):
        client.enroll("screw", [b"x"])


def test_new_version_is_inspected_by_its_own_ensemble(client, triton, image_path) -> None:
    client.inspect("screw", image_path)
    client.enroll("screw", [image_path])
    client.inspect("screw", image_path)

    assert len(triton.requests_to("products")) == 2


def test_version_to_dict_is_the_servers_record(client, triton) -> None:
    reports = []
    tampered_report(triton, reports.append)

    dictionary = client.enroll("screw", [b"x"]).to_dict()

    assert json.loads(json.dumps(dictionary)) == reports[-1]
