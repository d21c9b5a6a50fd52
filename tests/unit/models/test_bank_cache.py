"""Banks load on first use, leave least recently used first, and never outlive their version."""

from __future__ import annotations

import json
import os
import random
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
from bundles import AT, DIM, IMAGE_SIZE, ONNX_SHA256, make_bank, publish, unit_rows
from reference.anomaly_dino_reference import mean_of_k_nearest

import bank_cache
import bank_search
from bank_cache import BankCache
from bank_search import bank_size_bytes
from bank_store import BankStore
from product_changes import change_region, change_thresholds
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE

ONE_BANK = bank_size_bytes(12, DIM, "fp32")
TOKENS = unit_rows(6, seed=99)


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def opened(monkeypatch):
    """Numbers of rows of the banks that were made ready to search, in order."""
    sizes = []
    real = bank_cache.open_bank

    def noted(bank, *args):
        sizes.append(len(bank.tokens))
        return real(bank, *args)

    monkeypatch.setattr(bank_cache, "open_bank", noted)
    return sizes


def cache(store, max_bytes=100 * ONE_BANK, digest=ONNX_SHA256):
    return BankCache(store, digest, "fp32", max_bytes)


def distances(banks, reference):
    return banks.get(reference).score(TOKENS, IMAGE_SIZE).distances.reshape(-1)


def expected(seed):
    return mean_of_k_nearest(TOKENS, make_bank(seed=seed).tokens, 1)


# Hit and miss


def test_bank_is_loaded_on_first_use_and_once(store, opened):
    publish(store)
    banks = cache(store)
    assert (opened, banks.loaded_bytes) == ([], 0)
    for reference in ("screw", "screw@1", "screw"):
        np.testing.assert_allclose(distances(banks, reference), expected(0), atol=1e-5)
    assert opened == [12]
    assert banks.loaded_bytes == ONE_BANK


def test_products_are_answered_from_their_own_banks(store, opened):
    for seed, name in enumerate(("a", "b", "c")):
        publish(store, name, seed=seed)
    banks = cache(store)
    for _ in range(2):
        for seed, name in enumerate(("a", "b", "c")):
            np.testing.assert_allclose(distances(banks, name), expected(seed), atol=1e-5)
    assert opened == [12] * 3
    assert banks.loaded_bytes == 3 * ONE_BANK


def test_new_version_answers_the_next_request(store):
    publish(store, seed=1)
    banks = cache(store)
    np.testing.assert_allclose(distances(banks, "screw"), expected(1), atol=1e-5)
    publish(store, seed=2)
    assert banks.get("screw").bundle.version == 2
    np.testing.assert_allclose(distances(banks, "screw"), expected(2), atol=1e-5)
    np.testing.assert_allclose(distances(banks, "screw@1"), expected(1), atol=1e-5)
    store.activate("screw", 1, "ada", AT)
    assert banks.get("screw").bundle.version == 1
    np.testing.assert_allclose(distances(banks, "screw"), expected(1), atol=1e-5)


def test_version_that_waits_answers_only_who_asks_for_it(store):
    publish(store)
    publish(store, activate=False)
    banks = cache(store)
    assert banks.get("screw").bundle.version == 1
    assert banks.get("screw@2").bundle.version == 2


def test_versions_that_share_a_bank_share_its_memory(store, opened):
    base = publish(store)
    banks = cache(store, max_bytes=ONE_BANK)
    first = banks.get("screw")
    second = change_thresholds(store, base, {"threshold": 0.25}, "")
    third = change_region(store, second, {"roi_px": [0, 0, 50, 100]}, b"", "")
    assert banks.get("screw").bundle == third
    assert banks.get("screw@2").bundle.threshold == 0.25
    assert banks.get("screw@1").bundle == base == first.bundle
    assert opened == [12]
    assert banks.loaded_bytes == ONE_BANK
    inspected = np.array([[True, False, False], [True, False, False]])
    scored = banks.get("screw@3").score(TOKENS, IMAGE_SIZE).distances
    assert np.array_equal(scored != 0, inspected)


