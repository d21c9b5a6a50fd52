"""What a training needs of the client: patch tokens to learn from, and publishing its students."""

from __future__ import annotations

import json
from types import MappingProxyType

import grpc
import numpy as np
import pytest
from fake_products import sha256
from fake_server import PATCH_TOKENS, Fault, bytes_array, decode_inputs

from dinspect_client import (
    InspectionClient,
    InvalidImageError,
    ModelUnavailable,
    ProductFileError,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
    wire,
)

TRAINING = {"grid": [32, 32], "training": {"epochs": 50}, "threshold": None}
STUDENTS, GOOD_PARTS = b"graph" * 50, b"distances" * 20


def publish(client, product: str = "screw", **options):
    return client.publish_students(product, TRAINING, STUDENTS, GOOD_PARTS, **options)


def sent(triton) -> list[tuple[dict, bytes]]:
    """Request and content of each request to `manage`."""
    found = []
    for request in triton.requests_to("manage"):
        inputs = decode_inputs(request)
        content = inputs["content"][0] if "content" in inputs else b""
        found.append((json.loads(inputs["request"][0]), content))
    return found


@pytest.fixture
def _small_parts(monkeypatch) -> None:
    monkeypatch.setattr(wire, "MAX_CONTENT_BYTES", 100)


def test_published_students_are_a_version_of_what_was_sent(client, triton) -> None:
    version = publish(client, operator="ada")

    assert version.reference == "screw@3"
    assert version.change.action == "published"
    assert version.students_sha256 == sha256(STUDENTS)
    assert version.training == TRAINING  # as the fake server repeats it, nulls included
    files = triton.students.files["screw", 3]
    assert (files["students.onnx"], files["good_parts.safetensors"]) == (STUDENTS, GOOD_PARTS)
    assert triton.students.current["screw"] == 3


@pytest.mark.usefixtures("_small_parts")
def test_files_travel_in_parts_of_one_session_one_after_the_other(client, triton) -> None:
    publish(client, operator="ada")

    asked = [one for one, _ in sent(triton)]
    assert [(one["file"], one["offset"]) for one in asked] == [
        ("training.json", 0),
        ("students.onnx", 0), ("students.onnx", 100), ("students.onnx", 200),
        ("good_parts.safetensors", 0), ("good_parts.safetensors", 100),
    ]  # fmt: skip
    assert [len(content) for _, content in sent(triton)][1:] == [100, 100, 50, 100, 80]
    assert [one["commit"] for one in asked] == [False] * 5 + [True]
    assert [one.get("activate") for one in asked] == [None] * 5 + [True]
    assert len({one["session"] for one in asked}) == 1
    assert {(one["operation"], one["method"], one["operator"]) for one in asked} == {
        ("publish", "l2bt", "ada")
    }


def test_two_publications_are_two_sessions(client, triton) -> None:
    publish(client)
    publish(client)

    assert len({one["session"] for one, _ in sent(triton)}) == 2


@pytest.mark.usefixtures("_small_parts")
def test_progress_counts_bytes_up_to_all_of_them(client) -> None:
    progress: list[tuple[int, int]] = []

    publish(client, on_progress=lambda done, total: progress.append((done, total)))

    training = len(json.dumps(TRAINING))
    total = training + len(STUDENTS) + len(GOOD_PARTS)
    assert progress[0] == (training, total)
    assert progress[-1] == (total, total)
    assert progress == sorted(progress)
    assert len(progress) == 6


def test_version_may_wait_before_it_is_in_force(client, triton) -> None:
    assert publish(client, activate=False).version == 3
    assert triton.students.current["screw"] == 2


def test_first_students_of_a_product_are_its_version_1(client, triton) -> None:
    assert publish(client, "nut").reference == "nut@1"


def test_students_are_read_from_their_file(client, triton, tmp_path) -> None:
    path = tmp_path / "students.onnx"
    path.write_bytes(STUDENTS)

    for given in (path, str(path)):
        version = client.publish_students("screw", TRAINING, given, GOOD_PARTS)
        assert version.students_sha256 == sha256(STUDENTS)


def test_numpys_numbers_and_any_mapping_are_training_too(client) -> None:
    training = MappingProxyType({"dim": np.int64(384), "sigma_px": np.float32(0.5)})

    version = client.publish_students("screw", training, STUDENTS, GOOD_PARTS)

    assert version.training == {"dim": 384, "sigma_px": 0.5}


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"loss": float("nan")}, "Out of range float"),
        ({"loss": [np.float32("inf")]}, "Out of range float"),
        ({"loss": {1, 2}}, r"\{1, 2\} has no form in JSON"),
        ({(1, 2): 3}, "keys must be str"),
    ],
)
def test_training_that_is_no_json_is_refused_before_anything_is_sent(
    client, triton, training, message
) -> None:
    with pytest.raises(RequestRejected, match=rf"cannot be written as training\.json .*{message}"):
        client.publish_students("screw", training, STUDENTS, GOOD_PARTS)

    assert triton.requests == []


