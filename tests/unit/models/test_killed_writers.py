"""Writers of several processes, and writers that are killed at any moment."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
import tireless_writers
from bundles import make_bank, publish
from store_files import hidden

from bank_store import BankStore

NUM_KILLS = 40
LONGEST_LIFE_S = 0.15


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


def require_whole(store):
    """Every visible version is whole, and every pointer leads to one."""
    for product, versions in store.products().items():
        assert store.resolve(product)[1] in versions
        for version in versions:
            bundle = store.read_bundle(product, version)
            store.read_bank(bundle)
            store.read_good_parts(bundle)


def numbers_given(store, product):
    made = ("enrolled", "thresholds")
    return [one["version"] for one in store.changes(product) if one["action"] in made]


def test_writer_killed_at_any_moment_leaves_only_whole_versions(store):
    """Some dozens of times, so that it hits all that a writer does."""
    processes = tireless_writers.context()
    old = publish(store, "old", seed=7)
    publish(store)
    dice = random.Random(0)
    leftovers, acts = set(), set()
    for kill in range(NUM_KILLS):
        begun = processes.Event()
        first_act = kill % len(tireless_writers.ACTS)
        writer = processes.Process(
            target=tireless_writers.write_for_ever, args=(store.root, first_act, begun)
        )
        writer.start()
        assert begun.wait(60)
        time.sleep(dice.uniform(0, LONGEST_LIFE_S))
        writer.kill()
        writer.join(60)
        assert writer.exitcode == -9  # killed, and not failed before
        writer.close()
        require_whole(store)
        leftovers |= set(hidden(store)) - {".changes.jsonl", ".lock", ".numbers"}
        visible = store.products()
        store.remove_leftovers()
        assert set(hidden(store)) <= {".changes.jsonl", ".lock", ".numbers"}
        assert store.products() == visible
    require_whole(store)
    assert np.array_equal(store.read_bank(old).tokens, make_bank(seed=7).tokens)
    assert store.resolve("old") == ("old", 1)
    assert leftovers  # else no kill hit a writer in the middle
    for product in ("screw", "passing"):
        given = numbers_given(store, product)
        assert given == sorted(set(given))
        acts |= {change["action"] for change in store.changes(product)}
        assert publish(store, product).version > max(given)
    assert {"enrolled", "activated", "thresholds", "deleted"} <= acts
    assert set(store.versions("screw")) <= set(numbers_given(store, "screw"))


def test_processes_never_share_a_version(store):
    processes = tireless_writers.context()
    jobs = [(store.root, product, 8) for product in ("screw", "screw", "nut", "screw")]
    with processes.Pool(4) as pool:
        given = pool.starmap(tireless_writers.write_some, jobs)
        pool.close()
        pool.join()
    screws = list(itertools.chain(given[0], given[1], given[3]))
    assert sorted(screws) == list(range(1, 25))
    assert given[2] == list(range(1, 9))
    assert store.products() == {"nut": given[2], "screw": sorted(screws)}
    require_whole(store)
    assert numbers_given(store, "screw") == sorted(screws)
    assert hidden(store) == [".changes.jsonl", ".lock"]
