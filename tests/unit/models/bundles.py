"""Small, real versions of a product: random unit vectors and everything a record says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bank_store import BankStore
from bundle import Bundle, Preprocessing, Region, Scoring
from calibration import LEAVE_ONE_OUT, GoodParts, find_thresholds
from inspected_region import foreground_share
from memory_bank import MemoryBank
from version_files import BANK_FILE, GOOD_PARTS_FILE
from version_record import Calibration, Change

GRID = (2, 3)
IMAGE_SIZE = (100, 150)
DIM = 8
ONNX_SHA256 = "a" * 64
AT = "2026-01-01T00:00:00+00:00"


def unit_rows(num_rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    """``(num_rows, dim)`` float32 unit vectors."""
    rows = np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_bank(
    num_references: int = 2,
    *,
    num_rotations: int = 1,
    num_lists: int = 0,
    foreground: np.ndarray | None = None,
    dim: int = DIM,
    seed: int = 0,
) -> MemoryBank:
    """The bank of some references; with inverted lists, and with a background, where asked for."""
    rows_each = num_rotations * GRID[0] * GRID[1]
    tokens = unit_rows(num_references * rows_each, dim, seed)
    shape = (num_references, *GRID)
    return MemoryBank(
        tokens,
        np.repeat(np.arange(num_references, dtype=np.int32), rows_each),
        np.ones(shape, bool) if foreground is None else np.broadcast_to(foreground, shape).copy(),
        tokens[:: len(tokens) // num_lists][:num_lists].copy() if num_lists else None,
    )


def make_good_parts(bank: MemoryBank, seed: int = 0) -> GoodParts:
    """Patch distances of the references, each as if it had been left out."""
    foreground = bank.reference_foreground
    flat = np.random.default_rng(seed).uniform(0.1, 0.3, (len(foreground), GRID[0] * GRID[1]))
    return GoodParts.measured(list(flat.astype(np.float32)), list(foreground))


def make_draft(
    bank: MemoryBank, parts: GoodParts, product: str = "screw", **changes: Any
) -> Bundle:
    """The record of a bank, not yet published; fields may be changed."""
    num_references = len(bank.reference_foreground)
    masked = not bank.reference_foreground.all()
    num_rotations = len(bank.tokens) // (num_references * GRID[0] * GRID[1])
    num_lists = 0 if bank.centroids is None else len(bank.centroids)
    region = changes.get("region", Region.everything(GRID))
    found = find_thresholds(
        parts, LEAVE_ONE_OUT, "mean_top1p", region, IMAGE_SIZE,
        false_positive_rate=0.05, undecided_rate=0.0,
    )  # fmt: skip
    draft = Bundle(
        product=product,
        version=0,
        method="anomaly_dino",
        ensemble="anomaly_dino_28x42",
        grid=list(GRID),
        image_size=list(IMAGE_SIZE),
        layer=12,
        num_references=num_references,
        num_patches=len(bank.tokens),
        dim=bank.tokens.shape[1],
        threshold=found.threshold,
        normal_below=found.normal_below,
        defect_threshold=found.defect_threshold,
        preprocessing=Preprocessing(
            setting="informed",
            rotated=num_rotations > 1,
            texture=False,
            rotations_deg=[45 * turn for turn in range(num_rotations)],
            masked=masked,
            masking_test={"passed": masked, "reason": "made up"},
            foreground_share=foreground_share(bank.reference_foreground, region.mask)
            if masked
            else None,
        ),
        scoring=Scoring(
            num_neighbours=1,
            image_score="mean_top1p",
            search="ivf" if num_lists else "exact",
            num_lists=num_lists,
            num_probes=min(num_lists, 2),
            coreset_fraction=1.0,
            measured_loss=None,
        ),
        region=region,
        calibration=Calibration(LEAVE_ONE_OUT, 0.05, 0.0, found.scores, []),
        backbone={
            "name": "dinov2_vits14",
            "onnx_sha256": ONNX_SHA256,
            "weights_sha256": "b" * 64,
            "file_sha256": ONNX_SHA256,
            "runtime": "openvino 2025.3",
            "precision": "fp32",
            "search_precision": "fp32",
        },
        references=[
            {"name": f"{index}.png", "sha256": f"{index:064x}"} for index in range(num_references)
        ],
        created_at=AT,
        created_by="grace",
        change=Change("enrolled", None, "ada", AT),
        bank_sha256="",
        good_parts_sha256="",
    )
    return replace(draft, **changes)


def publish(
    store: BankStore,
    product: str = "screw",
    *,
    bank: MemoryBank | None = None,
    activate: bool = True,
    seed: int = 0,
    **changes: Any,
) -> Bundle:
    """Make a version as an enrolment does, of `make_bank` unless another bank is given."""
    bank = bank or make_bank(seed=seed)
    parts = make_good_parts(bank, seed)
    with store.staging() as staging:
        draft = make_draft(bank, parts, product)
        digests = {
            "bank_sha256": staging.write(BANK_FILE, bank.tensors()),
            "good_parts_sha256": staging.write(GOOD_PARTS_FILE, parts.tensors()),
        }
        return staging.publish(replace(draft, **(digests | changes)), activate=activate)