@pytest.mark.parametrize("name", ["", "screw@3", "x" * 65, "../screw"])
def test_students_of_an_unfit_name_are_refused_before_anything_is_sent(
    client, triton, name
) -> None:
    with pytest.raises(RequestRejected, match="cannot be published: expected a name"):
        publish(client, name)

    assert triton.requests == []


def test_files_that_hold_nothing_are_refused_before_anything_is_sent(
    client, triton, tmp_path
) -> None:
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ProductFileError, match=r"students\.onnx is empty"):
        client.publish_students("screw", TRAINING, tmp_path / "empty.onnx", GOOD_PARTS)
    with pytest.raises(ProductFileError, match=r"good_parts\.safetensors is empty"):
        client.publish_students("screw", TRAINING, STUDENTS, b"")
    with pytest.raises(ProductFileError, match=r"cannot read .*missing\.onnx: No such file"):
        client.publish_students("screw", TRAINING, tmp_path / "missing.onnx", GOOD_PARTS)

    assert triton.requests == []


def test_refused_publication_is_told_and_not_repeated(client, triton) -> None:
    message = "the students were trained on tokens of backbone abab, this server has cdcd"
    triton.faults["manage"] = Fault(grpc.StatusCode.INVALID_ARGUMENT, message)

    with pytest.raises(RequestRejected, match="this server has cdcd"):
        publish(client)

    assert len(triton.requests_to("manage")) == 1


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("num_before", [0, 3, 5])
def test_part_of_students_is_never_sent_twice(client, triton, num_before) -> None:
    """The last part above all: a repeated one would be another version."""

    def stumble(done: int, total: int) -> None:
        if len(triton.requests_to("manage")) == num_before:
            triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    if num_before == 0:
        stumble(0, 0)
    with pytest.raises(ServerUnreachable, match="queue full"):
        publish(client, on_progress=stumble)

    assert len(triton.requests_to("manage")) == num_before + 1
    assert list(triton.students.versions["screw"]) == [1, 2]


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("num_parts", [1, 3, 5])
def test_interrupted_publication_is_forgotten_on_the_server(client, triton, num_parts) -> None:
    def interrupt(done: int, total: int) -> None:
        if len(triton.requests_to("manage")) == num_parts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(client, on_progress=interrupt)

    assert list(triton.students.versions["screw"]) == [1, 2]
    assert triton.students.imports == {}
    assert len(triton.requests_to("manage")) == num_parts + 1


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("num_arrived", [1, 2, 4])
def test_part_that_is_interrupted_on_its_way_leaves_no_session(
    client, triton, monkeypatch, num_arrived
) -> None:
    """Whether or not it begins a file."""
    infer = client._transport.infer

    def lose(*args, **options):
        if len(triton.requests_to("manage")) == num_arrived:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return infer(*args, **options)

    monkeypatch.setattr(client._transport, "infer", lose)
    with pytest.raises(KeyboardInterrupt):
        publish(client)

    assert len(triton.requests_to("manage")) == num_arrived + 1
    assert triton.students.imports == {}


