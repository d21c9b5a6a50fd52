"""AnomalyDINO's products on disk: versions of a memory bank and everything that decides a verdict.

A version's files besides its record::

    bank.safetensors        unit patch tokens, and which image each came from
    good_parts.safetensors  patch distances of good parts, for the thresholds
"""

from __future__ import annotations

from bundle import Bundle
from calibration import GoodParts
from memory_bank import MemoryBank
from version_files import (
    BANK_FILE,
    GOOD_PARTS_FILE,
    bundle_from_json,
    read_bank,
    read_good_parts,
)
from version_store import VersionStore


class BankStore(VersionStore[Bundle]):
    """The products below one folder, each with its memory banks."""

    remedy = "enrol the product again"
    known_as = "enrolled"

    def parse(self, text: bytes) -> Bundle:
        """A version's record, whole and without contradictions."""
        return bundle_from_json(text)

    def digests(self, bundle: Bundle) -> dict[str, str]:
        """SHA-256 of bank and calibration, as the record says."""
        return {BANK_FILE: bundle.bank_sha256, GOOD_PARTS_FILE: bundle.good_parts_sha256}

    def check_files(self, bundle: Bundle) -> None:
        """Read the bank, which answers requests."""
        self.read_bank(bundle)

    def read_bank(self, bundle: Bundle) -> MemoryBank:
        """Read and verify a version's memory bank.

        Raises:
            InspectionRefused: If the file is missing, has another hash or contradicts the record.
        """
        what = f"the memory bank of version {bundle.version} of product '{bundle.product}'"
        return read_bank(self.folder(bundle.product, bundle.version), bundle, what)

    def read_good_parts(self, bundle: Bundle) -> GoodParts:
        """Read and verify the good parts' patch distances.

        Raises:
            InspectionRefused: If the file is missing, has another hash or contradicts the record.
        """
        what = f"the calibration of version {bundle.version} of product '{bundle.product}'"
        return read_good_parts(self.folder(bundle.product, bundle.version), bundle, what)
