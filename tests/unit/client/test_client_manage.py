from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from fake_products import change_line
from fake_server import Fault, bytes_array, decode_inputs

from dinspect_client import (
    DamagedVersion,
    InspectionClient,
    InvalidImageError,
    ModelUnavailable,
    ProtocolMismatch,
    RequestRejected,
    RequestTimeout,
    ServerFault,
    ServerUnreachable,
    wire,
)


def sent(triton) -> list[tuple[str, dict, bytes | None]]:
    """Product, request and content of each request to `manage`."""
    found = []
    for request in triton.requests_to("manage"):
        inputs = decode_inputs(request)
        content = inputs["content"][0] if "content" in inputs else None
        found.append((inputs["product"][0].decode(), json.loads(inputs["request"][0]), content))
    return found


def test_history_tells_versions_changes_and_what_is_in_force(client, triton) -> None:
    triton.store.versions["screw"][2] = {"product": "screw", "version": 2, "error": "cut short"}

    history = client.history("screw")

    assert sent(triton) == [("screw", {"operation": "history"}, None)]
    assert (history.product, history.current) == ("screw", 3)
    assert [one.version for one in history.versions] == [1, 2, 3]
    assert history.versions[1] == DamagedVersion("screw", 2, "cut short")
    assert history.in_force.change.action == "thresholds"
    assert [change.action for change in history.changes] == ["enrolled", "appended", "thresholds"]
    assert json.loads(json.dumps(history.to_dict())) == {
        "product": "screw",
        "current": 3,
        "versions": list(triton.store.versions["screw"].values()),
        "changes": [change_line(action, n) for n, action in enumerate(("enrolled", "appended", "thresholds"), 1)],
    }  # fmt: skip


def test_activate_puts_a_version_in_force(client, triton) -> None:
    version = client.activate("screw", 1, operator="ada")

    assert sent(triton) == [("screw@1", {"operation": "activate", "operator": "ada"}, None)]
    assert (version.product, version.version) == ("screw", 1)
    assert triton.store.current["screw"] == 1


def test_delete_removes_a_version_or_all_of_them(client, triton) -> None:
    assert client.delete("screw", 2) == (2,)
    assert client.delete("screw", operator="ada") == (1, 3)

    assert sent(triton) == [
        ("screw@2", {"operation": "delete"}, None),
        ("screw", {"operation": "delete", "operator": "ada"}, None),
    ]


def test_thresholds_that_are_given_are_sent_and_no_others(client, triton) -> None:
    version = client.set_thresholds("screw", threshold=0.0, normal_below=0, operator="ada")
    client.set_thresholds("screw", false_positive_rate=0.01, undecided_rate=0.0)

    assert [asked for _, asked, _ in sent(triton)] == [
        {"operation": "threshold", "threshold": 0.0, "normal_below": 0, "operator": "ada"},
        {"operation": "threshold", "false_positive_rate": 0.01, "undecided_rate": 0.0},
    ]
    assert (version.version, version.threshold, version.change.from_version) == (4, 0.0, 3)


def test_region_that_is_given_is_sent_and_nothing_else(client, triton, image_path) -> None:
    version = client.set_region("screw", roi_px=np.array([1, 2, 3, 4]), min_defect_area_px=0)
    client.set_region("screw", roi_px=(), ignore_mask=image_path)
    client.set_region("screw", clear_ignore_mask=True, operator="ada")

    assert sent(triton) == [
        ("screw", {"operation": "region", "roi_px": [1, 2, 3, 4], "min_defect_area_px": 0}, None),
        ("screw", {"operation": "region", "roi_px": []}, image_path.read_bytes()),
        ("screw", {"operation": "region", "clear_ignore_mask": True, "operator": "ada"}, None),
    ]
    assert version.region.roi_px == (1, 2, 3, 4)
    assert version.region.num_inspected_patches == 4


def test_every_operation_of_the_contract_has_a_method() -> None:
    operations = {value for name, value in vars(wire.ManageOperation).items() if name.isupper()}

    methods = {
        "history": "history",
        "activate": "activate",
        "delete": "delete",
        "threshold": "set_thresholds",
        "region": "set_region",
        "read": "export_product",
        "import": "import_product",
        "publish": "publish_students",
    }
    assert operations == set(methods)
    assert all(hasattr(InspectionClient, method) for method in methods.values())


CALLS = {
    "history": lambda client, product: client.history(product),
    "activate": lambda client, product: client.activate(product, 1),
    "delete": lambda client, product: client.delete(product),
    "threshold": lambda client, product: client.set_thresholds(product, threshold=0.5),
    "region": lambda client, product: client.set_region(product, min_defect_area_px=9),
}
CHANGES = sorted(set(CALLS) - {"history"})


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("product", ["", "a b", "x" * 65, "screw@3", "../screw", "scr\udc80w"])
def test_malformed_or_pinned_name_is_refused_before_anything_is_sent(
    client, triton, call, product
) -> None:
    with pytest.raises(RequestRejected, match="product"):
        call(client, product)

    assert triton.requests == []


