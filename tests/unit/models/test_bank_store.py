"""Products on disk: versions that never change, and the pointer to the one in force."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from bundles import AT, make_bank, make_good_parts, publish
from store_files import hidden, visible

from bank_store import BankStore
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def test_published_version_comes_back(store):
    bundle = publish(store)
    assert bundle.version == 1
    assert store.resolve("screw") == ("screw", 1)
    again = BankStore(store.root)
    assert again.read_bundle("screw", 1) == bundle
    assert np.array_equal(again.read_bank(bundle).tokens, make_bank().tokens)
    parts = make_good_parts(make_bank())
    assert np.array_equal(again.read_good_parts(bundle).distances, parts.distances)


def test_store_is_laid_out_as_documented(store):
    publish(store)
    publish(store)
    store.delete("screw", 1, "ada", AT)
    assert visible(store) == [
        "screw/2/bank.safetensors",
        "screw/2/bundle.json",
        "screw/2/good_parts.safetensors",
        "screw/current",
    ]
    assert (store.root / "screw" / "current").read_text() == "2\n"
    assert (store.root / ".numbers" / "screw").read_text() == "2\n"
    assert hidden(store) == [".changes.jsonl", ".lock", ".numbers"]


def test_versions_grow_and_old_ones_stay(store):
    first = publish(store, seed=1)
    content = {
        name: (store.root / "screw" / "1" / name).read_bytes()
        for name in os.listdir(store.root / "screw" / "1")
    }
    second = publish(store, seed=2)
    assert store.products() == {"screw": [1, 2]}
    assert store.versions("screw") == [1, 2]
    assert store.resolve("screw") == ("screw", 2)
    assert store.resolve("screw@1") == ("screw", 1)
    assert store.read_bundle("screw", 1) == first
    assert np.array_equal(store.read_bank(first).tokens, make_bank(seed=1).tokens)
    assert np.array_equal(store.read_bank(second).tokens, make_bank(seed=2).tokens)
    assert set(content) == {BUNDLE_FILE, BANK_FILE, GOOD_PARTS_FILE}
    for name, before in content.items():
        assert (store.root / "screw" / "1" / name).read_bytes() == before


def test_versions_are_ordered_by_number_and_not_by_name(store):
    for _ in range(11):
        publish(store)
    assert store.versions("screw") == list(range(1, 12))
    assert store.resolve("screw") == ("screw", 11)


def test_version_that_is_not_activated_waits(store):
    publish(store)
    assert publish(store, activate=False).version == 2
    assert store.resolve("screw") == ("screw", 1)
    assert store.resolve("screw@2") == ("screw", 2)


def test_first_version_of_a_product_is_in_force_whatever_was_asked(store):
    publish(store, activate=False)
    assert store.resolve("screw") == ("screw", 1)


def test_products_do_not_mix(store):
    publish(store, "screw", seed=1)
    publish(store, "nut", seed=2)
    publish(store, "nut", seed=3)
    assert store.products() == {"nut": [1, 2], "screw": [1]}
    assert store.read_bundle("nut", 1).product == "nut"


@pytest.mark.parametrize(
    "name", ["changes.jsonl", "current", "a" * 64, "lock", "1", "x.partial", "numbers"]
)
def test_every_product_name_can_be_lived_with(store, name):
    """None of the store's own files is called as a product may be called."""
    for seed in range(2):
        publish(store, name, seed=seed)
    store.activate(name, 1, "ada", AT)
    assert store.resolve(name) == (name, 1)
    assert [change["action"] for change in store.changes(name)] == [
        "enrolled", "enrolled", "activated",
    ]  # fmt: skip
    store.delete(name, 2, "ada", AT)
    store.remove_leftovers()
    assert store.products() == {name: [1]}
    store.delete(name, None, "ada", AT)
    assert publish(store, name).version == 3


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nut", "unknown product 'nut'; enrolled are: screw"),
        ("nut@1", "unknown product 'nut'; enrolled are: screw"),
        ("", "is not a name"),
        ("../screw", "is not a name"),
        ("screw/1", "is not a name"),
        ("screw@0", "is not a name"),
        ("screw@-1", "is not a name"),
        ("screw@x", "is not a name"),
        ("screw@\u0661", "is not a name"),
        (".screw", "is not a name"),
        (".numbers", "is not a name"),
        ("screw\n", "is not a name"),
        ("a" * 65, "is not a name"),
    ],
)
def test_unknown_references_are_refused(store, reference, reason):
    publish(store)
    store.delete("screw", publish(store, activate=False).version, "", AT)
    with pytest.raises(InspectionRefused, match=reason):
        store.resolve(reference)


def test_unknown_product_is_told_of_the_others_but_not_of_hundreds(store):
    with pytest.raises(InspectionRefused, match="enrolled are: none"):
        store.resolve("screw")
    for index in range(23):
        publish(store, f"product{index:02d}")
    with pytest.raises(InspectionRefused, match="product00, .*product19 and 3 more$"):
        store.resolve("screw")


def test_unknown_version_names_the_known(store):
    publish(store)
    publish(store)
    for ask in (store.stamp, store.read_bundle):
        with pytest.raises(InspectionRefused, match=r"no version 7; it has \[1, 2\]"):
            ask(*store.resolve("screw@7"))


def test_what_lies_around_in_the_store_is_no_product(store):
    publish(store)
    (store.root / "README").write_text("the plant's notes")
    (store.root / "lost+found").mkdir()
    (store.root / "lost+found" / "current").write_text("1")
    (store.root / "empty").mkdir()
    assert store.products() == {"screw": [1]}
    for name in ("README", "README@1", "empty", "empty@1"):
        with pytest.raises(InspectionRefused, match="unknown product"):
            store.resolve(name)
    with pytest.raises(InspectionRefused, match="unknown product 'empty'"):
        store.delete("empty", None, "", AT)
    with pytest.raises(InspectionRefused, match="unknown product 'README'"):
        store.delete("README", None, "", AT)
    assert (store.root / "README").is_file()
    for ask in (store.stamp, store.read_bundle):
        with pytest.raises(InspectionRefused, match=r"'README' has no version 1; it has \[\]"):
            ask("README", 1)


@pytest.mark.parametrize("name", ["²", "٣", "007", "0", "-3", "1000000000", "1e3", "3.bak", "x"])
def test_what_lies_around_in_a_product_is_no_version(store, name):
    publish(store)
    shutil.copytree(store.root / "screw" / "1", store.root / "screw" / name)
    assert store.products() == {"screw": [1]}
    assert publish(store).version == 2


def test_file_called_like_a_version_is_none_and_takes_its_number(store):
    publish(store)
    (store.root / "screw" / "2").write_text("somebody's notes")
    assert store.versions("screw") == [1]
    assert publish(store).version == 3
    for ask in (store.stamp, store.read_bundle):
        with pytest.raises(InspectionRefused, match=r"no version 2; it has \[1, 3\]"):
            ask("screw", 2)
