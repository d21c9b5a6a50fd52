"""Writers to be killed: processes of their own that change the products until they die.

They are forked from a server without threads that has everything imported, so that one more takes
milliseconds.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event
from pathlib import Path

import dinspect_client.wire

# As the assembler places it; here too, because no conftest runs in a writer.
sys.modules.setdefault("wire", dinspect_client.wire)

from bundles import AT, publish  # noqa: E402

from bank_store import BankStore  # noqa: E402
from product_changes import change_thresholds  # noqa: E402


def context() -> ForkServerContext:
    """Where to start writers from."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
    return found


def _publish(store: BankStore) -> None:
    publish(store, seed=1)
    publish(store, seed=2, activate=False)


def _activate(store: BankStore) -> None:
    store.activate("screw", store.versions("screw")[0], "ada", AT)


def _change(store: BankStore) -> None:
    change_thresholds(store, store.read_bundle(*store.resolve("screw")), {"threshold": 0.5}, "ada")


def _delete(store: BankStore) -> None:
    _, current = store.resolve("screw")
    for version in store.versions("screw")[:-3]:
        if version != current:
            store.delete("screw", version, "ada", AT)


def _come_and_go(store: BankStore) -> None:
    publish(store, "passing")
    store.delete("passing", None, "ada", AT)


ACTS = (_publish, _activate, _change, _delete, _come_and_go)


def write_for_ever(root: Path, first_act: int, begun: Event) -> None:
    """Publish, activate, change, delete, without end, beginning with one of `ACTS`."""
    store = BankStore(root)
    begun.set()
    for act in itertools.islice(itertools.cycle(ACTS), first_act, None):
        act(store)


def write_some(root: Path, product: str, count: int) -> list[int]:
    """Publish so many versions; returns their numbers."""
    store = BankStore(root)
    return [publish(store, product, seed=index).version for index in range(count)]
