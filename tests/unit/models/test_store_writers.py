"""Writers that fail, leave something behind, or come all at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundles import AT, make_bank, publish
from store_files import hidden, visible

from bank_store import BankStore
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def test_failed_write_leaves_the_old_version_in_force_and_nothing_else(store, monkeypatch):
    publish(store, seed=1)
    before = visible(store)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    for product in ("screw", "nut"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", full_disk)
            with pytest.raises(OSError, match="No space left"):
                publish(store, product, seed=2)
        assert visible(store) == before
        assert [name for name in hidden(store) if name.endswith(".partial")] == []
    assert store.resolve("screw") == ("screw", 1)
    assert publish(store).version == 2
    assert [change["version"] for change in store.changes("screw")] == [1, 2]
    assert store.changes("nut") == []


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(store):
    publish(store)
    before = visible(store)
    half = store.root / ".0123.partial"
    (half / "version").mkdir(parents=True)
    (half / "version" / BANK_FILE).write_bytes(b"half")
    (store.root / "screw" / ".current.0123").write_text("2")
    (store.root / ".numbers").mkdir()
    (store.root / ".numbers" / ".screw.0123").write_text("2")
    (store.root / ".numbers" / "screw").write_text("7")
    assert store.products() == {"screw": [1]}
    store.remove_leftovers()
    assert visible(store) == before
    assert hidden(store) == [".changes.jsonl", ".lock", ".numbers"]
    assert publish(store).version == 8


def test_leftovers_do_not_include_an_import_under_way(store):
    folder = store.work_folder()
    (folder.path / BUNDLE_FILE).write_bytes(b"the first part")
    store.remove_leftovers()
    BankStore(store.root).remove_leftovers()
    assert (folder.path / BUNDLE_FILE).read_bytes() == b"the first part"
    folder.remove()


def test_writers_never_share_a_version(store):
    def publish_many(seed):
        writer = BankStore(store.root)
        return [publish(writer, seed=seed).version for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(publish_many, range(4)))
    assert sorted(version for versions in given for version in versions) == list(range(1, 41))
    for seed, versions in enumerate(given):
        for version in versions:
            found = store.read_bank(store.read_bundle("screw", version))
            assert np.array_equal(found.tokens, make_bank(seed=seed).tokens)
    assert [change["version"] for change in store.changes("screw")] == list(range(1, 41))


def read_whole(store):
    """What a reader does; the refusal, or None if it was answered."""
    seen = store.products()
    assert seen.pop("stays") == [1]
    assert set(seen) <= {"screw"}
    assert all(seen.values())
    try:
        product, version = store.resolve("screw")
        store.stamp(product, version)
        bundle = store.read_bundle(product, version)
        assert bundle.version == version
        store.read_bank(bundle)
        store.read_good_parts(bundle)
    except InspectionRefused as refusal:
        return str(refusal)
    return None


def test_readers_see_whole_products_only_while_they_come_and_go(store):
    """Whatever a reader is told must be so, or refused as gone; nothing else may happen."""
    publish(store, "stays")
    answers = []

    def come_and_go():
        writer = BankStore(store.root)
        for _ in range(200):
            first = publish(writer).version
            publish(writer)
            writer.delete("screw", first, "", AT)
            writer.delete("screw", None, "", AT)
            if None in answers and len(set(answers)) > 1:
                break

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(come_and_go)
        while not writing.done():
            answers += list(pool.map(lambda _: read_whole(store), range(10)))
        writing.result()
    assert None in answers  # else the product was never there
    refusals = set(answers) - {None}
    assert refusals
    gone = ("unknown product", "has no version", "is missing", "cannot be read", "No such file")
    assert [said for said in refusals if not any(part in said for part in gone)] == []
