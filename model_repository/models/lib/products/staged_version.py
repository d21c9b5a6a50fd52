"""A version while it is written: hidden until it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from bundle import Bundle
from change_log import LoggedChange
from durable_files import flush, replace_durably, sha256_of_file, write_durably, write_tensors
from record_checks import check_record
from refusals import InspectionRefused
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE

if TYPE_CHECKING:
    from bank_store import BankStore

CURRENT_FILE = "current"


class StagedVersion:
    """A version being written; nobody sees it before `publish`.

    Args:
        store: Where it will be.
        home: Hidden folder to make, for a folder with its files: a new product's own in the end.
    """

    def __init__(self, store: BankStore, home: Path) -> None:
        self._store = store
        self._home = home
        self._folder = home / "version"
        self._folder.mkdir(parents=True)
        self._digests: dict[str, str] = {}

    def write(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> str:
        """Write one of its files; returns the SHA-256."""
        self._digests[name] = write_tensors(self._folder / name, tensors)
        return self._digests[name]

    def share(self, name: str, other: Bundle) -> None:
        """Take over a file of another version, without a copy where the file system can.

        Raises:
            InspectionRefused: If it is damaged there.
        """
        source = self._store.file(other.product, other.version, name)
        target = self._folder / name
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise InspectionRefused(
                f"{name} of version {other.version} of product '{other.product}' is missing; "
                "enrol the product again"
            ) from None
        except OSError:
            shutil.copyfile(source, target)
            flush(target)
        self._digests[name] = sha256_of_file(target)

    def take(self, name: str, source: Path, sha256: str) -> None:
        """Move a file in whose digest was checked, from anywhere below the store's root."""
        flush(source)
        source.rename(self._folder / name)
        self._digests[name] = sha256

    def publish(self, draft: Bundle, *, activate: bool = True) -> Bundle:
        """Give the version its number and its place.

        Args:
            draft: Its record; product, all files' digests and the rest are final.
            activate: Whether it becomes the one in force; the first of a product always does.

        Returns:
            The bundle as written.

        Raises:
            InspectionRefused: If a file is not the one that the record names, as when a shared one
                is damaged.
            ValueError: If the record contradicts itself.
        """
        store, product = self._store, draft.product
        bundle = replace(draft, version=store.next_version(product))
        check_record(bundle)
        self._check_digests(bundle)
        write_durably(self._folder / BUNDLE_FILE, bundle.to_json().encode("utf-8"))
        flush(self._folder)
        made, folder = bundle.change, store.root / product
        in_force = activate or not (folder / CURRENT_FILE).exists()
        line = LoggedChange(
            made.at, made.operator, made.action, product, bundle.version, in_force=in_force
        )
        pointer = f"{bundle.version}\n"
        with store.recording(line):
            if folder.exists():
                self._folder.rename(folder / str(bundle.version))
                flush(folder)
                if in_force:
                    replace_durably(folder / CURRENT_FILE, pointer)
            else:
                self._folder.rename(self._home / str(bundle.version))
                replace_durably(self._home / CURRENT_FILE, pointer)
                self._home.rename(folder)
            flush(store.root)
        return bundle

    def _check_digests(self, bundle: Bundle) -> None:
        named = {BANK_FILE: bundle.bank_sha256, GOOD_PARTS_FILE: bundle.good_parts_sha256}
        for name, digest in named.items():
            if self._digests.get(name) != digest:
                raise InspectionRefused(
                    f"{name} of the new version is not the file that its record names; the version "
                    "it was taken from is damaged, enrol the product again"
                )
