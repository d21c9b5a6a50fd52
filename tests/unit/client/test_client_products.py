from __future__ import annotations

import json

import grpc
import numpy as np
import pytest
from fake_products import change_line
from fake_server import ENSEMBLE, Fault, product_report, version_report

from dinspect_client import DamagedVersion, ProductHistory, ProtocolMismatch


def test_products_lists_all_of_them(client, triton) -> None:
    triton.products["nut"] = product_report("nut", current=1, versions=[1])

    screw, nut = client.products()

    assert (screw.name, screw.current, screw.versions) == ("screw", 3, (1, 2, 3))
    assert screw.ensemble == ENSEMBLE
    assert screw.image_size == (300, 400)
    assert nut.versions == (1,)
    assert (screw.normal_below, screw.masked, screw.loaded_bytes) == (0.35, True, 50331648)
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
        (b'[{"product": "screw"}]', "lacks 'method'"),
        (b'[{"product": "screw", "method": "l2bt"}]', "lacks 'current'"),
        (json.dumps([product_report("screw", grid=[1])]).encode(), "malformed"),
        (json.dumps([product_report("screw", threshold=None)]).encode(), "malformed"),
        (b"[3]", "malformed"),
    ],
)
def test_malformed_product_list_is_a_mismatch(client, triton, report, message) -> None:
    triton._list_products = lambda inputs: {"products": np.array([report], dtype=np.object_)}

    with pytest.raises(ProtocolMismatch, match=message):
        client.products()


def history_of(changes, current: int, kept) -> ProductHistory:
    """A history of changes such as ``enrolled 1``; one that only waits is ``(enrolled 2)``."""
    lines = []
    for change in changes.split(", "):
        action, version = change.strip("()").split()
        number = None if version == "all" else int(version)
        in_force = not change.startswith("(") and action != "deleted"
        lines.append(change_line(action, number, in_force=in_force))
    versions = [version_report("screw", number) for number in kept]
    report = {"product": "screw", "current": current, "versions": versions, "changes": lines}
    return ProductHistory.from_report(report)


THREE = "enrolled 1, appended 2, thresholds 3"


@pytest.mark.parametrize(
    ("changes", "current", "kept", "before"),
    [
        ("enrolled 1", 1, (1,), None),
        (THREE, 3, (1, 2, 3), 2),
        (THREE, 2, (1, 2, 3), 1),  # a crash before the pointer was moved
        ("enrolled 1, (enrolled 2), enrolled 3", 3, (1, 2, 3), 1),
        ("enrolled 1, (enrolled 2), activated 2, enrolled 3", 3, (1, 2, 3), 2),
        # Going back twice goes back further, and not forward again.
        (f"{THREE}, activated 2", 2, (1, 2, 3), 1),
        (f"{THREE}, activated 2, activated 1", 1, (1, 2, 3), None),
        (f"{THREE}, activated 1, region 4", 4, (1, 2, 3, 4), 1),
        (f"{THREE}, activated 1, activated 3", 3, (1, 2, 3), 1),
        (f"{THREE}, activated 3", 3, (1, 2, 3), 2),  # which it was already
        # Deleted versions lead nowhere.
        (f"{THREE}, deleted 1", 3, (2, 3), 2),
        (f"{THREE}, deleted 2", 3, (1, 3), 1),
        ("enrolled 1, deleted all, enrolled 2", 2, (2,), None),
        ("enrolled 1, deleted all, enrolled 2, enrolled 3", 3, (2, 3), 2),
        # A record with gaps tells nothing.
        ("enrolled 1", 2, (1, 2), None),
        ("enrolled 1, enrolled 3", 3, (2, 3), None),
    ],
)
def test_version_before_is_the_one_to_go_back_to(changes, current, kept, before) -> None:
    assert history_of(changes, current, kept).version_before() == before


def test_history_keeps_damaged_versions_with_their_error() -> None:
    report = {
        "product": "screw",
        "current": 2,
        "versions": [
            version_report("screw", 1),
            {"product": "screw", "version": 2, "error": "its record is cut short"},
        ],
        "changes": [],
    }
    history = ProductHistory.from_report(report)

    assert history.versions[0].version == 1
    assert history.in_force == DamagedVersion("screw", 2, "its record is cut short")
    assert history.to_dict() == report


def test_version_in_force_that_is_not_there_is_damaged() -> None:
    report = {"product": "screw", "current": 9, "versions": [], "changes": []}

    assert ProductHistory.from_report(report).in_force == DamagedVersion(
        "screw", 9, "the server has no such version"
    )
