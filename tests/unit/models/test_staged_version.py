"""A version is published whole and sound, or not at all."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundles import AT, make_bank, make_draft, make_good_parts, publish
from store_files import hidden, visible

from bank_store import BankStore
from change_log import CHANGES_FILE
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def publish_shared(store, first):
    """A version of its own with the files of another."""
    with store.staging() as staging:
        staging.share(BANK_FILE, first)
        staging.share(GOOD_PARTS_FILE, first)
        return staging.publish(replace(first, threshold=0.5))


@pytest.mark.parametrize(
    "change",
    [
        {"product": "../screw"},
        {"num_patches": 11},
        {"threshold": -1.0},
        {"bank_sha256": "e" * 64},
        {"good_parts_sha256": "e" * 64},
        {"bank_sha256": ""},
    ],
)
def test_record_that_contradicts_itself_or_its_files_is_not_published(store, change):
    publish(store)
    before = visible(store)
    with pytest.raises((ValueError, InspectionRefused)):
        publish(store, **change)
    assert visible(store) == before
    assert hidden(store) == [".changes.jsonl", ".lock"]
    assert len(store.changes("screw")) == 1


def test_version_without_its_files_is_not_published(store):
    draft = make_draft(make_bank(), make_good_parts(make_bank()))
    draft = replace(draft, bank_sha256="e" * 64, good_parts_sha256="f" * 64)
    with store.staging() as staging, pytest.raises(InspectionRefused, match="bank.safetensors"):
        staging.publish(draft)
    assert store.products() == {}


def test_bank_is_shared_and_not_copied(store):
    first = publish(store)
    second = publish_shared(store, first)
    assert store.read_bundle("screw", 2) == second
    assert store.file("screw", 1, BANK_FILE).samefile(store.file("screw", 2, BANK_FILE))
    store.delete("screw", 1, "ada", AT)
    assert np.array_equal(store.read_bank(second).tokens, make_bank().tokens)


def test_bank_is_copied_where_it_cannot_be_shared(store, monkeypatch):
    first = publish(store)

    def no_links(*args):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    second = publish_shared(store, first)
    assert not store.file("screw", 1, BANK_FILE).samefile(store.file("screw", 2, BANK_FILE))
    assert np.array_equal(store.read_bank(second).tokens, make_bank().tokens)


@pytest.mark.parametrize("name", [BANK_FILE, GOOD_PARTS_FILE])
@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")]
)
def test_damaged_file_is_not_shared(store, name, damage):
    """Else a change of a threshold would put in force what cannot answer."""
    first = publish(store)
    damage(store.file("screw", 1, name))
    with pytest.raises(InspectionRefused, match=f"{name} .*enrol the product again"):
        publish_shared(store, first)
    assert store.versions("screw") == [1]
    assert hidden(store) == [".changes.jsonl", ".lock"]


def test_everything_is_on_disk_before_it_is_visible(store, monkeypatch):
    """Files are flushed before the rename, the rename before the pointer, that before the log."""
    publish(store)
    steps = []
    fsync, rename, replaced = os.fsync, Path.rename, Path.replace

    def noted_fsync(descriptor):
        steps.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_rename(path, target):
        steps.append(("show", Path(target).name))
        return rename(path, target)

    def noted_replace(path, target):
        steps.append(("show", Path(target).name))
        return replaced(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(Path, "replace", noted_replace)
    publish(store)
    version, pointer = steps.index(("show", "2")), steps.index(("show", "current"))
    log = steps.index(("flush", CHANGES_FILE))
    files = {("flush", name) for name in (BANK_FILE, GOOD_PARTS_FILE, BUNDLE_FILE, "version")}
    assert files <= set(steps[:version])
    assert ("flush", "screw") in steps[version:pointer]
    assert [name[:9] for step, name in steps[version:pointer] if step == "flush"][-1] == ".current."
    assert ("flush", "screw") in steps[pointer:log]
    steps.clear()
    publish(store, "nut")
    appears, log = steps.index(("show", "nut")), steps.index(("flush", CHANGES_FILE))
    home = steps[appears - 1][1]  # the hidden folder that becomes the product's
    assert home.endswith(".partial")
    assert steps[appears - 1] == ("flush", home)
    assert steps.index(("show", "1")) < steps.index(("show", "current")) < appears
    assert ("flush", "banks") in steps[appears:log]