def test_products_of_equal_banks_share_them_but_not_other_searches(store, opened):
    bank = make_bank(num_lists=2)
    scoring = publish(store, "a", bank=bank).scoring
    publish(store, "b", bank=bank)
    publish(store, "c", bank=bank, scoring=replace(scoring, num_probes=1))
    publish(store, "d", bank=bank, scoring=replace(scoring, num_neighbours=3))
    banks = cache(store)
    for name in "abcd":
        banks.get(name)
    assert opened == [12] * 3
    assert banks.get("a")._search is banks.get("b")._search
    assert len({id(banks.get(name)._search) for name in "abcd"}) == 3


# The limit


def test_least_recently_used_bank_leaves_first(store, opened):
    for seed, name in enumerate(("a", "b", "c")):
        publish(store, name, bank=make_bank(seed + 1, seed=seed))  # 6, 12 and 18 rows
    banks = cache(store, max_bytes=bank_size_bytes(12, DIM, "fp32") * 2 + 10_000)
    for name in ("a", "b", "a", "c", "a", "b"):
        banks.get(name)
    assert opened == [6, 12, 18, 12]  # c pushed b out, a stayed, b came back for c
    banks.get("a")
    assert opened == [6, 12, 18, 12]
    banks.get("c")
    assert opened == [6, 12, 18, 12, 18]


def test_limit_is_reached_but_never_exceeded(store, monkeypatch):
    """At no moment: also while a bank is made ready, the others and it are within the limit."""

    alive = weakref.WeakSet()
    totals = []

    class Loaded:
        def __init__(self, num_rows):
            self.size_bytes = num_rows
            alive.add(self)

    def open_bank(bank, scoring, num_queries, precision):
        loaded = Loaded(len(bank.tokens))
        totals.append(sum(one.size_bytes for one in alive))
        return loaded

    monkeypatch.setattr(bank_cache, "open_bank", open_bank)
    monkeypatch.setattr(bank_search, "bank_size_bytes", lambda num_rows, *others: num_rows)
    names = [f"p{number}" for number in range(1, 13)]
    for number, name in enumerate(names, start=1):  # 6 to 72 rows
        publish(store, name, bank=make_bank(number, seed=number))
    limit = 150
    banks = cache(store, limit)
    dice = random.Random(0)
    for _ in range(300):
        banks.get(dice.choice(names))
        assert banks.loaded_bytes <= limit
    assert max(totals) <= limit
    assert max(totals) > 0.9 * limit  # else the limit would not have been tried
    assert 100 < len(totals) < 300  # hits and misses


def test_bank_of_exactly_the_limit_is_loaded(store):
    publish(store)
    assert cache(store, ONE_BANK).get("screw").bundle.num_patches == 12
    with pytest.raises(
        InspectionRefused,
        match=f"product 'screw' has 12 patches and needs {ONE_BANK} bytes when loaded, the server "
        f"allows {ONE_BANK - 1}; enrol fewer references",
    ):
        cache(store, ONE_BANK - 1).get("screw")


def test_bank_that_never_fits_pushes_no_other_out(store, opened):
    publish(store, "small")
    publish(store, "large", bank=make_bank(2000))
    banks = cache(store, ONE_BANK)
    banks.get("small")
    for _ in range(2):
        with pytest.raises(InspectionRefused, match="has 12000 patches and needs"):
            banks.get("large")
    banks.get("small")
    assert opened == [12]


def test_damaged_bank_pushes_no_other_out(store, opened):
    publish(store, "sound")
    publish(store, "damaged", seed=1)
    store.file("damaged", 1, BANK_FILE).write_bytes(b"x")
    banks = cache(store, ONE_BANK)
    banks.get("sound")
    for _ in range(2):
        with pytest.raises(InspectionRefused, match="memory bank of version 1 .*'damaged' is dam"):
            banks.get("damaged")
    banks.get("sound")
    assert opened == [12]


