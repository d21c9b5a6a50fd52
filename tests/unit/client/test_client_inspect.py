from __future__ import annotations

import json
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from fake_server import (
    ENSEMBLE,
    GRID,
    FakeTriton,
    Fault,
    bytes_array,
    decode_inputs,
    ensemble_metadata,
    product_report,
)

from dinspect_client import (
    DefectRegion,
    InspectionClient,
    InvalidImageError,
    RequestRejected,
    ServerFault,
    Verdict,
    wire,
)

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_server_version_is_tritons(client: InspectionClient) -> None:
    assert client.server_version() == "2.51.0"


def test_inspection_holds_what_the_server_answered(client, triton, image_path) -> None:
    inspection = client.inspect("screw", image_path)

    assert inspection.product == "screw"
    assert inspection.bundle_version == 3
    assert inspection.anomaly_score == 0.25
    assert inspection.threshold == 0.5
    assert inspection.normal_below == 0.375
    assert inspection.verdict is Verdict.NORMAL
    assert inspection.patch_distances.shape == GRID
    assert inspection.patch_distances.dtype == np.float32
    assert inspection.patch_distances[-1, -1] == 0.5
    assert inspection.anomaly_map.shape == (30, 40)
    assert inspection.request_id == triton.requests[-1].id
    assert inspection.latency_ms > 0


def test_request_carries_one_item_with_a_batch_dimension(client, triton, image_path) -> None:
    client.inspect("screw", image_path)

    request = triton.requests_to(ENSEMBLE)[0]
    inputs = decode_inputs(request)
    assert {name: array.shape for name, array in inputs.items()} == {
        "image": (1, 1),
        "product": (1, 1),
    }
    assert inputs["image"][0, 0] == image_path.read_bytes()
    assert inputs["product"][0, 0] == b"screw"


@pytest.mark.parametrize("form", ["bytes", "bytearray", "str", "path"])
def test_encoded_images_arrive_alike_in_every_form(client, triton, image_path, form) -> None:
    data = image_path.read_bytes()
    forms = {"bytes": data, "bytearray": bytearray(data), "str": str(image_path)}

    client.inspect("screw", forms.get(form, image_path))

    assert decode_inputs(triton.requests[-1])["image"][0, 0] == data


def test_array_goes_raw_to_the_ensemble_for_decoded_images(client, triton, image_rgb) -> None:
    inspection = client.inspect("screw", image_rgb)

    request = triton.requests[-1]
    assert request.model_name == ENSEMBLE + "_raw"
    np.testing.assert_array_equal(decode_inputs(request)["image_rgb"][0], image_rgb)
    assert inspection.anomaly_map.shape == image_rgb.shape[:2]


def test_view_of_an_array_arrives_as_it_is_seen(client, triton, image_rgb) -> None:
    view = image_rgb[::2, ::-1]

    client.inspect("screw", view)

    np.testing.assert_array_equal(decode_inputs(triton.requests[-1])["image_rgb"][0], view)


def test_map_is_not_even_asked_for_when_not_wanted(client, triton, image_path) -> None:
    inspection = client.inspect("screw", image_path, with_map=False)

    asked = {output.name for output in triton.requests[-1].outputs}
    both = {"anomaly_map", "defect_regions"}
    assert asked == {spec.name for spec in wire.INSPECTION_OUTPUTS} - both
    assert inspection.anomaly_map is None
    assert inspection.defect_regions is None


@pytest.mark.parametrize("verdict", list(Verdict))
def test_verdict_is_the_servers(client, triton, image_path, verdict: Verdict) -> None:
    triton.outputs["verdict"] = np.array([verdict.value])

    assert client.inspect("screw", image_path).verdict is verdict


def test_to_dict_is_json_without_arrays(client, image_path) -> None:
    dictionary = json.loads(json.dumps(client.inspect("screw", image_path).to_dict()))

    assert dictionary["verdict"] == "normal"
    assert dictionary["anomaly_map"] == {"shape": [30, 40], "peak": 1.0, "peak_at": [29, 39]}
    assert dictionary["patch_distances"]["shape"] == list(GRID)


def test_defect_regions_are_those_of_the_answer(client, triton, image_path) -> None:
    regions = [
        {"box_px": [30, 20, 10, 10], "area_px": 100, "peak": 1.0, "peak_at_px": [39, 29]},
        {"box_px": [0, 0, 1, 1], "area_px": 1, "peak": 0.0, "peak_at_px": [0, 0]},
    ]
    triton.outputs["defect_regions"] = bytes_array(json.dumps(regions))

    inspection = client.inspect("screw", image_path)

    assert inspection.defect_regions == (
        DefectRegion((30, 20, 10, 10), 100, 1.0, (39, 29)),
        DefectRegion((0, 0, 1, 1), 1, 0.0, (0, 0)),
    )
    assert json.loads(json.dumps(inspection.to_dict()))["defect_regions"] == regions