def test_interruption_is_told_although_the_server_cannot_be_asked_to_forget(client, triton) -> None:
    def interrupt(done: int, total: int) -> None:
        triton.faults["manage"] = Fault(grpc.StatusCode.INTERNAL, "broken", times=9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(client, on_progress=interrupt)


def tampered(triton, change) -> None:
    """Let the server do its work and say something else."""
    original = triton._manage

    def tampering(inputs):
        outputs = original(inputs)
        report = json.loads(outputs["report"][0])
        change(report)
        return outputs | {"report": bytes_array(json.dumps(report))}

    triton._manage = tampering


def test_lost_part_of_students_is_noticed_and_nothing_published(client, triton) -> None:
    def lose(report) -> None:
        if "received" in report:
            report["received"] -= 1

    tampered(triton, lose)

    with pytest.raises(ServerFault, match=r"of \d+ sent of training\.json; no version was made"):
        publish(client)

    assert list(triton.students.versions["screw"]) == [1, 2]
    assert triton.students.imports == {}


@pytest.mark.parametrize("key", ["students_sha256", "good_parts_sha256"])
def test_version_of_other_students_than_sent_is_never_returned(client, triton, key) -> None:
    tampered(triton, lambda report: report.update({key: "00"}) if key in report else None)

    with pytest.raises(ServerFault, match=f"screw@3 has another {key} than was sent") as caught:
        publish(client)

    assert caught.value.request_id == triton.requests[-1].id


def test_publication_under_another_name_is_a_fault(client, triton) -> None:
    tampered(triton, lambda report: report.update(product="nut"))

    with pytest.raises(ServerFault, match="it is about nut@3, asked was screw"):
        publish(client)


def test_publication_may_take_as_long_as_an_enrolment(triton, url) -> None:
    with InspectionClient(url, timeout_s=0.5, enroll_timeout_s=20) as client:
        client.history("screw")
        triton.delay_s = 0.6
        assert publish(client).version == 3


def test_patch_tokens_are_those_of_each_block(client, triton, image_path) -> None:
    answer = client.patch_tokens(image_path, "448", (12, 8))
    assert answer.image_size == (48, 64)
    tokens = answer.tokens

    assert list(tokens) == [12, 8]
    for layer, array in tokens.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, triton.tokens[layer])
    request = triton.requests[-1]
    assert request.model_name == "patch_tokens_448"
    assert [output.name for output in request.outputs] == [
        "patch_tokens_12", "patch_tokens_8", "image_size",
    ]  # fmt: skip
    assert decode_inputs(request)["image"].tolist() == [[image_path.read_bytes()]]


def test_only_the_blocks_asked_for_are_transferred(client, triton, image_rgb) -> None:
    assert list(client.patch_tokens(image_rgb, "448", [8]).tokens) == [8]

    assert [output.name for output in triton.requests[-1].outputs] == [
        "patch_tokens_8",
        "image_size",
    ]


def test_patch_tokens_are_asked_for_again_when_unavailable_once(client, triton, image_path) -> None:
    triton.faults[PATCH_TOKENS] = Fault(grpc.StatusCode.UNAVAILABLE, "busy", times=1)

    assert client.patch_tokens(image_path, "448", [8]).tokens[8].shape == (4, 3)


def test_block_that_the_backbone_does_not_put_out_is_named(client, triton, image_path) -> None:
    """Also after other blocks of the same backbone were had."""
    client.patch_tokens(image_path, "448", [8])

    with pytest.raises(ProtocolMismatch, match="output 'patch_tokens_9' is missing"):
        client.patch_tokens(image_path, "448", [8, 9])

    assert len(triton.requests) == 1


def test_backbone_is_described_once_for_each_block(client, triton, image_path) -> None:
    for layers in ([8], [12], [8], [12, 8]):
        client.patch_tokens(image_path, "448", layers)

    assert triton.metadata_requests == [PATCH_TOKENS] * 2


def test_input_size_that_is_not_served_is_told(client, image_path) -> None:
    with pytest.raises(ModelUnavailable, match="'patch_tokens_672' is not served"):
        client.patch_tokens(image_path, "672", [8])


def test_unfit_request_for_patch_tokens_is_refused_before_anything_is_sent(
    client, triton, image_path
) -> None:
    with pytest.raises(RequestRejected, match="no block of the backbone"):
        client.patch_tokens(image_path, "448", [])
    with pytest.raises(InvalidImageError, match="is empty"):
        client.patch_tokens(b"", "448", [8])

    assert triton.requests == triton.metadata_requests == []


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (np.ones((5, 3)), ServerFault, r"shapes \{8: \(4, 3\), 12: \(5, 3\)\}"),
        (np.ones((4, 2)), ServerFault, r"shapes \{8: \(4, 3\), 12: \(4, 2\)\}"),
        (np.full((4, 3), np.nan), ServerFault, "'patch_tokens_12' holds values that are not"),
        (np.ones(4), ProtocolMismatch, "'patch_tokens_12' has shape"),
    ],
)
def test_patch_tokens_that_cannot_be_true_are_refused(
    client, triton, image_path, tokens, error, message
) -> None:
    triton.tokens[12] = tokens

    with pytest.raises(error, match=message) as caught:
        client.patch_tokens(image_path, "448", [8, 12])

    assert caught.value.request_id == triton.requests[-1].id


def test_patch_tokens_come_in_time_or_not_at_all(triton, url, image_path) -> None:
    with InspectionClient(url, timeout_s=0.5, enroll_timeout_s=20) as client:
        client.patch_tokens(image_path, "448", [8])
        triton.delay_s = 0.8
        with pytest.raises(RequestTimeout):
            client.patch_tokens(image_path, "448", [8])
