"""Whatever is damaged in the store is refused by its name, and the rest goes on."""

from __future__ import annotations

import json
import shutil

import pytest
from bundles import AT, publish

from bank_store import BankStore
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def test_damaged_bank_is_refused(store):
    bundle = publish(store)
    path = store.file("screw", 1, BANK_FILE)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    what = "the memory bank of version 1 of product 'screw'"
    with pytest.raises(InspectionRefused, match=f"{what} is damaged"):
        store.read_bank(bundle)
    path.unlink()
    with pytest.raises(InspectionRefused, match=f"{what} is missing"):
        store.read_bank(bundle)


def test_damaged_calibration_is_refused(store):
    bundle = publish(store)
    path = store.file("screw", 1, GOOD_PARTS_FILE)
    path.write_bytes(path.read_bytes()[:-1])
    what = "the calibration of version 1 of product 'screw'"
    with pytest.raises(InspectionRefused, match=f"{what} is damaged"):
        store.read_good_parts(bundle)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b'{"product": "screw"', "Expecting"),
        (b'{"format_version": 3}', "format_version is 3, this server reads 2"),
        (b"\xff\xff", "decode"),
        (b"[" * 200_000, "nested too deep"),
    ],
)
def test_damaged_record_is_refused(store, content, reason):
    publish(store)
    store.file("screw", 1, BUNDLE_FILE).write_bytes(content)
    message = f"version 1 of product 'screw' is damaged or of another format.*{reason}"
    with pytest.raises(InspectionRefused, match=message):
        store.read_bundle("screw", 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"threshold": float("nan")}, "NaN is no number"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"num_patches": 11}, "num_patches is 11"),
        ({"version": 2}, "names another product or version"),
        ({"product": "nut"}, "names another product or version"),
    ],
)
def test_record_edited_by_hand_is_refused(store, change, reason):
    publish(store)
    path = store.file("screw", 1, BUNDLE_FILE)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InspectionRefused, match=reason):
        store.read_bundle("screw", 1)


def test_copied_version_is_refused(store):
    publish(store)
    shutil.copytree(store.root / "screw" / "1", store.root / "screw" / "9")
    with pytest.raises(InspectionRefused, match="version 9 .*names another product or version"):
        store.read_bundle("screw", 9)


def test_version_that_lost_its_record_is_damaged_and_not_unknown(store):
    publish(store)
    store.file("screw", 1, BUNDLE_FILE).unlink()
    for ask in (store.stamp, store.read_bundle):
        with pytest.raises(InspectionRefused, match="version 1 .* damaged .*No such file") as said:
            ask("screw", 1)
        assert str(store.root) not in str(said.value)


@pytest.mark.parametrize("content", ["", "x", "-1", "1_0", "0", "٣", "1\n2", "1.0"])
def test_damaged_pointer_is_refused_and_repaired_by_activating(store, content):
    publish(store)
    publish(store)
    (store.root / "screw" / "current").write_text(content, encoding="utf-8")
    with pytest.raises(InspectionRefused, match="'screw' has a damaged version pointer"):
        store.resolve("screw")
    assert store.resolve("screw@1") == ("screw", 1)  # whoever says which is answered
    assert store.products() == {"screw": [1, 2]}
    store.activate("screw", 2, "ada", AT)
    assert store.resolve("screw") == ("screw", 2)


def test_lost_pointer_is_put_back_by_activating_or_by_the_next_version(store):
    for repair in (
        lambda: store.activate("screw", 1, "ada", AT),
        lambda: publish(store, activate=False),
    ):
        publish(store)
        (store.root / "screw" / "current").unlink()
        with pytest.raises(InspectionRefused, match="unknown product 'screw'"):
            store.resolve("screw")
        repair()
        assert "screw" in store.products()