def test_records_are_kept_within_bounds(store, monkeypatch, opened):
    monkeypatch.setattr(bank_cache, "MAX_SCORERS", 2)
    read = []
    real = BankStore.read_bundle
    monkeypatch.setattr(BankStore, "read_bundle", lambda *args: read.append(args[1]) or real(*args))
    for name in "abc":
        publish(store, name)
    banks = cache(store)
    for name in "aabacab":
        banks.get(name)
    assert "".join(read) == "abcb"


# What is gone or another


def test_deleted_product_is_not_answered_from_memory(store):
    publish(store, seed=1)
    banks = cache(store)
    banks.get("screw")
    store.delete("screw", None, "ada", AT)
    for reference in ("screw", "screw@1"):
        with pytest.raises(InspectionRefused, match="unknown product 'screw'"):
            banks.get(reference)
    publish(store, seed=2)
    assert banks.get("screw").bundle.version == 2
    np.testing.assert_allclose(distances(banks, "screw"), expected(2), atol=1e-5)
    with pytest.raises(InspectionRefused, match=r"no version 1; it has \[2\]"):
        banks.get("screw@1")


def test_deleted_version_is_not_answered_from_memory(store):
    publish(store, seed=1)
    publish(store, seed=2)
    banks = cache(store)
    banks.get("screw@1")
    store.delete("screw", 1, "ada", AT)
    with pytest.raises(InspectionRefused, match=r"no version 1; it has \[2\]"):
        banks.get("screw@1")


def test_version_that_was_replaced_by_hand_is_read_again(store):
    """Restored from a backup, say, or enrolled anew under the same number."""
    publish(store, seed=1)
    banks = cache(store)
    np.testing.assert_allclose(distances(banks, "screw"), expected(1), atol=1e-5)
    shutil.rmtree(store.root / "screw")
    publish(store, seed=5, threshold=0.75)
    assert store.resolve("screw") == ("screw", 1)
    assert banks.get("screw").bundle.threshold == 0.75
    np.testing.assert_allclose(distances(banks, "screw"), expected(5), atol=1e-5)


def test_record_that_was_edited_in_place_is_read_again(store):
    """Same inode, and a program that sets the old time again."""
    publish(store)
    banks = cache(store)
    banks.get("screw")
    path = store.file("screw", 1, BUNDLE_FILE)
    times = path.stat()
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"threshold": 0.75}))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_ino == times.st_ino
    assert banks.get("screw").bundle.threshold == 0.75
    path.write_text("{}")
    with pytest.raises(InspectionRefused, match="damaged or of another format"):
        banks.get("screw")


def test_damaged_version_does_not_hide_the_others(store):
    publish(store, seed=1)
    publish(store, seed=2)
    store.file("screw", 2, BANK_FILE).unlink()
    banks = cache(store)
    for _ in range(2):
        with pytest.raises(InspectionRefused, match="memory bank of version 2 .* is missing"):
            banks.get("screw")
    assert banks.get("screw@1").bundle.version == 1
    assert banks.loaded_bytes == ONE_BANK


def test_bank_of_another_backbone_is_refused(store):
    publish(store)
    with pytest.raises(
        InspectionRefused,
        match="version 1 of product 'screw' was enrolled for anomaly_dino_28x42 with backbone "
        "aaaaaaaaaaaa, but this model runs bbbbbbbbbbbb; ask that model",
    ):
        cache(store, digest="b" * 64).get("screw")


@pytest.mark.parametrize("reference", ["", "../screw", "nut", "screw@2", "screw@x"])
def test_what_is_no_version_is_refused(store, reference):
    publish(store)
    with pytest.raises(InspectionRefused):
        cache(store).get(reference)
