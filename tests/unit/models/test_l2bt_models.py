"""The models that list L2BT's products and answer for them, in this process."""

from __future__ import annotations

import json

import bundles
import numpy as np
import pytest
import triton_stub
from trainings import IMAGE_SIZE, ONNX_SHA256, expected_distances, graph, publish_trained, tokens

from bank_store import BankStore
from students_store import StudentsStore


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


def test_products_tell_of_both_methods(store, tmp_path, monkeypatch):
    banks = BankStore(tmp_path / "banks")
    bundles.publish(banks)
    bundles.publish(banks, "nut")
    publish_trained(store)
    publish_trained(store, "washer")
    listing = triton_stub.load(monkeypatch, "products", tmp_path)

    def listed(product=""):
        (response,) = listing.execute([triton_stub.request(product=product)])
        if response.error is not None:
            return str(response.error)
        return json.loads(response.outputs["products"][0])

    def keys(product=""):
        return [(one["product"], one["method"]) for one in listed(product)]

    everything = [
        ("nut", "anomaly_dino"), ("screw", "anomaly_dino"), ("screw", "l2bt"), ("washer", "l2bt"),
    ]  # fmt: skip
    assert keys() == everything
    assert keys("screw") == keys("screw@1") == everything[1:3]
    assert keys("washer") == everything[3:]
    assert keys("nut") == everything[:1]
    assert "unknown product 'bolt'" in listed("bolt")
    washer = listed("washer")[0]
    record = store.read_bundle("washer", 1)
    assert washer["ensemble"] == "l2bt_washer_28"
    assert (washer["preprocessing"], washer["masked"]) == ("pad", False)
    assert (washer["current"], washer["versions"]) == (1, [1])
    assert (washer["threshold"], washer["normal_below"]) == (record.threshold, record.normal_below)
    assert washer["loaded_bytes"] == len(graph()) + 4 * 6 * 4 * 8
    # What is damaged is told with its method, and hides nothing.
    store.file("screw", 1, "bundle.json").write_text("{}")
    assert keys() == everything
    assert keys("screw") == everything[1:3]
    assert "is damaged" in listed("screw")[1]["error"]
    assert "error" not in listed("screw")[0]
    banks.file("screw", 1, "bundle.json").write_text("{}")
    store.file("washer", 1, "students.onnx").unlink()
    assert [set(one) for one in listed("screw")] == 2 * [{"product", "method", "error"}]
    assert "students cannot be read" in listed("washer")
    (banks.root / "screw" / "current").write_text("x")
    assert "damaged version pointer" in listed("screw")[0]["error"]


def test_students_model_answers_each_image_for_its_product(store, tmp_path, monkeypatch):
    for number, name in enumerate(("a", "b"), start=1):
        publish_trained(store, name, float(number))
    model = triton_stub.load(
        monkeypatch, "students", tmp_path, onnx_sha256=ONNX_SHA256, runtime="openvino",
        precision="fp32", max_bank_bytes="10000000",
    )  # fmt: skip
    pairs = [tokens(seed) for seed in range(2)]

    def request(products, size=IMAGE_SIZE):
        return triton_stub.request(
            product=list(products),
            patch_tokens_8=np.stack([pair[0] for pair in pairs[: len(products)]]),
            patch_tokens_12=np.stack([pair[1] for pair in pairs[: len(products)]]),
            image_size=np.array([size] * len(products), np.int32),
        )

    both, wrong, shape = model.execute(
        [request(["a", "b@1"]), request(["nut"]), request(["a"], (60, 40))]
    )
    for row, scale in ((0, 1.0), (1, 2.0)):
        expected = expected_distances(pairs[row], scale)
        np.testing.assert_allclose(both.outputs["patch_distances"][row], expected, rtol=1e-5)
    assert np.array_equal(both.outputs["distance_grid"], both.outputs["patch_distances"])
    record = store.read_bundle("a", 1)
    assert both.outputs["map_settings"][0].tolist() == [
        np.float32(record.defect_threshold), 0, *IMAGE_SIZE, 1, 0, 2.0,
    ]  # fmt: skip
    assert both.outputs["bundle_version"].tolist() == [[1], [1]]
    assert both.outputs["threshold"][0, 0] == np.float32(record.threshold)
    assert "unknown product 'nut'" in str(wrong.error)
    assert "one camera geometry" in str(shape.error)
    assert {wrong.error.code, shape.error.code} == {"INVALID_ARG"}