@pytest.mark.parametrize("version", [0, -1, 10**9, "x"])
def test_impossible_version_is_refused_before_anything_is_sent(client, triton, version) -> None:
    with pytest.raises(RequestRejected, match="screw@"):
        client.activate("screw", version)
    with pytest.raises(RequestRejected, match="screw@"):
        client.delete("screw", version)

    assert triton.requests == []


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_servers_refusal_is_told_in_its_own_words(client, triton, call) -> None:
    with pytest.raises(RequestRejected, match="unknown product 'nut'") as caught:
        call(client, "nut")

    assert caught.value.model_name == "manage"
    assert caught.value.request_id == triton.requests[-1].id


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_never_sent_twice(client, triton, name) -> None:
    triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    with pytest.raises(ServerUnreachable, match="queue full"):
        CALLS[name](client, "screw")

    assert len(triton.requests_to("manage")) == 1


def test_history_is_asked_for_again_when_unavailable_once(client, triton) -> None:
    triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "busy", times=1)

    assert client.history("screw").current == 3


def test_server_that_manages_nothing_is_told(client, triton) -> None:
    del triton.models["manage"]

    with pytest.raises(ModelUnavailable, match="'manage' is not served"):
        client.history("screw")


def test_changes_may_take_as_long_as_an_enrolment_and_history_may_not(triton, url) -> None:
    with InspectionClient(url, timeout_s=0.3, enroll_timeout_s=20) as client:
        InspectionClient(url).history("screw")
        triton.delay_s = 0.6
        assert client.activate("screw", 1).version == 1
        with pytest.raises(RequestTimeout):
            client.history("screw")


def tampered(triton, change) -> None:
    """Let the server do its work and say something else."""
    original = triton._manage

    def tampering(inputs):
        outputs = original(inputs)
        report = json.loads(outputs["report"][0])
        change(outputs, report)
        outputs["report"] = bytes_array(json.dumps(report))
        return outputs

    triton._manage = tampering


@pytest.mark.parametrize("name", ["activate", "threshold", "region"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda outputs, report: report.update(product="nut"), "it is about nut@"),
        (
            lambda outputs, report: outputs.update(bundle_version=np.array([9])),
            "bundle_version is 9, the report is of screw@",
        ),
    ],
)
def test_answer_about_another_version_is_refused(client, triton, name, change, message) -> None:
    tampered(triton, change)

    with pytest.raises(ServerFault, match=message) as caught:
        CALLS[name](client, "screw")

    assert caught.value.request_id == triton.requests[-1].id


def test_activating_another_version_than_asked_is_a_fault(client, triton) -> None:
    def other(outputs, report) -> None:
        report["version"] = 2
        outputs["bundle_version"] = np.array([2])

    tampered(triton, other)

    with pytest.raises(ServerFault, match="it is about screw@2, asked was screw@1"):
        client.activate("screw", 1)


def test_deleting_another_version_than_asked_is_a_fault(client, triton) -> None:
    tampered(triton, lambda outputs, report: report.update(deleted=[1, 2]))

    with pytest.raises(ServerFault, match=r"asked was to delete screw@2, deleted were \[1, 2\]"):
        client.delete("screw", 2)


@pytest.mark.parametrize("deleted", [None, 3, ["1"]])
def test_malformed_report_of_a_deletion_is_a_mismatch(client, triton, deleted) -> None:
    tampered(triton, lambda outputs, report: report.update(deleted=deleted))

    with pytest.raises(ProtocolMismatch, match="expected a list of versions"):
        client.delete("screw")


def test_history_of_another_product_is_refused(client, triton) -> None:
    tampered(triton, lambda outputs, report: report.update(product="nut"))

    with pytest.raises(ServerFault, match="it is about 'nut', asked was 'screw'"):
        client.history("screw")


def test_malformed_history_is_a_mismatch_that_names_the_request(client, triton) -> None:
    tampered(triton, lambda outputs, report: report["changes"][0].pop("operator"))

    with pytest.raises(ProtocolMismatch, match=r"lacks 'changes\[0\]\.operator'") as caught:
        client.history("screw")

    assert caught.value.request_id == triton.requests[-1].id


@pytest.mark.parametrize("name", ["activate", "delete"])
def test_product_that_was_changed_may_belong_to_another_ensemble(
    client, triton, image_path, name
) -> None:
    client.inspect("screw", image_path)
    CALLS[name](client, "screw")
    client.inspect("screw", image_path)

    assert len(triton.requests_to("products")) == 2


def test_mask_that_cannot_be_sent_is_refused_before_anything_is_sent(
    client, triton, tmp_path
) -> None:
    with pytest.raises(InvalidImageError, match=r"missing\.png"):
        client.set_region("screw", ignore_mask=tmp_path / "missing.png")
    with pytest.raises(RequestRejected, match="exclude each other"):
        client.set_region("screw", ignore_mask=b"x", clear_ignore_mask=True)

    assert triton.requests == []
