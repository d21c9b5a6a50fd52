"""A product's life: forward, back, away, and who did it."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict

import pytest
from bundles import AT, publish
from store_files import hidden, visible

import staged_version
from bank_store import BankStore
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def test_activating_goes_back_and_forward(store):
    for seed in range(3):
        publish(store, seed=seed)
    assert store.activate("screw", 1, "ada", AT).version == 1
    assert store.resolve("screw") == ("screw", 1)
    store.activate("screw", 3, "bob", AT)
    assert store.resolve("screw") == ("screw", 3)
    # fmt: off
    assert store.changes("screw")[-2:] == [
        {"at": AT, "operator": "ada", "action": "activated", "product": "screw", "version": 1,
         "in_force": True},
        {"at": AT, "operator": "bob", "action": "activated", "product": "screw", "version": 3,
         "in_force": True},
    ]
    # fmt: on


@pytest.mark.parametrize("name", [BANK_FILE, BUNDLE_FILE])
def test_damaged_version_is_not_put_in_force(store, name):
    publish(store, seed=1)
    publish(store, seed=2)
    store.file("screw", 1, name).write_bytes(b"damaged")
    with pytest.raises(InspectionRefused, match="is damaged"):
        store.activate("screw", 1, "ada", AT)
    with pytest.raises(InspectionRefused, match="no version 7"):
        store.activate("screw", 7, "ada", AT)
    with pytest.raises(InspectionRefused, match="unknown product 'nut'"):
        store.activate("nut", 1, "ada", AT)
    assert store.resolve("screw") == ("screw", 2)
    assert [change["action"] for change in store.changes("screw")] == ["enrolled", "enrolled"]


def test_only_the_version_in_force_is_continued(store):
    first = publish(store)
    second = publish(store)
    store.require_in_force(second)
    with pytest.raises(InspectionRefused, match="version 2 of product 'screw' came into force"):
        store.require_in_force(first)
    store.delete("screw", None, "ada", AT)
    with pytest.raises(InspectionRefused, match="unknown product"):
        store.require_in_force(second)


def test_deleted_version_is_gone_and_its_number_too(store):
    for _ in range(3):
        publish(store)
    store.activate("screw", 1, "ada", AT)
    assert store.delete("screw", 3, "ada", AT) == [3]
    assert store.products() == {"screw": [1, 2]}
    with pytest.raises(InspectionRefused, match=r"no version 3; it has \[1, 2\]"):
        store.read_bundle(*store.resolve("screw@3"))
    assert publish(store).version == 4
    assert store.changes("screw")[-2] == {
        "at": AT, "operator": "ada", "action": "deleted", "product": "screw", "version": 3,
        "in_force": False,
    }  # fmt: skip


def test_deleted_product_is_gone_and_its_numbers_too(store):
    publish(store, "nut")
    for _ in range(3):
        publish(store)
    assert store.delete("screw", None, "ada", AT) == [1, 2, 3]
    assert store.products() == {"nut": [1]}
    assert visible(store) == [
        f"nut/1/{name}" for name in sorted(os.listdir(store.root / "nut" / "1"))
    ] + ["nut/current"]
    with pytest.raises(InspectionRefused, match="unknown product 'screw'"):
        store.resolve("screw@2")
    assert BankStore(store.root).changes("screw")[-1]["version"] is None
    assert publish(store).version == 4
    assert store.products() == {"nut": [1], "screw": [4]}


def test_numbers_are_not_given_twice_however_often_a_product_is_deleted(store):
    given = []
    for _ in range(3):
        given += [publish(store).version, publish(store).version]
        store.delete("screw", given[-2], "", AT)
        store.delete("screw", None, "", AT)
    assert given == [1, 2, 3, 4, 5, 6]


def test_numbers_are_not_given_twice_when_their_record_is_damaged(store):
    for _ in range(3):
        publish(store)
    store.delete("screw", None, "ada", AT)
    for content in (b"", b"x", b"\xff"):
        (store.root / ".numbers" / "screw").write_bytes(content)
        assert store.next_version("screw") == 4


def test_pointer_to_what_was_removed_by_hand_never_points_to_what_is_new(store):
    publish(store)
    publish(store)
    shutil.rmtree(store.root / "screw" / "2")
    assert publish(store, activate=False).version == 3
    with pytest.raises(InspectionRefused, match=r"no version 2; it has \[1, 3\]"):
        store.read_bundle(*store.resolve("screw"))


def test_version_in_force_is_not_deleted(store):
    publish(store)
    publish(store)
    with pytest.raises(InspectionRefused, match="version 2 of product 'screw' is in force"):
        store.delete("screw", 2, "ada", AT)
    with pytest.raises(InspectionRefused, match=r"no version 7; it has \[1, 2\]"):
        store.delete("screw", 7, "ada", AT)
    with pytest.raises(InspectionRefused, match="unknown product 'nut'"):
        store.delete("nut", None, "ada", AT)
    with pytest.raises(InspectionRefused, match="unknown product 'nut'"):
        store.delete("nut", 1, "ada", AT)
    assert store.products() == {"screw": [1, 2]}


def test_damaged_product_can_be_deleted(store):
    for damage in (
        lambda: (store.root / "screw" / "current").write_text("x"),
        lambda: (store.root / "screw" / "current").unlink(),
        lambda: shutil.rmtree(next((store.root / "screw").glob("[1-9]*"))),
        lambda: next((store.root / "screw").glob("*/bundle.json")).write_text("x"),
    ):
        number = publish(store).version
        damage()
        store.delete("screw", None, "ada", AT)
        assert not (store.root / "screw").exists()
        assert store.next_version("screw") == number + 1


def test_product_that_is_a_link_is_deleted_without_what_it_leads_to(store, tmp_path):
    """Some plants put large products on another disk."""
    publish(store)
    (store.root / "screw").rename(tmp_path / "other disk")
    (store.root / "screw").symlink_to(tmp_path / "other disk")
    assert store.products() == {"screw": [1]}
    store.delete("screw", None, "ada", AT)
    assert store.products() == {}
    assert hidden(store) == [".changes.jsonl", ".lock", ".numbers"]
    assert (tmp_path / "other disk" / "1" / BANK_FILE).is_file()


def test_changes_tell_who_did_what(store):
    publish(store)
    second = publish(store, activate=False)
    store.activate("screw", 2, "bob", "2026-01-02T00:00:00+00:00")
    made = [asdict(second.change)[key] for key in ("at", "operator", "action")]
    assert [list(change.values()) for change in store.changes("screw")] == [
        ["enrolled", AT, True, "ada", "screw", 1],
        [made[2], made[0], False, made[1], "screw", 2],
        ["activated", "2026-01-02T00:00:00+00:00", True, "bob", "screw", 2],
    ]
    assert store.changes("nut") == []


def test_version_that_a_crash_left_waiting_is_not_said_to_have_been_in_force(store, monkeypatch):
    publish(store)
    with monkeypatch.context() as dying:
        dying.setattr(staged_version, "replace_durably", lambda *given: sys.exit("killed"))
        with pytest.raises(SystemExit):
            publish(store)
    assert store.resolve("screw") == ("screw", 1)
    store.remove_leftovers()
    settled = BankStore(store.root).changes("screw")
    assert [(line["version"], line["in_force"]) for line in settled] == [(1, True), (2, False)]
