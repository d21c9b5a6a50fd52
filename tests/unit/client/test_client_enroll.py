from __future__ import annotations

import json

import cv2
import grpc
import numpy as np
import pytest
from fake_server import ENSEMBLE, Fault, decode_inputs, product_report

from dinspect_client import (
    InvalidImageError,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    ServerFault,
    ServerUnreachable,
    codec,
)


def sent_parts(triton):
    """Names, images and options of each part."""
    inputs = [decode_inputs(request) for request in triton.requests_to("enroll")]
    return [(json.loads(part["options"][0]), list(part["images"])) for part in inputs]


def test_small_enrolment_is_one_part_that_commits(client, triton, image_path) -> None:
    enrollment = client.enroll("screw", [image_path])

    ((options, images),) = sent_parts(triton)
    assert options.keys() == {"session", "commit", "image_names", "num_staged"}
    assert options["commit"] is True
    assert options["image_names"] == ["part.png"]
    assert images == [image_path.read_bytes()]
    assert enrollment.bundle_version == 4
    assert enrollment.num_references == 1
    assert enrollment.calibration.reference_scores == (0.25, 0.375)
    assert enrollment.backbone.name == "vits14"


def test_large_enrolment_travels_in_parts_of_one_session(client, triton) -> None:
    progress: list[tuple[int, int]] = []

    client.enroll(
        "screw", [b"%d" % n for n in range(17)], on_progress=lambda *done: progress.append(done)
    )

    parts = sent_parts(triton)
    assert [len(images) for _, images in parts] == [8, 8, 1]
    assert [options["commit"] for options, _ in parts] == [False, False, True]
    assert len({options["session"] for options, _ in parts}) == 1
    assert [image for _, images in parts for image in images] == [b"%d" % n for n in range(17)]
    assert parts[1][0]["image_names"][0] == "image-9"
    assert progress == [(8, 17), (16, 17), (17, 17)]


def test_last_full_part_commits(client, triton) -> None:
    client.enroll("screw", [b"x"] * 16)

    assert [options["commit"] for options, _ in sent_parts(triton)] == [False, True]


def test_each_enrolment_has_its_own_session(client, triton) -> None:
    client.enroll("screw", [b"x"])
    client.enroll("screw", [b"x"])

    first, second = sent_parts(triton)
    assert first[0]["session"] != second[0]["session"]


def test_parts_are_cut_by_bytes_too(monkeypatch) -> None:
    monkeypatch.setattr(codec, "BYTES_PER_PART", 10)

    parts = codec.image_parts([b"x" * size for size in (4, 6, 1, 30, 9, 1, 1)])

    assert [[len(data) for _, data in part] for part in parts] == [[4, 6], [1], [30], [9, 1], [1]]


def test_options_given_are_sent_and_no_others(client, triton) -> None:
    client.enroll(
        "screw", [b"x"], resolution=672, false_positive_rate=0.01, threshold=0.0, operator="ada"
    )

    options = sent_parts(triton)[0][0]
    del options["session"], options["commit"], options["image_names"], options["num_staged"]
    assert options == {
        "resolution": 672,
        "false_positive_rate": 0.01,
        "threshold": 0.0,
        "operator": "ada",
    }


def test_request_has_no_batch_dimension(client, triton) -> None:
    client.enroll("screw", [b"x", b"y"])

    inputs = decode_inputs(triton.requests_to("enroll")[0])
    assert {name: array.shape for name, array in inputs.items()} == {
        "product": (1,),
        "images": (2,),
        "options": (1,),
    }


def test_zero_bytes_at_the_end_of_an_image_arrive(client, triton) -> None:
    client.enroll("screw", [b"x\0\0"])

    assert sent_parts(triton)[0][1] == [b"x\0\0"]


def test_array_is_sent_without_loss(client, triton, image_rgb) -> None:
    client.enroll("screw", [image_rgb])

    data = np.frombuffer(sent_parts(triton)[0][1][0], np.uint8)
    sent = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    np.testing.assert_array_equal(sent, image_rgb)


@pytest.mark.parametrize("name", ["", "screw@3", "a b", "x" * 65])
def test_unfit_name_is_refused_before_anything_is_sent(client, triton, name) -> None:
    with pytest.raises(RequestRejected, match="cannot be enrolled"):
        client.enroll(name, [b"x"])

    assert triton.requests == []


