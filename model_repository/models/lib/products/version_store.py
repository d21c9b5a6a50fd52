"""Products on disk, by one method: versions of everything that decides a verdict.

Layout below the store's root::

    <product>/<version>/bundle.json             what the version's record says
    <product>/<version>/...                     the files that the record names by their digests
    <product>/<version>/good_parts.safetensors  patch distances of good parts, for the thresholds
    <product>/current                           the version in force, a decimal number
    .numbers/<product>                          the highest version of what was deleted
    .changes.jsonl                              who changed what and when, one line each

What is no product begins with a dot, as no product's name does. A version is never changed;
whatever decides a verdict differently is a new one, which shares with the old one the files that
are the same. It is written in a hidden folder, flushed to disk and renamed into place; then the
pointer is replaced. A new product appears with its pointer. So whatever is visible is whole, at any
moment of a crash, and a reader needs no lock. Writers take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic

from change_log import ChangeLog, LoggedChange
from durable_files import flush, replace_durably
from refusals import InspectionRefused
from staged_version import BUNDLE_FILE, CURRENT_FILE, StagedVersion
from version_record import VersionT
from wire import is_product_name, parse_product
from work_folder import WorkFolder, hidden_path, remove, remove_abandoned

_NUMBERS_FOLDER = ".numbers"
_LOCK_FILE = ".lock"
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_MAX_NAMES = 20


class VersionStore(ABC, Generic[VersionT]):
    """The products below one folder, all of one method.

    Args:
        root: The folder; created when missing.

    Attributes:
        remedy: What makes a product anew, for messages: ``enrol the product again``.
        known_as: What its products are, for messages: ``enrolled``.
    """

    remedy: str
    known_as: str

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._log = ChangeLog(root)

    def products(self) -> dict[str, list[int]]:
        """Product names to their versions, both ascending."""
        found = {}
        for name in sorted(os.listdir(self.root)):
            if is_product_name(name):
                versions = self.versions(name)
                # After the versions: a product that is being deleted loses its pointer with them.
                if (self.root / name / CURRENT_FILE).is_file():
                    found[name] = versions
        return found

    def versions(self, product: str) -> list[int]:
        """A product's versions, ascending; empty if there is none."""
        return sorted(
            int(path.name)
            for path in self._entries(product)
            if _NUMBER.fullmatch(path.name) and path.is_dir()
        )

    def resolve(self, reference: str) -> tuple[str, int]:
        """Product and version that ``screw`` or ``screw@3`` names right now.

        Raises:
            InspectionRefused: If there is no such product or version.
        """
        try:
            product, version = parse_product(reference)
        except ValueError as error:
            raise InspectionRefused(str(error)) from None
        if version is not None and self.file(product, version, BUNDLE_FILE).is_file():
            return product, version
        current = self._pointer(product)
        return product, current if version is None else version

    def read_bundle(self, product: str, version: int) -> VersionT:
        """Read the record of one version.

        Raises:
            InspectionRefused: If the version does not exist or its record is damaged.
        """
        path = self.file(product, version, BUNDLE_FILE)
        try:
            bundle = self.parse(path.read_bytes())
        except OSError as error:
            if not path.parent.is_dir():
                raise InspectionRefused(
                    f"product '{product}' has no version {version}; it has {self.versions(product)}"
                ) from None
            reason = error.strerror or "it cannot be read"
        except (ValueError, TypeError) as error:
            reason = str(error)
        else:
            reason = "it names another product or version"
            if (bundle.product, bundle.version) == (product, version):
                return bundle
        raise InspectionRefused(
            f"version {version} of product '{product}' is damaged or of another format ({reason}); "
            f"{self.remedy}, or ask for another version"
        )

    @abstractmethod
    def parse(self, text: bytes) -> VersionT:
        """A version's record, whole and without contradictions.

        Raises:
            ValueError, TypeError: Saying what is wrong with it.
        """

    @abstractmethod
    def digests(self, bundle: VersionT) -> dict[str, str]:
        """SHA-256 of each of a version's files, by name, as its record says."""

    @abstractmethod
    def check_files(self, bundle: VersionT) -> None:
        """Read what answers requests, so that nothing is put in force that could not.

        Raises:
            InspectionRefused: If a file is missing, damaged or contradicts the record.
        """

    def folder(self, product: str, version: int) -> Path:
        """Where a version is."""
        return self.root / product / str(version)

    def file(self, product: str, version: int, name: str) -> Path:
        """Where a version's file is."""
        return self.folder(product, version) / name

    def stamp(self, product: str, version: int) -> tuple[int, int]:
        """What changes when a version's record is replaced by hand: its inode and change time.

        Raises:
            InspectionRefused: If the version does not exist.
        """
        try:
            status = self.file(product, version, BUNDLE_FILE).stat()
        except OSError:
            self.read_bundle(product, version)  # says what is missing
            return self.stamp(product, version)  # somebody put it back meanwhile
        return status.st_ino, status.st_ctime_ns

    @contextlib.contextmanager
    def staging(self) -> Iterator[StagedVersion[VersionT]]:
        """A hidden folder to write a version in; gone afterwards if it was not published."""
        with self._exclusive():
            home = hidden_path(self.root)
            try:
                yield StagedVersion(self, home)
            finally:
                shutil.rmtree(home, ignore_errors=True)

    def work_folder(self) -> WorkFolder:
        """A hidden folder to gather files in over several requests."""
        with self._exclusive():  # whoever removes leftovers must not see it without its lock
            return WorkFolder(self.root)

    def require_in_force(self, base: VersionT) -> None:
        """Refuse to continue a version that another has replaced; ask while `staging`.

        Raises:
            InspectionRefused: If it is not in force any more.
        """
        current = self._pointer(base.product)
        if current != base.version:
            raise InspectionRefused(
                f"version {current} of product '{base.product}' came into force while a version "
                f"was made from {base.version}; nothing was changed, begin again"
            )

    def activate(
        self,
        product: str,
        version: int,
        operator: str,
        at: str,
        check: Callable[[VersionT], object] | None = None,
    ) -> VersionT:
        """Make a version the one in force: the way forward and the way back.

        Args:
            product: Product name.
            version: The version.
            operator: Who.
            at: ISO 8601, UTC.
            check: Raises if the version could not answer on this server.

        Raises:
            InspectionRefused: If there is no such version, or it is damaged.
        """
        with self._exclusive():
            if not self.versions(product) and self._pointer_text(product) is None:
                self._pointer(product)  # says that there is no such product
            bundle = self.read_bundle(product, version)
            if check is not None:
                check(bundle)
            self.check_files(bundle)
            change = LoggedChange(at, operator, "activated", product, version, in_force=True)
            with self._log.recording(change):
                replace_durably(self.root / product / CURRENT_FILE, f"{version}\n")
        return bundle

    def delete(self, product: str, version: int | None, operator: str, at: str) -> list[int]:
        """Delete a version that is not in force, or a product as a whole.

        Returns:
            The versions deleted. Their numbers are never given again.

        Raises:
            InspectionRefused: If there is none, or the version is in force.
        """
        with self._exclusive():
            versions = self.versions(product)
            if version is not None:
                self._check_may_go(product, version, versions)
            elif not versions and self._pointer_text(product) is None:
                self._pointer(product)  # says that there is no such product
            self._keep_number(product)
            doomed = self.root / product if version is None else self.folder(product, version)
            hidden = hidden_path(self.root)
            change = LoggedChange(at, operator, "deleted", product, version, in_force=False)
            with self._log.recording(change):
                doomed.rename(hidden)
                flush(doomed.parent)
                flush(self.root)
            remove(hidden)
        return versions if version is None else [version]

    def _check_may_go(self, product: str, version: int, versions: list[int]) -> None:
        current = self._pointer(product)
        if version not in versions:
            raise InspectionRefused(
                f"product '{product}' has no version {version}; it has {versions}"
            )
        if version == current:
            raise InspectionRefused(
                f"version {version} of product '{product}' is in force; activate another "
                "first, or delete the product as a whole"
            )

    def remove_leftovers(self) -> None:
        """Delete what a writer that was killed left behind, and finish its entry in the log."""
        with self._exclusive():
            remove_abandoned(self.root)
            for pattern in (f"*/.{CURRENT_FILE}.*", f"{_NUMBERS_FOLDER}/.*"):
                for path in self.root.glob(pattern):
                    path.unlink(missing_ok=True)

    def next_version(self, product: str) -> int:
        """One more than the highest version there ever was."""
        path = self.root / _NUMBERS_FOLDER / product
        try:
            highest = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            highest = 0
        except ValueError:
            highest = self._log.highest_version(product)
        # A pointer to what is gone must not come to point to what is new.
        taken = [self._pointer_text(product) or "", *(one.name for one in self._entries(product))]
        return max([highest, *(int(name) for name in taken if _NUMBER.fullmatch(name))]) + 1

    def changes(self, product: str) -> list[dict[str, Any]]:
        """The record of changes to one product, oldest first: `LoggedChange` as objects."""
        return self._log.of(product)

    def recording(self, change: LoggedChange) -> contextlib.AbstractContextManager[None]:
        """Make a change; it is in the record of changes afterwards, unless the body raises."""
        return self._log.recording(change)

    def _entries(self, product: str) -> list[Path]:
        try:
            return list((self.root / product).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _pointer(self, product: str) -> int:
        """The version in force."""
        text = self._pointer_text(product)
        if text is None:
            known = list(self.products())
            names = ", ".join(known[:_MAX_NAMES]) or "none"
            more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
            raise InspectionRefused(
                f"unknown product '{product}'; {self.known_as} are: {names}{more}"
            )
        if not _NUMBER.fullmatch(text):
            raise InspectionRefused(
                f"product '{product}' has a damaged version pointer; activate a version again"
            )
        return int(text)

    def _pointer_text(self, product: str) -> str | None:
        """What the pointer says; None if there is none, empty if it cannot be read."""
        try:
            return (self.root / product / CURRENT_FILE).read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            return ""

    def _keep_number(self, product: str) -> None:
        """Remember the highest version before it is deleted."""
        folder = self.root / _NUMBERS_FOLDER
        folder.mkdir(exist_ok=True)
        replace_durably(folder / product, f"{self.next_version(product) - 1}\n")
        flush(self.root)

    def _outcome(self, change: LoggedChange) -> LoggedChange | None:
        """What became of a change that was begun: it, if it was made, and None if not.

        A version may be in its place and yet not in force.
        """
        if not self._took_place(change):
            return None
        return replace(change, in_force=self._pointer_text(change.product) == str(change.version))

    def _took_place(self, change: LoggedChange) -> bool:
        """Whether a change that was begun was made."""
        if change.action == "activated":
            with contextlib.suppress(InspectionRefused):
                return self._pointer(change.product) == change.version
            return False
        if change.version is None:
            return not (self.root / change.product).exists()
        there = change.version in self.versions(change.product)
        return not there if change.action == "deleted" else there

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Writers take turns, also those of other processes; the lock ends with its holder."""
        with (self.root / _LOCK_FILE).open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._log.settle(self._outcome)
            yield
