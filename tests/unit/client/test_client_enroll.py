from __future__ import annotations

import inspect
import json

import cv2
import numpy as np
from fake_products import sha256
from fake_server import decode_inputs

from dinspect_client import (
    ImageRecord,
    InspectionClient,
    codec,
    wire,
)


def sent_parts(triton):
    """Names, images and options of each part."""
    inputs = [decode_inputs(request) for request in triton.requests_to("enroll")]
    return [(json.loads(part["options"][0]), list(part["images"])) for part in inputs]


def test_small_enrolment_is_one_part_that_commits(client, triton, image_path) -> None:
    version = client.enroll("screw", [image_path])

    ((options, images),) = sent_parts(triton)
    assert options.keys() == {"session", "commit", "image_names", "num_staged"}
    assert options["commit"] is True
    assert options["image_names"] == ["part.png"]
    assert images == [image_path.read_bytes()]
    assert version.version == 4
    assert version.reference == "screw@4"
    assert version.num_references == 1
    assert version.references == (ImageRecord("part.png", sha256(image_path.read_bytes())),)
    assert version.calibration.reference_scores == (0.25, 0.375)
    assert version.backbone.name == "vits14"


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

    parts = codec.image_parts([b"x" * size for size in (4, 6, 1, 30, 9, 1, 1)], "abcdefg")

    assert [[len(data) for _, data in part] for part in parts] == [[4, 6], [1], [30], [9, 1], [1]]


def test_options_given_are_sent_and_no_others(client, triton) -> None:
    given = {
        "resolution": 672,
        "preprocessing": "informed",
        "rotated": True,
        "texture": True,
        "num_neighbours": 3,
        "image_score": "max",
        "search": "ivf",
        "coreset_fraction": 0.25,
        "false_positive_rate": 0.01,
        "undecided_rate": 0.0,
        "threshold": 0.0,
        "normal_below": 0.0,
        "activate": False,
        "operator": "ada",
    }

    client.enroll("screw", [b"x"], **given)

    options = sent_parts(triton)[0][0]
    del options["session"], options["commit"], options["image_names"], options["num_staged"]
    assert options == given


def test_every_option_of_the_contract_can_be_said() -> None:
    """All but those of the transport are keywords of `enroll`, or stand for a method of its own."""
    keys = {value for name, value in vars(wire.EnrollOption).items() if name.isupper()}
    of_parts = {"append", "role", "image_names", "session", "num_staged", "commit"}
    keywords = {
        name
        for name, parameter in inspect.signature(InspectionClient.enroll).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

    assert keywords == (keys - of_parts) | {"good_images", "on_progress"}


def test_numbers_of_numpy_are_sent_as_numbers(client, triton) -> None:
    client.enroll("screw", [b"x"], threshold=np.float32(0.25), resolution=np.int64(448))

    options = sent_parts(triton)[0][0]
    assert (options["threshold"], options["resolution"]) == (0.25, 448)


def test_good_images_follow_the_references_in_parts_of_their_own(client, triton) -> None:
    progress: list[tuple[int, int]] = []

    version = client.enroll(
        "screw",
        [b"r%d" % n for n in range(9)],
        good_images=[b"g1", b"g2"],
        on_progress=lambda *done: progress.append(done),
    )

    parts = sent_parts(triton)
    assert [options.get("role") for options, _ in parts] == [None, None, "good"]
    assert [options["num_staged"] for options, _ in parts] == [0, 8, 9]
    assert [options["commit"] for options, _ in parts] == [False, False, True]
    assert parts[2][1] == [b"g1", b"g2"]
    assert parts[2][0]["image_names"] == ["image-10", "image-11"]
    assert progress == [(8, 11), (9, 11), (11, 11)]
    assert version.num_references == 9
    assert [image.sha256 for image in version.calibration.good_images] == [
        sha256(b"g1"),
        sha256(b"g2"),
    ]


def test_appended_images_say_so_and_need_no_reference(client, triton) -> None:
    version = client.append("screw", [b"x"], good_images=[b"g"], undecided_rate=0.1)
    client.append("screw", good_images=[b"g"], activate=False, operator="ada")

    first, second, third = (options for options, _ in sent_parts(triton))
    assert first["append"] is second["append"] is third["append"] is True
    assert first["undecided_rate"] == 0.1
    assert (third["role"], third["num_staged"], third["commit"]) == ("good", 0, True)
    assert (third["activate"], third["operator"]) == (False, "ada")
    # The two of version 3, and the new one.
    assert [image.sha256 for image in version.references] == [
        "01" * 32,
        "02" * 32,
        sha256(b"x"),
    ]


def test_files_of_one_name_are_told_apart(client, triton, tmp_path) -> None:
    paths = [tmp_path / folder / "1.png" for folder in ("a", "b")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_bytes(b"%d" % number)

    client.enroll("screw", paths, good_images=[b"x"])

    names = [options["image_names"] for options, _ in sent_parts(triton)]
    assert names == [["a/1.png", "b/1.png"], ["image-3"]]


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
