"""Whenever the power is cut, what is visible is whole and what is numbered stays numbered."""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import replace

import pytest
from bundles import AT, make_bank, publish
from exports import SERVED
from power_cuts import Power
from store_files import hidden, visible

from arriving_files import Arrivals
from bank_store import BankStore
from product_changes import change_region, change_thresholds
from product_files import publish_import
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE
from wire import VERSION_FILES

OLD = ("nut", 1), ("screw", 1), ("screw", 2)


def prepare(root):
    """Two products: `screw` with two versions, the second in force."""
    store = BankStore(root)
    publish(store, "nut", seed=1)
    publish(store, "screw", seed=2)
    publish(store, "screw", seed=3)
    return store


def import_nut_as_washer(store):
    arriving = Arrivals(store, VERSION_FILES, 10**6, "imports").get("session", "washer")
    try:
        for name in (BUNDLE_FILE, BANK_FILE, GOOD_PARTS_FILE):
            arriving.add(name, 0, store.file("nut", 1, name).read_bytes())
        publish_import(arriving, store, "ada", [SERVED])
    finally:
        arriving.close()


def delete_after_another(store):
    """The number that is deleted must be remembered over the one there is."""
    publish(store, "screw", activate=False)
    store.delete("screw", 3, "ada", AT)


ACTS = {
    "publish": lambda store: publish(store, "screw", seed=4),
    "publish a new product": lambda store: publish(store, "bolt", seed=4),
    "publish, not activated": lambda store: publish(store, "screw", activate=False, seed=4),
    "publish inverted lists": lambda store: publish(store, "screw", bank=make_bank(num_lists=3)),
    "activate": lambda store: store.activate("screw", 1, "ada", AT),
    "delete a version": lambda store: store.delete("screw", 1, "ada", AT),
    "delete a product": lambda store: store.delete("screw", None, "ada", AT),
    "delete the highest number": delete_after_another,
    "change a threshold": lambda store: change_thresholds(
        store, store.read_bundle("screw", 2), {"threshold": 0.5}, "ada"
    ),
    "change the region": lambda store: change_region(
        store, store.read_bundle("screw", 2), {"roi_px": [0, 0, 50, 100]}, b"", "ada"
    ),
    "import": import_nut_as_washer,
}
IN_TWO_STEPS = (
    "publish",
    "publish inverted lists",
    "delete the highest number",
    "change a threshold",
    "change the region",
)
"""A version of an existing product is there before it is pointed to."""


def state(store):
    """What a client can see."""
    return {name: (store.resolve(name), store.versions(name)) for name in store.products()}


def require_whole(store):
    """Every visible version is whole, and every pointer leads to one."""
    for product, versions in store.products().items():
        assert store.resolve(product)[1] in versions
        for version in versions:
            bundle = store.read_bundle(product, version)
            store.read_bank(bundle)
            store.read_good_parts(bundle)


def logged(store):
    names = ("screw", "nut", "bolt", "washer")
    return {name: [(c["action"], c["version"]) for c in store.changes(name)] for name in names}


def require_logged_as_it_is(store):
    """The record of changes, told again, ends with what is there; no number is made twice."""
    for product, changes in logged(store).items():
        made, there = set(), set()
        for action, version in changes:
            if action == "deleted":
                there -= there if version is None else {version}
            elif action == "activated":
                assert version in there
            else:
                assert version not in made
                made.add(version)
                there.add(version)
        assert there == set(store.versions(product))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared") / "banks"
    prepare(root)
    return root


@pytest.mark.parametrize("name", ACTS)
def test_power_may_be_cut_at_any_step(name, prepared, tmp_path, monkeypatch):
    act = ACTS[name]
    before = state(BankStore(prepared))
    shutil.copytree(prepared, tmp_path / "undisturbed")
    undisturbed = BankStore(tmp_path / "undisturbed")
    act(undisturbed)
    after = state(undisturbed)
    power = Power(monkeypatch)
    outcomes = []
    for steps in itertools.count():
        root = tmp_path / f"cut after {steps}"
        shutil.copytree(prepared, root)
        if not power.is_cut(root, lambda: act(BankStore(root)), steps):  # noqa: B023
            break
        store = BankStore(root)
        require_whole(store)
        outcomes.append(state(store))
        store.remove_leftovers()
        assert state(store) == outcomes[-1]
        assert set(hidden(store)) <= {".changes.jsonl", ".lock", ".numbers"}
        require_whole(store)
        require_logged_as_it_is(store)
        require_living(store, undisturbed)
    assert len(outcomes) > 5
    assert outcomes[0] == before
    assert outcomes[-1] == after
    between = [one for one in outcomes if one not in (before, after)]
    assert not between or name in IN_TWO_STEPS
    assert state(BankStore(tmp_path / f"cut after {len(outcomes)}")) == after


def require_living(store, undisturbed):
    """Everything can go on, and no number is given twice."""
    for product, version in OLD:
        if version in store.versions(product):
            bundle = store.read_bundle(product, version)
            assert store.read_bank(bundle).tokens.shape == (12, 8)
    highest = {
        name: max([0, *(version or 0 for _, version in changes), *store.versions(name)])
        for name, changes in logged(store).items()
    }
    for product, known in highest.items():
        if product == "nut" or not known:  # nobody touched it
            continue
        made = publish(store, product, seed=9).version
        assert made == store.resolve(product)[1]
        assert made > known
        assert made <= undisturbed.next_version(product) + 1
        store.delete(product, None, "ada", AT)
        assert publish(store, product).version == made + 1
    require_whole(store)
    require_logged_as_it_is(store)


def test_power_cut_tears_what_was_not_flushed(tmp_path, monkeypatch):
    """The test's own means: else none of the above would say much."""
    path = tmp_path / "file"

    def write():
        with path.open("ab") as file:
            file.write(b"0123456789")
            file.flush()
            os.fsync(file.fileno())

    power = Power(monkeypatch)
    assert not power.is_cut(tmp_path, write, 1)
    assert power.is_cut(tmp_path, write, 0)
    assert path.read_bytes() == b"012345678901234"


def test_leftovers_may_be_removed_in_pieces(tmp_path, monkeypatch):
    """The power may go again while the leftovers of the last cut are removed."""
    root = tmp_path / "banks"
    store = prepare(root)
    power = Power(monkeypatch)
    assert power.is_cut(root, lambda: ACTS["delete a version"](store), 12)
    before = visible(store)
    assert hidden(store) != [".changes.jsonl", ".lock", ".numbers"]
    for steps in itertools.count():
        if not power.is_cut(root, store.remove_leftovers, steps):
            break
    assert visible(store) == before
    assert hidden(store) == [".changes.jsonl", ".lock", ".numbers"]
    require_logged_as_it_is(store)


def test_record_of_an_imported_version_says_where_it_comes_from(tmp_path):
    store = prepare(tmp_path / "banks")
    import_nut_as_washer(store)
    bundle = store.read_bundle("washer", 1)
    nut = store.read_bundle("nut", 1)
    assert replace(bundle, product="nut", change=nut.change) == nut
