"""Products that come from another server: whole, sound and of a backbone served here, or refused."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from bundles import AT, make_bank, make_good_parts, publish
from exports import SERVED, files_of, imported
from store_files import hidden

import arriving_files
import product_files
from arriving_files import Arrivals
from bank_store import BankStore
from product_files import publish_import, read_part
from refusals import InspectionRefused
from sessions import MAX_SESSIONS
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE
from wire import VERSION_FILES


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def elsewhere(tmp_path):
    return BankStore(tmp_path / "elsewhere")


@pytest.fixture
def imports(store):
    return Arrivals(store, VERSION_FILES, 10**6, "imports")


# There and back


@pytest.mark.parametrize(
    "bank",
    [
        make_bank(),
        make_bank(1, num_rotations=8),
        make_bank(3, num_lists=4),
        make_bank(2, foreground=np.array([[False, True, True], [True, True, True]])),
    ],
)
def test_imported_product_is_the_exported_one(store, elsewhere, imports, bank):
    publish(elsewhere)
    original = publish(elsewhere, bank=bank)
    made = imported(imports, store, files_of(elsewhere, original))
    assert (made.product, made.version) == ("washer", 1)
    change = replace(
        made.change, action="enrolled", operator="ada", at=AT, origin="", from_version=None
    )
    assert replace(made, product="screw", version=2, change=change) == original
    assert store.resolve("washer") == ("washer", 1)
    assert store.read_bundle("washer", 1) == made
    assert np.array_equal(store.read_bank(made).tokens, bank.tokens)
    assert np.array_equal(store.read_good_parts(made).distances, make_good_parts(bank).distances)
    assert hidden(store) == [".changes.jsonl", ".lock"]


def test_import_says_who_and_where_it_comes_from(store, elsewhere, imports):
    publish(store, "washer")
    original = publish(elsewhere)
    made = imported(imports, store, files_of(elsewhere, original))
    assert made.version == 2
    assert (made.change.action, made.change.operator, made.change.origin) == (
        "imported", "bob", "screw@1",
    )  # fmt: skip
    assert made.change.from_version is None
    assert (made.created_at, made.created_by) == (original.created_at, "grace")
    assert store.changes("washer")[-1]["action"] == "imported"


def test_product_may_come_back_under_its_own_name(store, imports):
    original = publish(store)
    made = imported(imports, store, files_of(store, original), product="screw")
    assert store.products() == {"screw": [1, 2]}
    assert made.change.origin == "screw@1"
    assert files_of(store, original)[BANK_FILE] == files_of(store, made)[BANK_FILE]


def test_ensemble_is_the_one_that_runs_the_backbone_here(store, elsewhere, imports):
    files = files_of(elsewhere, publish(elsewhere, ensemble="anomaly_dino_elsewhere"))
    assert imported(imports, store, files).ensemble == "anomaly_dino_28x42"


def test_file_arrives_in_parts(store, elsewhere, imports):
    files = files_of(elsewhere, publish(elsewhere))
    for name, content in files.items():
        for offset in range(0, len(content), 100):
            imports.get("session", "washer").add(name, offset, content[offset : offset + 100])
    made = publish_import(imports.get("session", "washer"), store, "bob", [SERVED])
    imports.drop("session")
    assert store.file("washer", 1, BANK_FILE).read_bytes() == files[BANK_FILE]
    store.read_bank(made)


def test_parts_of_several_imports_do_not_mix(store, elsewhere, imports):
    bundles = [publish(elsewhere, seed=seed) for seed in range(3)]
    for name in VERSION_FILES:
        for number, bundle in enumerate(bundles):
            imports.get(str(number), f"part{number}").add(
                name, 0, files_of(elsewhere, bundle)[name]
            )
    for number, bundle in enumerate(bundles):
        made = publish_import(imports.get(str(number), f"part{number}"), store, "", [SERVED])
        imports.drop(str(number))
        assert made.bank_sha256 == bundle.bank_sha256
        store.read_bank(made)


# Parts that do not fit


def test_lost_or_repeated_part_is_noticed(imports):
    arriving = imports.get("session", "washer")
    arriving.add(BANK_FILE, 0, b"0123456789")
    for offset in (0, 5, 20):
        message = f"bank.safetensors has 10 bytes so far, the part begins at {offset}"
        with pytest.raises(InspectionRefused, match=message):
            arriving.add(BANK_FILE, offset, b"0123456789")
    arriving.add(BANK_FILE, 10, b"")
    arriving.add(BUNDLE_FILE, 0, b"{}")
    imports.drop("session")


@pytest.mark.parametrize(
    "file",
    ["", "x", "../bank.safetensors", "/etc/passwd", "bank.safetensors/", ".lock", None, 5, [], {}],
)
def test_only_a_version_s_files_can_be_sent_or_read(store, imports, file):
    bundle = publish(store)
    arriving = imports.get("session", "washer")
    with pytest.raises(InspectionRefused, match="expected one of bundle.json, bank.safetensors"):
        arriving.add(file, 0, b"content")
    assert os.listdir(arriving.folder.path) == [".lock"]
    with pytest.raises(InspectionRefused, match="expected one of bundle.json, bank.safetensors"):
        read_part(store, bundle, file, 0)
    imports.drop("session")


def test_import_stays_within_its_limit(store):
    imports = Arrivals(store, VERSION_FILES, 1000, "imports")
    arriving = imports.get("session", "washer")
    arriving.add(BANK_FILE, 0, b"x" * 600)
    arriving.add(GOOD_PARTS_FILE, 0, b"x" * 400)
    for file, offset in ((BANK_FILE, 600), (BUNDLE_FILE, 0)):
        with pytest.raises(InspectionRefused, match="more than the 1000 bytes that the server"):
            arriving.add(file, offset, b"x")
    imports.drop("session")


def test_record_is_not_as_large_as_a_bank(store, monkeypatch):
    monkeypatch.setattr(arriving_files, "MAX_RECORD_BYTES", 100)
    imports = Arrivals(store, VERSION_FILES, 10**6, "imports")
    arriving = imports.get("session", "washer")
    arriving.add(BUNDLE_FILE, 0, b"x" * 100)
    with pytest.raises(InspectionRefused, match="bundle.json takes more than 100 bytes"):
        arriving.add(BUNDLE_FILE, 100, b"x")
    imports.drop("session")


def test_session_belongs_to_one_product(imports):
    imports.get("session", "washer")
    with pytest.raises(
        InspectionRefused, match="session 'session' of the imports is for 'washer', not 'nut'"
    ):
        imports.get("session", "nut")
    imports.drop("session")
    imports.get("session", "nut")
    imports.drop("session")
    imports.drop("session")  # no harm


def test_imports_are_bounded_and_leave_nothing(store, imports):
    for number in range(MAX_SESSIONS):
        imports.get(str(number), "washer").add(BANK_FILE, 0, b"x")
    with pytest.raises(InspectionRefused, match=f"{MAX_SESSIONS} imports are open already"):
        imports.get("more", "washer")
    partial = [name for name in hidden(store) if name.endswith(".partial")]
    assert len(partial) == MAX_SESSIONS
    imports.get("3", "washer").add(BANK_FILE, 1, b"y")  # an open one goes on
    for number in range(MAX_SESSIONS):
        imports.drop(str(number))
    assert hidden(store) == [".lock"]


def test_abandoned_import_is_forgotten(imports):
    abandoned = imports.get("0", "washer")
    abandoned.add(BANK_FILE, 0, b"x")
    abandoned.touched_s -= 10_000
    going_on = imports.get("1", "washer")
    assert not abandoned.folder.path.exists()
    assert imports.get("0", "nut") is not abandoned
    assert imports.get("1", "washer") is going_on
    imports.drop("0")
    imports.drop("1")


def test_import_outlives_the_removal_of_leftovers(store, elsewhere, imports):
    """The model that enrols may be loaded again while the one that manages has an import open."""
    files = files_of(elsewhere, publish(elsewhere))
    imports.get("session", "washer").add(BANK_FILE, 0, files[BANK_FILE][:50])
    BankStore(store.root).remove_leftovers()
    arriving = imports.get("session", "washer")
    arriving.add(BANK_FILE, 50, files[BANK_FILE][50:])
    arriving.add(BUNDLE_FILE, 0, files[BUNDLE_FILE])
    BankStore(store.root).remove_leftovers()
    arriving.add(GOOD_PARTS_FILE, 0, files[GOOD_PARTS_FILE])
    assert publish_import(arriving, store, "", [SERVED]).version == 1
    imports.drop("session")


# Reading


def test_version_is_read_in_parts(store, monkeypatch):
    bundle = publish(store)
    monkeypatch.setattr(product_files, "MAX_CONTENT_BYTES", 100)
    for name, content in files_of(store, bundle).items():
        read = b""
        while len(read) < len(content):
            part, size = read_part(store, bundle, name, len(read))
            assert size == len(content)
            assert len(part) == min(100, len(content) - len(read))
            read += part
        assert read == content
        assert read_part(store, bundle, name, len(content)) == (b"", len(content))
        for offset in (len(content) + 1, 10**400):
            with pytest.raises(InspectionRefused, match=f"{len(content)} bytes, none from"):
                read_part(store, bundle, name, offset)


def test_file_that_is_gone_or_none_is_refused_without_its_path(store, tmp_path):
    bundle = publish(store)
    path = store.file("screw", 1, BANK_FILE)
    (tmp_path / "secret").write_text("secret")
    for replaced, reason in (
        (lambda: None, "No such file"),
        (path.mkdir, "Is a directory"),
        (lambda: os.mkfifo(path), "is no file"),
        (lambda: path.symlink_to(tmp_path / "secret"), "symbolic link"),
    ):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        replaced()
        with pytest.raises(InspectionRefused, match=reason) as refusal:
            read_part(store, bundle, BANK_FILE, 0)
        assert str(store.root) not in str(refusal.value)
