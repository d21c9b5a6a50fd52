"""A version while it is written: hidden until it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from numpy.typing import NDArray

from change_log import LoggedChange
from durable_files import flush, replace_durably, sha256_of_file, write_durably, write_tensors
from refusals import InspectionRefused
from version_record import VersionT
from wire import VERSION_FILES

if TYPE_CHECKING:
    from version_store import VersionStore

BUNDLE_FILE = VERSION_FILES[0]
CURRENT_FILE = "current"


class StagedVersion(Generic[VersionT]):
    """A version being written; nobody sees it before `publish`.

    Args:
        store: Where it will be.
        home: Hidden folder to make, for a folder with its files: a new product's own in the end.
    """

    def __init__(self, store: VersionStore[VersionT], home: Path) -> None:
        self._store = store
        self._home = home
        self._folder = home / "version"
        self._folder.mkdir(parents=True)
        self._digests: dict[str, str] = {}

    def write(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> str:
        """Write one of its files; returns the SHA-256."""
        self._digests[name] = write_tensors(self._folder / name, tensors)
        return self._digests[name]

    def share(self, name: str, other: VersionT) -> None:
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
                f"{self._store.remedy}"
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

    def publish(self, draft: VersionT, *, activate: bool = True) -> VersionT:
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
        record = bundle.to_json().encode("utf-8")
        store.parse(record)
        self._check_digests(bundle)
        write_durably(self._folder / BUNDLE_FILE, record)
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

    def _check_digests(self, bundle: VersionT) -> None:
        for name, digest in self._store.digests(bundle).items():
            if self._digests.get(name) != digest:
                raise InspectionRefused(
                    f"{name} of the new version is not the file that its record names; the version "
                    "it was taken from is damaged, enrol the product again"
                )
