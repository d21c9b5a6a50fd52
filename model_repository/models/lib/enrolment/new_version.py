"""From gathered images to a version: the bank, its search, the thresholds, the record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_search import open_bank
from bank_store import BankStore
from bundle import Bundle, Preprocessing, Region, Scoring
from calibration import (
    GOOD_IMAGES,
    LEAVE_ONE_OUT,
    ROTATIONS,
    GoodParts,
    Thresholds,
    find_thresholds,
    leave_one_out,
    left_out,
)
from change_log import now
from coreset import coreset_size, greedy_coreset
from enrol_options import EnrolOptions
from enrolment import Enrolment
from image_preparation import backbone_pixels
from inspected_region import foreground_share
from inverted_lists import InvertedLists, choose_probes, default_num_lists, train_centroids
from memory_bank import MemoryBank
from nearest_neighbours import CosineSearch, unit_tokens
from preprocessing import DEFAULT_SETTING, ROTATIONS_DEG, rotations
from refusals import InspectionRefused
from search_loss import measure_loss
from served_size import TokensOf
from staged_version import StagedVersion
from thresholds import decide_thresholds
from version_files import BANK_FILE, GOOD_PARTS_FILE
from version_record import Calibration, Change

PROBE_TOLERANCE = 1e-3
"""Largest error of a patch distance that inverted lists may have on the mirrored references."""


@dataclass(frozen=True)
class _Built:
    """A bank with what was found out about it.

    Attributes:
        bank: The bank.
        kept: ``(M,)`` int64: which of the references' patches its rows are.
        scoring: How it is searched.
        exact: Exact search in it.
    """

    bank: MemoryBank
    kept: NDArray[np.int64]
    scoring: Scoring
    exact: CosineSearch


def publish(
    enrolment: Enrolment, store: BankStore, runtime: dict[str, str], tokens_of: TokensOf
) -> Bundle:
    """Make a version of what was gathered.

    Args:
        enrolment: The images.
        store: Where the version goes.
        runtime: ``runtime`` and ``precision`` of the backbone that computed the tokens.
        tokens_of: The backbone, for the rotations of a single reference.

    Raises:
        InspectionRefused: If a version that is appended to is no longer in force, or the bank is
            smaller than the neighbours asked for.
    """
    built = _build_bank(enrolment)
    good_images, earlier_parts = _kept_good_parts(enrolment, store)
    method, parts = _measure_good_parts(enrolment, built, tokens_of)
    if earlier_parts is not None:
        parts = earlier_parts.followed_by(parts)
    region = enrolment.base.region if enrolment.base else Region.everything(enrolment.served.grid)
    score_name, image_size = built.scoring.image_score, enrolment.image_size
    calibration, thresholds = decide_thresholds(
        enrolment.options.thresholds,
        partial(find_thresholds, parts, method, score_name, region, image_size),
        method,
        earlier=enrolment.base,
        good_images=[*good_images, *enrolment.good_images],
    )
    with store.staging() as staging:
        if enrolment.base is not None:
            store.require_in_force(enrolment.base)
        draft = _draft(enrolment, built, runtime, calibration, thresholds, region)
        draft = replace(
            draft,
            bank_sha256=_write_bank(staging, enrolment, built.bank),
            good_parts_sha256=staging.write(GOOD_PARTS_FILE, parts.tensors()),
        )
        return staging.publish(draft, activate=enrolment.options.activate is not False)


def _build_bank(enrolment: Enrolment) -> _Built:
    """Thin the references' patches out, if asked to, and open what will search them."""
    rows = enrolment.reference_rows.rows()
    num_references = len(enrolment.references)
    groups = np.repeat(np.arange(num_references, dtype=np.int32), len(rows) // num_references)
    asked = enrolment.base.scoring if enrolment.base else _scoring_asked(enrolment.options)
    kept, tokens = np.arange(len(rows)), rows
    if asked.coreset_fraction < 1:
        kept = greedy_coreset(rows, coreset_size(len(rows), asked.coreset_fraction))
        tokens, groups = np.ascontiguousarray(rows[kept]), groups[kept]
    num_queries = enrolment.served.grid[0] * enrolment.served.grid[1]
    if len(tokens) < asked.num_neighbours:
        raise InspectionRefused(
            f"the bank has {len(tokens)} patches, fewer than the {asked.num_neighbours} neighbours "
            "asked for"
        )
    exact = CosineSearch(
        tokens, num_queries, enrolment.search_precision, asked.num_neighbours, groups
    )
    bank = MemoryBank(tokens, groups, np.array(enrolment.reference_foreground))
    if asked.search == "ivf":
        centroids = train_centroids(tokens, default_num_lists(len(tokens)), seed=0)
        bank, asked = replace(bank, centroids=centroids), replace(asked, num_lists=len(centroids))
    scoring = _with_loss(asked, bank, rows, exact, enrolment)
    return _Built(bank, kept, scoring, exact)


def _scoring_asked(options: EnrolOptions) -> Scoring:
    return Scoring(
        num_neighbours=options.num_neighbours or 1,
        image_score=options.image_score_name,
        search=options.search or "exact",
        num_lists=0,
        num_probes=0,
        coreset_fraction=float(options.coreset_fraction or 1.0),
        measured_loss=None,
    )


def _with_loss(
    scoring: Scoring,
    bank: MemoryBank,
    rows: NDArray[np.float32],
    exact: CosineSearch,
    enrolment: Enrolment,
) -> Scoring:
    """Choose how many lists are searched, and measure what is lost to all of it."""
    probes, precision = enrolment.probes, enrolment.search_precision
    if not probes:  # exact in everything, or nothing but good images came to a measured bank
        return scoring
    if bank.centroids is not None:
        lists = InvertedLists(
            bank.tokens, bank.centroids, 1, scoring.num_neighbours, precision=precision
        )
        truth = np.concatenate([exact.distances(query) for query in probes])
        num_probes = choose_probes(lists, np.concatenate(probes), truth, PROBE_TOLERANCE)
        scoring = replace(scoring, num_probes=num_probes)
    search = open_bank(bank, scoring, len(probes[0]), precision)
    return replace(
        scoring, measured_loss=measure_loss(search, rows, probes, scoring.num_neighbours)
    )


def _kept_good_parts(
    enrolment: Enrolment, store: BankStore
) -> tuple[list[dict[str, str]], GoodParts | None]:
    """Good images of the version that is continued, where they were measured to this very bank."""
    base = enrolment.base
    if base is None or not enrolment.keeps_bank or not base.calibration.good_images:
        return [], None
    return base.calibration.good_images, store.read_good_parts(base)


def _measure_good_parts(
    enrolment: Enrolment, built: _Built, tokens_of: TokensOf
) -> tuple[str, GoodParts]:
    """Patch distances of good parts to the bank, by the best method there is for them."""
    rows, exact = enrolment.reference_rows.rows(), built.exact
    patches = enrolment.served.grid[0] * enrolment.served.grid[1]
    if enrolment.good_images:
        good = enrolment.good_rows.rows().reshape(len(enrolment.good_images), patches, -1)
        flat = [exact.distances(query) for query in good]
        return GOOD_IMAGES, GoodParts.measured(flat, enrolment.good_foreground)
    num_references = len(enrolment.references)
    if num_references == 1:
        return ROTATIONS, _rotations_of_the_only(enrolment, built, tokens_of)
    rows_each = len(rows) // num_references
    chosen = left_out(num_references)
    _require_neighbours(built.bank.reference_index, built.scoring.num_neighbours, "references")
    parts = leave_one_out(
        exact.distances_without,
        [rows[index * rows_each : index * rows_each + patches] for index in chosen],
        [int(index) for index in chosen],
        [enrolment.reference_foreground[index] for index in chosen],
    )
    return LEAVE_ONE_OUT, parts


def _require_neighbours(groups: NDArray[np.int32], num_neighbours: int, what: str) -> None:
    """Refuse a bank that is too small to score what is in it without its own patches."""
    left = len(groups) - int(np.bincount(groups).max())
    if left < num_neighbours:
        raise InspectionRefused(
            f"without the patches of one of its {what} the bank has {left}, fewer than the "
            f"{num_neighbours} neighbours asked for, so no threshold can be found; enrol more "
            "images, ask for fewer neighbours, or add good images that are no references"
        )


def _rotations_of_the_only(enrolment: Enrolment, built: _Built, tokens_of: TokensOf) -> GoodParts:
    """One reference's rotations, each scored against what the bank holds besides itself."""
    if enrolment.first_image is None:
        raise InspectionRefused("a version with a single reference needs another image to append")
    in_bank = len(enrolment.rotations_deg) > 1
    angles = enrolment.rotations_deg if in_bank else ROTATIONS_DEG[1:]
    tokens = [
        tokens_of(backbone_pixels(turned, enrolment.served.grid))
        for turned in rotations(enrolment.first_image, angles)
    ]
    foreground = [enrolment.foreground(one) for one in tokens]
    queries = [unit_tokens(one) for one in tokens]
    if not in_bank:
        return GoodParts.measured([built.exact.distances(query) for query in queries], foreground)
    angle_of_row = (built.kept // len(queries[0])).astype(np.int32)
    num_neighbours = built.scoring.num_neighbours
    _require_neighbours(angle_of_row, num_neighbours, "rotations")
    by_angle = CosineSearch(
        built.bank.tokens,
        len(queries[0]),
        enrolment.search_precision,
        num_neighbours,
        angle_of_row,
    )
    return leave_one_out(by_angle.distances_without, queries, range(len(angles)), foreground)


def _draft(
    enrolment: Enrolment,
    built: _Built,
    runtime: dict[str, str],
    calibration: Calibration,
    thresholds: Thresholds,
    region: Region,
) -> Bundle:
    served, base = enrolment.served, enrolment.base
    made_at = now()
    action = "enrolled" if base is None else "appended"
    if enrolment.keeps_bank:
        action = "recalibrated"
    return Bundle(
        product=enrolment.product,
        version=0,
        method="anomaly_dino",
        ensemble=served.ensemble,
        grid=list(served.grid),
        image_size=list(enrolment.image_size),
        layer=served.layer,
        num_references=len(enrolment.references),
        num_patches=len(built.bank.tokens),
        dim=built.bank.tokens.shape[1],
        threshold=thresholds.threshold,
        normal_below=thresholds.normal_below,
        defect_threshold=thresholds.defect_threshold,
        preprocessing=_preprocessing(enrolment, region),
        scoring=built.scoring,
        region=region,
        calibration=calibration,
        backbone=_backbone(enrolment, runtime),
        references=enrolment.references,
        created_at=made_at if base is None else base.created_at,
        created_by=(enrolment.options.operator or "") if base is None else base.created_by,
        change=Change(
            action, base.version if base else None, enrolment.options.operator or "", made_at
        ),
        bank_sha256="",
        good_parts_sha256="",
    )


def _preprocessing(enrolment: Enrolment, region: Region) -> Preprocessing:
    options, base = enrolment.options, enrolment.base
    shares = foreground_share(np.array(enrolment.reference_foreground), region.mask)
    return Preprocessing(
        setting=base.preprocessing.setting if base else options.preprocessing or DEFAULT_SETTING,
        rotated=base.preprocessing.rotated if base else bool(options.rotated),
        texture=base.preprocessing.texture if base else bool(options.texture),
        rotations_deg=list(enrolment.rotations_deg),
        masked=bool(enrolment.masked),
        masking_test=enrolment.masking_test,
        foreground_share=shares if enrolment.masked else None,
    )


def _backbone(enrolment: Enrolment, runtime: dict[str, str]) -> dict[str, Any]:
    precision = {"search_precision": enrolment.search_precision}
    return enrolment.served.identity() | runtime | precision


def _write_bank(staging: StagedVersion[Bundle], enrolment: Enrolment, bank: MemoryBank) -> str:
    base = enrolment.base
    if base is not None and enrolment.keeps_bank:
        staging.share(BANK_FILE, base)
        return base.bank_sha256
    return staging.write(BANK_FILE, bank.tensors())