def test_no_defect_region_is_an_empty_tuple(client, image_path) -> None:
    assert client.inspect("screw", image_path).defect_regions == ()


def test_to_dict_has_no_map_when_there_is_none(client, image_path) -> None:
    dictionary = client.inspect("screw", image_path, with_map=False).to_dict()

    assert dictionary["anomaly_map"] is dictionary["defect_regions"] is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/no/such/file.png", "No such file"),
        (b"", "is empty"),
        ("bad\0name.png", "null"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
)
def test_unfit_image_is_refused_before_anything_is_sent(client, triton, image, message) -> None:
    with pytest.raises(InvalidImageError, match=message):
        client.inspect("screw", image)

    assert triton.requests == []


def test_servers_refusal_is_told_in_its_own_words(client) -> None:
    with pytest.raises(RequestRejected) as caught:
        client.inspect("screw", b"not an image")

    error = caught.value
    assert str(error).startswith("image cannot be decoded")
    assert error.status == "INVALID_ARGUMENT"
    assert error.status_message.startswith(f"in ensemble '{ENSEMBLE}', ")
    assert error.model_name == ENSEMBLE
    assert error.request_id
    assert error.__cause__ is not None


@pytest.mark.parametrize("product", ["", "a b", "screw@", "screw@0", "@3", "x" * 65])
def test_malformed_product_is_refused_before_anything_is_sent(client, triton, product) -> None:
    with pytest.raises(RequestRejected, match="product"):
        client.inspect(product, b"x")

    assert triton.requests == []


def test_unknown_product_is_rejected(client, image_path) -> None:
    with pytest.raises(RequestRejected, match="'nut' is not enrolled"):
        client.inspect("nut", image_path)


def test_pinned_product_reaches_the_server_as_written(client, triton, image_path) -> None:
    assert client.inspect("screw@3", image_path).product == "screw@3"
    assert decode_inputs(triton.requests[-1])["product"][0, 0] == b"screw@3"
    assert decode_inputs(triton.requests_to("products")[0])["product"][0] == b"screw"


def test_answer_of_another_version_than_pinned_is_refused(client, image_path) -> None:
    with pytest.raises(ServerFault, match="answered by version 3"):
        client.inspect("screw@2", image_path)


def test_ensemble_is_asked_for_once_per_product(client, triton, image_path) -> None:
    for _ in range(3):
        client.inspect("screw", image_path)

    assert len(triton.requests_to("products")) == 1
    assert len(triton.requests_to(ENSEMBLE)) == 3


def move_to_672(triton: FakeTriton) -> None:
    triton.models["anomaly_dino_672"] = ensemble_metadata(wire.IMAGE)
    triton.products["screw"] = product_report("screw", ensemble="anomaly_dino_672")


def test_product_enrolled_at_another_resolution_is_found_again(client, triton, image_path) -> None:
    client.inspect("screw", image_path)
    move_to_672(triton)
    triton.faults[ENSEMBLE] = Fault(INVALID, "the bundle has grid 48x48, expected 32x32", 9)

    client.inspect("screw", image_path)

    assert triton.requests[-1].model_name == "anomaly_dino_672"
    assert len(triton.requests_to("products")) == 2


def test_product_is_found_again_when_its_ensemble_is_gone(client, triton, image_path) -> None:
    client.inspect("screw", image_path)
    move_to_672(triton)
    del triton.models[ENSEMBLE]

    client.inspect("screw", image_path)

    assert triton.requests[-1].model_name == "anomaly_dino_672"


def test_refusal_is_not_repeated_when_the_product_did_not_move(client, triton, image_path) -> None:
    client.inspect("screw", image_path)

    with pytest.raises(RequestRejected, match="cannot be decoded"):
        client.inspect("screw", b"not an image")

    assert len(triton.requests_to(ENSEMBLE)) == 2


@pytest.mark.parametrize(
    "url", ["", "localhost", ":8001", "http://localhost:8001", "localhost:0", "localhost:99999"]
)
def test_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        InspectionClient(url)


def test_timeout_must_be_positive() -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        InspectionClient(timeout_s=0)


def test_any_encoding_opencv_knows_passes_through(client, triton, tmp_path: Path) -> None:
    path = tmp_path / "part.jpg"
    cv2.imwrite(str(path), np.zeros((8, 9, 3), np.uint8))

    assert client.inspect("screw", path).anomaly_map.shape == (8, 9)
