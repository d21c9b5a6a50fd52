from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bank_cache import BankCache
from bank_store import BankStore
from refusals import InspectionRefused

RECORD = {
    "method": "anomaly_dino",
    "ensemble": "anomaly_dino_448",
    "grid": [2, 2],
    "image_size": [300, 300],
    "layer": 12,
    "num_references": 1,
    "threshold": 0.5,
    "normal_below": 0.5,
    "calibration": {"method": "by_hand"},
    "backbone": {"onnx_sha256": "a" * 64},
    "references": [],
    "operator": "",
    "created_at": "2026-01-01T00:00:00+00:00",
}


def bank(rows=4, dim=8, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def test_published_bank_comes_back(store):
    bundle = store.publish("screw", bank(), **RECORD)
    assert (bundle.version, bundle.num_patches, bundle.dim) == (1, 4, 8)
    assert store.resolve("screw") == ("screw", 1)
    again = BankStore(store.root)
    assert again.read_bundle("screw", 1) == bundle
    assert np.array_equal(again.read_bank(bundle), bank())


def test_versions_grow_and_old_ones_stay(store):
    store.publish("screw", bank(seed=1), **RECORD)
    store.publish("screw", bank(seed=2), **RECORD)
    assert store.products() == {"screw": [1, 2]}
    assert store.resolve("screw") == ("screw", 2)
    assert store.resolve("screw@1") == ("screw", 1)
    assert np.array_equal(store.read_bank(store.read_bundle("screw", 1)), bank(seed=1))


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nut", "unknown product 'nut'; enrolled are: screw"),
        ("", "is not a name"),
        ("../screw", "is not a name"),
        ("screw@0", "is not a name"),
        ("screw@x", "is not a name"),
        (".screw", "is not a name"),
        ("a" * 65, "is not a name"),
    ],
)
def test_unknown_references_are_refused(store, reference, reason):
    store.publish("screw", bank(), **RECORD)
    with pytest.raises(InspectionRefused, match=reason):
        store.resolve(reference)


def test_unknown_version_names_the_known(store):
    store.publish("screw", bank(), **RECORD)
    with pytest.raises(InspectionRefused, match=r"no version 7; it has \[1\]"):
        store.read_bundle(*store.resolve("screw@7"))


def test_damage_is_noticed(store):
    bundle = store.publish("screw", bank(), **RECORD)
    path = store.root / "screw" / "1" / "bank.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InspectionRefused, match="is damaged"):
        store.read_bank(bundle)
    path.unlink()
    with pytest.raises(InspectionRefused, match="lost its memory bank"):
        store.read_bank(bundle)
    (path.parent / "bundle.json").write_text('{"product": "screw"')
    with pytest.raises(InspectionRefused, match="damaged or of another format"):
        store.read_bundle("screw", 1)
    (store.root / "screw" / "current").write_text("x")
    with pytest.raises(InspectionRefused, match="damaged version pointer"):
        store.resolve("screw")


def test_failed_write_leaves_nothing_visible(store, monkeypatch):
    store.publish("screw", bank(), **RECORD)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.publish("screw", bank(), **RECORD)
    monkeypatch.undo()
    assert store.products() == {"screw": [1]}
    assert [path.name for path in store.root.iterdir()] == ["screw"]


def test_leftovers_of_a_killed_enrolment_are_removed(store):
    store.publish("screw", bank(), **RECORD)
    half = store.root / ".0123.partial"
    half.mkdir()
    (half / "bank.safetensors").write_bytes(b"half")
    (store.root / "screw" / ".current.0123").write_text("2")
    assert store.products() == {"screw": [1]}
    store.remove_leftovers()
    assert sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file()) == [
        "screw/1/bank.safetensors",
        "screw/1/bundle.json",
        "screw/current",
    ]


def test_two_writers_never_share_a_version(store):
    def publish_many(seed):
        writer = BankStore(store.root)
        return [writer.publish("screw", bank(seed=seed), **RECORD).version for _ in range(10)]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(publish_many, (1, 2))
    assert sorted(first + second) == list(range(1, 21))
    for seed, versions in ((1, first), (2, second)):
        for version in versions:
            found = store.read_bank(store.read_bundle("screw", version))
            assert np.array_equal(found, bank(seed=seed))


def test_record_is_json_a_person_can_read(store):
    store.publish("screw", bank(), **RECORD)
    record = json.loads((store.root / "screw" / "1" / "bundle.json").read_text())
    assert record["threshold"] == 0.5
    assert len(record["bank_sha256"]) == 64


def cache(store, max_bytes=1 << 20, digest="a" * 64):
    return BankCache(store, digest, "fp32", max_bytes)