def test_no_image_is_refused(client) -> None:
    with pytest.raises(RequestRejected, match="no image"):
        client.enroll("screw", [])


def test_part_is_never_sent_twice(client, triton) -> None:
    triton.faults["enroll"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    with pytest.raises(ServerUnreachable, match="queue full"):
        client.enroll("screw", [b"x"])

    assert len(triton.requests_to("enroll")) == 1


def test_nothing_is_committed_after_an_unreadable_image(client, triton, tmp_path) -> None:
    with pytest.raises(InvalidImageError, match=r"missing\.png"):
        client.enroll("screw", [b"x"] * 8 + [tmp_path / "missing.png"])

    assert not any(options["commit"] for options, _ in sent_parts(triton))


def test_nothing_is_committed_when_the_server_lost_an_image(client, triton) -> None:
    original = triton._enroll

    def losing(inputs):
        outputs = original(inputs)
        outputs["report"][0] = outputs["report"][0].replace(b'"num_staged": 8', b'"num_staged": 7')
        return outputs

    triton._enroll = losing

    with pytest.raises(ServerFault, match="holds 7 images of 8 sent"):
        client.enroll("screw", [b"x"] * 9)

    assert len(triton.requests_to("enroll")) == 1


def test_version_from_fewer_images_than_sent_is_never_returned(client, triton) -> None:
    original = triton._enroll

    def forgetful(inputs):
        outputs = original(inputs)
        outputs["report"][0] = outputs["report"][0].replace(
            b'"num_references": 9', b'"num_references": 1'
        )
        return outputs

    triton._enroll = forgetful

    with pytest.raises(ServerFault, match="enrolled from 1 images, 9 were sent; do not use it"):
        client.enroll("screw", [b"x"] * 9)


def test_server_without_enrolment_is_told(client, triton) -> None:
    del triton.models["enroll"]

    with pytest.raises(ModelUnavailable, match="'enroll' is not served"):
        client.enroll("screw", [b"x"])


def test_new_version_is_inspected_by_its_own_ensemble(client, triton, image_path) -> None:
    client.inspect("screw", image_path)
    client.enroll("screw", [image_path])
    client.inspect("screw", image_path)

    assert len(triton.requests_to("products")) == 2


def test_enrollment_to_dict_is_the_servers_report(client) -> None:
    dictionary = json.loads(json.dumps(client.enroll("screw", [b"x"]).to_dict()))

    assert dictionary["calibration"] == {
        "method": "leave_one_out",
        "false_positive_rate": 0.01,
        "reference_scores": [0.25, 0.375],
    }
    assert dictionary["grid"] == [32, 32]
    assert dictionary["backbone"]["name"] == "vits14"


def test_products_lists_all_of_them(client, triton) -> None:
    triton.products["nut"] = product_report("nut", current=1, versions=[1])

    screw, nut = client.products()

    assert (screw.name, screw.current, screw.versions) == ("screw", 3, (1, 2, 3))
    assert screw.ensemble == ENSEMBLE
    assert screw.image_size == (300, 400)
    assert nut.versions == (1,)
    assert screw.to_dict() == triton.products["screw"]


def test_products_finds_one_by_name_or_none(client) -> None:
    assert [product.name for product in client.products("screw")] == ["screw"]
    assert client.products("nut") == []


def test_products_is_retried_when_unavailable_once(client, triton) -> None:
    triton.faults["products"] = Fault(grpc.StatusCode.UNAVAILABLE, "busy", times=1)

    assert len(client.products()) == 1


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (b"nonsense", "is not JSON"),
        (b"\xff\xfe\xfa", "is not JSON"),
        (b"{}", "JSON dict, expected list"),
        (b'[{"product": "screw"}]', "lacks 'current'"),
        (json.dumps([product_report("screw", grid=[1])]).encode(), "malformed"),
        (json.dumps([product_report("screw", threshold=None)]).encode(), "malformed"),
        (b"[3]", "malformed"),
    ],
)
def test_malformed_product_list_is_a_mismatch(client, triton, report, message) -> None:
    triton._list_products = lambda inputs: {"products": np.array([report], dtype=np.object_)}

    with pytest.raises(ProtocolMismatch, match=message):
        client.products()
