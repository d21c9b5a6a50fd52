"""One product, two methods: which versions a call is about, and that it stays with them."""

from __future__ import annotations

import json
import logging

import grpc
import numpy as np
import pytest
from fake_server import ENSEMBLE, Fault, bytes_array, decode_inputs, ensemble_metadata
from fake_students import STUDENTS_ENSEMBLE, students_product, students_report

from dinspect_client import (
    DamagedVersion,
    ProductVersion,
    ProtocolMismatch,
    RequestRejected,
    ServerFault,
    StudentsVersion,
    wire,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def _trained(triton) -> None:
    """The product screw is inspected by both methods."""
    triton.products["screw by l2bt"] = students_product("screw")


def asked_to_manage(triton) -> list[tuple[str, dict]]:
    inputs = [decode_inputs(request) for request in triton.requests_to("manage")]
    return [(one["product"][0].decode(), json.loads(one["request"][0])) for one in inputs]


@pytest.mark.usefixtures("_trained")
class TestInspection:
    def test_each_method_is_asked_at_its_own_ensemble(self, client, triton, image_path) -> None:
        banks = client.inspect("screw", image_path)
        students = client.inspect("screw", image_path, method="l2bt")

        assert [r.model_name for r in triton.requests if r.model_name != "products"] == [
            ENSEMBLE, STUDENTS_ENSEMBLE,
        ]  # fmt: skip
        assert (banks.method, students.method) == ("anomaly_dino", "l2bt")
        assert students.to_dict()["method"] == "l2bt"
        assert students.anomaly_map.shape == (30, 40)

    def test_each_ensemble_is_asked_for_once(self, client, triton, image_path) -> None:
        for method in ("anomaly_dino", "l2bt", "anomaly_dino", "l2bt"):
            client.inspect("screw", image_path, method=method)

        assert len(triton.requests_to("products")) == 2

    def test_array_goes_raw_to_the_students_ensemble(self, client, triton, image_rgb) -> None:
        client.inspect("screw", image_rgb, method="l2bt")

        request = triton.requests[-1]
        assert request.model_name == "l2bt_screw_448_raw"
        np.testing.assert_array_equal(decode_inputs(request)["image_rgb"][0], image_rgb)

    def test_raw_ensemble_of_a_product_with_an_odd_name(self, client, triton, image_rgb) -> None:
        name = "l2bt_part_raw_448"
        triton.products["odd"] = students_product(name)
        triton.models[f"l2bt_{name}_448_raw"] = ensemble_metadata(wire.IMAGE_RGB)

        client.inspect(name, image_rgb, method="l2bt")

        assert triton.requests[-1].model_name == f"l2bt_{name}_448_raw"

    def test_version_is_pinned_among_those_of_the_method(self, client, triton, image_path) -> None:
        triton.outputs["bundle_version"] = np.array([1])

        assert client.inspect("screw@1", image_path, method="l2bt").bundle_version == 1
        assert decode_inputs(triton.requests[-1])["product"][0, 0] == b"screw@1"
        with pytest.raises(ServerFault, match="answered by version 1"):
            client.inspect("screw@2", image_path, method="l2bt")

    def test_students_of_another_size_are_found_again(self, client, triton, image_path) -> None:
        client.inspect("screw", image_path)
        client.inspect("screw", image_path, method="l2bt")
        moved = students_product("screw", ensemble="l2bt_screw_672")
        triton.products["screw by l2bt"] = moved
        triton.models["l2bt_screw_672"] = ensemble_metadata(wire.IMAGE)
        del triton.models[STUDENTS_ENSEMBLE]

        client.inspect("screw", image_path, method="l2bt")
        assert triton.requests[-1].model_name == "l2bt_screw_672"
        client.inspect("screw", image_path)
        assert triton.requests[-1].model_name == ENSEMBLE
        assert len(triton.requests_to("products")) == 3

    @pytest.mark.parametrize("call", ["activate", "delete", "publish_students"])
    def test_change_of_the_students_forgets_their_ensemble_only(
        self, client, triton, image_path, call
    ) -> None:
        calls = {
            "activate": lambda: client.activate("screw", 1, method="l2bt"),
            "delete": lambda: client.delete("screw", method="l2bt"),
            "publish_students": lambda: client.publish_students("screw", {}, b"s", b"p"),
        }
        client.inspect("screw", image_path)
        client.inspect("screw", image_path, method="l2bt")

        calls[call]()

        client.inspect("screw", image_path)
        assert len(triton.requests_to("products")) == 2
        client.inspect("screw", image_path, method="l2bt")
        assert len(triton.requests_to("products")) == 3

    @pytest.mark.parametrize("call", ["enroll", "import_product"])
    def test_new_bank_forgets_its_ensemble_only(
        self, client, triton, image_path, tmp_path, call
    ) -> None:
        client.export_product("screw", tmp_path / "screw.zip")
        for method in wire.METHODS:
            client.inspect("screw", image_path, method=method)

        if call == "enroll":
            client.enroll("screw", [image_path])
        else:
            client.import_product(tmp_path / "screw.zip")

        client.inspect("screw", image_path, method="l2bt")
        assert len(triton.requests_to("products")) == 2
        client.inspect("screw", image_path)
        assert len(triton.requests_to("products")) == 3


@pytest.mark.parametrize(
    ("method", "only", "makes"),
    [
        ("l2bt", "anomaly_dino", "dinspect train"),
        ("anomaly_dino", "l2bt", "dinspect enroll"),
    ],
)
def test_product_of_the_other_method_alone_is_told_with_what_to_do(
    client, triton, image_path, method, only, makes
) -> None:
    if only == "l2bt":
        triton.products = {"screw": students_product("screw")}

    with pytest.raises(RequestRejected) as caught:
        client.inspect("screw", image_path, method=method)

    assert str(caught.value) == (
        f"product 'screw' cannot be inspected by {method}, only by {only}: ask for method {only}, "
        f"or make a version for {method} with `{makes}`"
    )
    assert caught.value.model_name == "products"


@pytest.mark.parametrize(
    ("method", "makes"), [("anomaly_dino", "dinspect enroll"), ("l2bt", "dinspect train")]
)
def test_unknown_product_is_told_with_what_adds_one(client, image_path, method, makes) -> None:
    with pytest.raises(RequestRejected, match=f"'nut' is not enrolled .*`{makes}` adds one"):
        client.inspect("nut", image_path, method=method)


def test_damaged_students_are_told_as_damaged_and_the_bank_answers(
    client, triton, image_path
) -> None:
    damaged = {"product": "screw", "method": "l2bt", "error": "its record is cut short"}
    triton.products["screw by l2bt"] = damaged

    with pytest.raises(RequestRejected, match="its record is cut short"):
        client.inspect("screw", image_path, method="l2bt")

    assert client.inspect("screw", image_path).method == "anomaly_dino"


def test_product_that_moves_is_not_found_again_by_another_method(
    client, triton, image_path
) -> None:
    """A refusal by the bank must never be answered by the students."""
    client.inspect("screw", image_path)
    triton.products = {"screw": students_product("screw")}
    triton.faults[ENSEMBLE] = Fault(INVALID, "unknown product 'screw'", 9)

    with pytest.raises(RequestRejected, match="only by l2bt"):
        client.inspect("screw", image_path)

    assert triton.requests_to(STUDENTS_ENSEMBLE) == []


@pytest.mark.parametrize("method", ["", "L2BT", "patchcore", None, ["l2bt"]])
def test_unknown_method_is_refused_before_anything_is_sent(client, triton, method) -> None:
    calls = (
        lambda: client.inspect("screw", b"x", method=method),
        lambda: client.history("screw", method=method),
        lambda: client.activate("screw", 1, method=method),
        lambda: client.delete("screw", method=method),
        lambda: client.set_thresholds("screw", threshold=0.5, method=method),
    )
    for call in calls:
        with pytest.raises(RequestRejected, match="expected one of anomaly_dino, l2bt"):
            call()

    assert triton.requests == []


@pytest.mark.usefixtures("_trained")
def test_products_are_listed_once_per_method(client, triton) -> None:
    banks, students = client.products("screw")

    assert (banks.name, banks.method) == ("screw", "anomaly_dino")
    assert (students.name, students.method, students.current) == ("screw", "l2bt", 2)
    assert (students.preprocessing, students.masked, students.num_references) == ("pad", False, 20)
    assert students.to_dict() == triton.products["screw by l2bt"]


def test_damaged_product_is_left_out_and_logged_with_its_method(client, triton, caplog) -> None:
    triton.products["a"] = {"product": "screw", "method": "l2bt", "error": "cut short"}
    triton.products["b"] = {"product": "nut", "method": "anomaly_dino", "error": "gone"}

    with caplog.at_level(logging.WARNING):
        assert [one.method for one in client.products()] == ["anomaly_dino"]

    assert [record.getMessage() for record in caplog.records] == [
        "product screw (l2bt): cut short", "product nut: gone",
    ]  # fmt: skip


def test_requests_name_the_method_unless_it_is_the_default(client, triton) -> None:
    for given in ({"method": "l2bt"}, {}):
        client.history("screw", **given)
        client.activate("screw", 1, operator="ada", **given)
        client.set_thresholds("screw", threshold=0.4, **given)
        client.delete("screw", 2, **given)

    asked = asked_to_manage(triton)
    assert asked[:4] == [
        ("screw", {"operation": "history", "method": "l2bt"}),
        ("screw@1", {"operation": "activate", "method": "l2bt", "operator": "ada"}),
        ("screw", {"operation": "threshold", "method": "l2bt", "threshold": 0.4}),
        ("screw@2", {"operation": "delete", "method": "l2bt"}),
    ]
    assert [key for _, one in asked[4:] for key in one if key == "method"] == []


def test_history_of_students_holds_their_records(client, triton) -> None:
    triton.students.versions["screw"][1] = {"product": "screw", "version": 1, "error": "cut short"}

    history = client.history("screw", method="l2bt")

    assert history.versions[0] == DamagedVersion("screw", 1, "cut short")
    assert isinstance(history.in_force, StudentsVersion)
    assert history.in_force.layers == (8, 12)
    assert [change.action for change in history.changes] == ["published", "thresholds"]
    assert history.to_dict()["versions"] == list(triton.students.versions["screw"].values())


def test_changes_of_students_leave_the_bank_as_it_is(client, triton) -> None:
    before = json.dumps([triton.store.versions, triton.store.current, triton.store.changes])

    assert isinstance(client.activate("screw", 1, method="l2bt"), StudentsVersion)
    changed = client.set_thresholds("screw", threshold=0.4, method="l2bt")
    assert client.delete("screw", 1, method="l2bt") == (1,)

    assert isinstance(changed, StudentsVersion)
    assert (changed.reference, changed.threshold) == ("screw@3", 0.4)
    assert json.dumps([triton.store.versions, triton.store.current, triton.store.changes]) == before


def test_changes_of_the_bank_are_its_records(client) -> None:
    assert isinstance(client.activate("screw", 1), ProductVersion)
    assert isinstance(client.set_thresholds("screw", threshold=0.4), ProductVersion)


def answering(triton, change) -> None:
    """Let the server do its work and say something else."""
    original = triton._manage

    def tampering(inputs):
        outputs = original(inputs)
        report = change(json.loads(outputs["report"][0]))
        return outputs | {"report": bytes_array(json.dumps(report))}

    triton._manage = tampering


def test_answer_about_the_other_method_is_never_taken_for_this_one(client, triton) -> None:
    """As of a server that does not know of methods."""
    triton.students = triton.store

    for call in (
        lambda: client.activate("screw", 1, method="l2bt"),
        lambda: client.set_thresholds("screw", threshold=0.5, method="l2bt"),
    ):
        with pytest.raises(ServerFault, match="by anomaly_dino, asked was l2bt") as caught:
            call()
        assert caught.value.request_id == triton.requests[-1].id
    with pytest.raises(ServerFault, match="screw@1 is a version by anomaly_dino, not l2bt"):
        client.history("screw", method="l2bt")


def test_students_are_no_answer_about_a_bank(client, triton) -> None:
    triton.store = triton.students

    with pytest.raises(ServerFault, match="by l2bt, asked was anomaly_dino"):
        client.activate("screw", 1)
    with pytest.raises(ServerFault, match="screw@1 is a version by l2bt, not anomaly_dino"):
        client.history("screw")


@pytest.mark.parametrize("method", ["anomaly_dino", "l2bt"])
def test_answer_without_a_method_is_a_mismatch(client, triton, method) -> None:
    answering(triton, lambda report: {k: v for k, v in report.items() if k != "method"})

    with pytest.raises(ProtocolMismatch, match="lacks 'method'"):
        client.activate("screw", 1, method=method)


def test_history_with_an_unreadable_method_is_a_mismatch(client, triton) -> None:
    odd = students_report("screw", 1, method=["l2bt"])
    answering(triton, lambda report: report | {"versions": [odd]})

    with pytest.raises(ProtocolMismatch, match="client and server versions differ"):
        client.history("screw", method="l2bt")
