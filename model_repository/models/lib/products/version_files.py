"""A version's three files, read and held to each other.

Whatever is read here can be searched and scored: that is checked once, when it is imported, put in
force or loaded, and not by a fault in the middle of an inspection.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bundle import Bundle
from calibration import GoodParts
from durable_files import read_tensors
from inspected_region import foreground_share
from memory_bank import MemoryBank
from record_checks import check_record
from refusals import InspectionRefused
from wire import VERSION_FILES

BUNDLE_FILE, BANK_FILE, GOOD_PARTS_FILE = VERSION_FILES
_SHARE_TOLERANCE = 1e-9


def bundle_from_json(text: bytes) -> Bundle:
    """A version's record, whole and without contradictions.

    Raises:
        ValueError: Saying what is wrong with it.
    """
    bundle = Bundle.from_json(text)
    check_record(bundle)
    return bundle


def read_bank(folder: Path, bundle: Bundle, what: str) -> MemoryBank:
    """The memory bank in a version's folder.

    Args:
        folder: The folder.
        bundle: Its record.
        what: What it is, for the message: ``the memory bank of version 3 of product 'screw'``.

    Raises:
        InspectionRefused: If the file is missing, has another digest, or contradicts the record.
    """
    bank = MemoryBank.from_tensors(read_tensors(folder / BANK_FILE, bundle.bank_sha256, what))
    complaint = _of_bank(bundle, bank)
    if complaint:
        raise InspectionRefused(f"{what} contradicts its record: {complaint}")
    return bank


def read_good_parts(folder: Path, bundle: Bundle, what: str) -> GoodParts:
    """The good parts' patch distances in a version's folder.

    Raises:
        InspectionRefused: As for `read_bank`.
    """
    stored = read_tensors(folder / GOOD_PARTS_FILE, bundle.good_parts_sha256, what)
    parts = GoodParts.from_tensors(stored, bundle.patch_grid)
    complaint = _of_good_parts(bundle, parts)
    if complaint:
        raise InspectionRefused(f"{what} contradicts its record: {complaint}")
    return parts


def _of_bank(bundle: Bundle, bank: MemoryBank) -> str:
    """What contradicts the record; empty if nothing does."""
    said = (bundle.num_patches, bundle.dim)
    if bank.tokens.shape != said:
        return f"it is {bank.tokens.shape}, expected {said}"
    shape = (bundle.num_references, *bundle.patch_grid)
    if bank.reference_foreground.shape != shape:
        return f"its foreground is {bank.reference_foreground.shape}, expected {shape}"
    return _of_rows(bundle, bank) or _of_foreground(bundle, bank) or _of_lists(bundle, bank)


def _of_rows(bundle: Bundle, bank: MemoryBank) -> str:
    """The rows of each reference follow each other; unless thinned out, all have as many."""
    index = bank.reference_index
    if index.min() < 0 or index.max() >= bundle.num_references or (np.diff(index) < 0).any():
        return f"its rows are not those of {bundle.num_references} references, one after the other"
    each = bundle.num_patches // bundle.num_references
    if bundle.scoring.coreset_fraction == 1 and (np.bincount(index) != each).any():
        return f"its references do not have {each} rows each"
    return ""


def _of_foreground(bundle: Bundle, bank: MemoryBank) -> str:
    """What is called implausibly small in an inspected image depends on these shares."""
    found = foreground_share(bank.reference_foreground, bundle.region.mask)
    said = bundle.preprocessing.foreground_share or [1.0, 1.0]
    if not np.allclose(found, said, rtol=0, atol=_SHARE_TOLERANCE):
        return f"the references' foreground is {found[0]:.3f} to {found[1]:.3f} of the region"
    return ""


def _of_lists(bundle: Bundle, bank: MemoryBank) -> str:
    num_lists = bundle.scoring.num_lists
    found = 0 if bank.centroids is None else len(bank.centroids)
    if found != num_lists:
        return f"it has {found} inverted lists, expected {num_lists}"
    if bank.centroids is not None and bank.centroids.shape[1:] != (bundle.dim,):
        return f"its centroids are {bank.centroids.shape}, expected ({num_lists}, {bundle.dim})"
    return ""


def _of_good_parts(bundle: Bundle, parts: GoodParts) -> str:
    distances = parts.distances
    if distances.dtype != np.float32:
        return f"its distances are {distances.dtype}, expected float32"
    if distances[~parts.foreground].any():
        return "masked patches have a distance"
    num_scores = len(bundle.calibration.reference_scores)
    if len(distances) != num_scores:
        return f"it holds {len(distances)} images, the record {num_scores} scores"
    return ""