def test_new_version_answers_the_next_request(store):
    store.publish("screw", bank(), **RECORD)
    banks = cache(store)
    assert banks.get("screw").bundle.version == 1
    store.publish("screw", bank(), **RECORD)
    assert banks.get("screw").bundle.version == 2
    assert banks.get("screw@1").bundle.version == 1


def test_bank_is_loaded_once(store):
    store.publish("screw", bank(), **RECORD)
    banks = cache(store)
    assert banks.get("screw") is banks.get("screw@1")


def test_least_recently_used_bank_leaves_first(store):
    for name in ("a", "b", "c"):
        store.publish(name, bank(), **RECORD)
    banks = cache(store, max_bytes=2 * 4 * 8 * 4)
    first = {name: banks.get(name) for name in ("a", "b")}
    banks.get("a")
    banks.get("c")
    assert banks.get("a") is first["a"]
    assert banks.get("b") is not first["b"]


def test_bank_of_another_backbone_is_refused(store):
    store.publish("screw", bank(), **RECORD)
    with pytest.raises(
        InspectionRefused, match="was enrolled for anomaly_dino_448 with backbone aaaa"
    ):
        cache(store, digest="b" * 64).get("screw")


def test_bank_over_the_limit_is_refused_with_the_sizes(store):
    store.publish("screw", bank(), **RECORD)
    with pytest.raises(InspectionRefused, match="needs 128 bytes, the server allows 100"):
        cache(store, max_bytes=100).get("screw")


def test_failed_write_leaves_the_old_version_in_force(store, monkeypatch):
    store.publish("screw", bank(), **RECORD)

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="No space left"):
        store.publish("screw", bank(seed=1), **RECORD)
    monkeypatch.undo()
    assert store.resolve("screw") == ("screw", 1)
    assert np.array_equal(store.read_bank(store.read_bundle(*store.resolve("screw"))), bank())


def test_everything_is_on_disk_before_it_is_visible(store, monkeypatch):
    """Bank and record are flushed before the rename, the rename before the pointer."""
    steps = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace

    def noted_fsync(descriptor):
        steps.append(("flush", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def noted_rename(path, target):
        steps.append(("show", Path(target).name))
        return rename(path, target)

    def noted_replace(path, target):
        steps.append(("show", Path(target).name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    monkeypatch.setattr(Path, "replace", noted_replace)
    store.publish("screw", bank(), **RECORD)
    version, pointer = steps.index(("show", "1")), steps.index(("show", "current"))
    assert {("flush", "bank.safetensors"), ("flush", "bundle.json")} <= set(steps[:version])
    assert ("flush", "screw") in steps[version:pointer]
    assert [name[:9] for step, name in steps[version:pointer] if step == "flush"][-1] == ".current."
    assert ("flush", "screw") in steps[pointer:]


def test_copied_or_foreign_record_is_refused(store):
    store.publish("screw", bank(), **RECORD)
    shutil.copytree(store.root / "screw" / "1", store.root / "screw" / "9")
    with pytest.raises(InspectionRefused, match="version 9 .* is damaged or of another format"):
        store.read_bundle("screw", 9)
    path = store.root / "screw" / "1" / "bundle.json"
    record = json.loads(path.read_text())
    for change in ({"format_version": 7}, {"threshold": float("nan")}, {"threshold": "0.5"}):
        path.write_text(json.dumps(record | change))
        with pytest.raises(InspectionRefused, match="damaged or of another format"):
            store.read_bundle("screw", 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 3.0])
def test_bank_that_cannot_be_searched_is_refused(store, value):
    broken = bank()
    broken[2] = value
    with pytest.raises(InspectionRefused, match="no unit vectors"):
        store.publish("screw", broken, **RECORD)
    with pytest.raises(InspectionRefused, match="is empty"):
        store.publish("screw", bank()[:0], **RECORD)
    with pytest.raises(InspectionRefused, match="no usable threshold"):
        store.publish("screw", bank(), **(RECORD | {"threshold": float("nan")}))
    assert store.products() == {}


def test_version_that_was_replaced_by_hand_is_read_again(store):
    """Restored from a backup, or deleted and enrolled anew under the same number."""
    store.publish("screw", bank(), **RECORD)
    banks = cache(store)
    assert banks.get("screw").bundle.threshold == 0.5
    shutil.rmtree(store.root / "screw" / "1")
    store.publish("screw", bank(seed=5), **(RECORD | {"threshold": 0.75}))
    assert store.resolve("screw") == ("screw", 1)
    assert banks.get("screw").bundle.threshold == 0.75
