"""The rows of the papers' latency tables, and those we add: what is measured in each.

Table 9 of AnomalyDINO varies one thing at a time around its default (one shot, agnostic
preprocessing, ViT-S at 448 px). Its rows and those of L2BT's Table 2 come from `papers`, so none of
them can be missing; the grid of resolutions, shots and preprocessing is ours.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dinspect_bench.errors import LatencyError
from dinspect_bench.papers.tables import PaperFigure, paper_tables
from dinspect_client.wire import Method

LATENCY_TABLES = {"anomaly_dino": ("9a", "9b", "9c", "9d"), "l2bt": ("2",)}
"""Paper to the tables that have times."""
MEASURED_METRIC = "mean_ms"

_GRID_BACKBONE = "dinov2_vits14"
_GRID_RESOLUTIONS = (224, 448, 672, 896)
_GRID_SHOTS = (1, 8, 16)
_GRID_PREPROCESSING = (
    "no_mask_no_rotation",
    "mask_no_rotation",
    "no_mask_rotation",
    "mask_rotation",
)
_FULL = "full"
_SIZES = "sblg"
_PREPROCESSING = ("agnostic", "informed", "masking_only", *_GRID_PREPROCESSING)


@dataclass(frozen=True)
class LatencyRow:
    """One row.

    Attributes:
        method: ``anomaly_dino`` or ``l2bt``.
        backbone: Backbone variant of Meta's.
        resolution: Input size in pixels.
        shots: Reference images; None for all there are, and for L2BT.
        preprocessing: AnomalyDINO's setting, as `dinspect enroll --preprocessing` names it.
    """

    method: str
    backbone: str
    resolution: int
    shots: int | None = None
    preprocessing: str | None = None

    @property
    def name(self) -> str:
        """How a person asks for it: ``s-448-16-agnostic``, ``s-448-full-agnostic``, ``l2bt-b-224``.

        The letter is the backbone's size.
        """
        size = size_letter(self.backbone)
        if self.method == Method.L2BT:
            return f"l2bt-{size}-{self.resolution}"
        shots = _FULL if self.shots is None else self.shots
        return f"{size}-{self.resolution}-{shots}-{self.preprocessing}"

    def to_dict(self) -> dict[str, Any]:
        """As it lies in a record."""
        return asdict(self)


def size_letter(backbone: str) -> str:
    """``s``, ``b``, ``l`` or ``g`` of ``dinov2_vits14`` and so on."""
    return backbone.removeprefix("dinov2_vit")[0]


def row_of(figure: PaperFigure) -> LatencyRow:
    """The row that a figure of a paper stands in.

    Raises:
        LatencyError: If it is another method's, which is not measured here.
    """
    if figure.method not in LATENCY_TABLES or not figure.backbone or not figure.resolution:
        raise LatencyError(f"table {figure.table} has no row of ours for {figure.method}")
    return LatencyRow(
        figure.method, figure.backbone, figure.resolution, figure.shots, figure.preprocessing
    )


def table_figures(paper: str, number: str) -> list[dict[str, PaperFigure]]:
    """The papers' own figures row by row, metric to figure; the methods it compares with left out.

    Args:
        paper: ``anomaly_dino`` or ``l2bt``.
        number: One of its `LATENCY_TABLES`.
    """
    (table,) = (one for one in paper_tables(paper) if one.number == number)
    rows = ({one.metric: one for one in row if one.method == paper} for row in table.rows)
    return [row for row in rows if MEASURED_METRIC in row]


def paper_rows() -> list[LatencyRow]:
    """Every row of both papers once."""
    found = [
        row_of(figures[MEASURED_METRIC])
        for paper, numbers in LATENCY_TABLES.items()
        for number in numbers
        for figures in table_figures(paper, number)
    ]
    return list(dict.fromkeys(found))


def grid_rows() -> list[LatencyRow]:
    """Resolutions by shots by masking and rotation, ViT-S."""
    return [
        LatencyRow(Method.ANOMALY_DINO, _GRID_BACKBONE, resolution, shots, preprocessing)
        for resolution in _GRID_RESOLUTIONS
        for preprocessing in _GRID_PREPROCESSING
        for shots in _GRID_SHOTS
    ]


def all_rows() -> list[LatencyRow]:
    """Those of the papers, and the grid."""
    return list(dict.fromkeys([*paper_rows(), *grid_rows()]))


def default_rows() -> list[LatencyRow]:
    """What a laptop measures in a quarter of an hour.

    Left out are the backbones above ViT-B, the banks of all images, and in the grid beyond the
    papers' rows what fills a bank with rotated references above 224 px.
    """
    small = ("dinov2_vits14", "dinov2_vitb14")
    papers = [
        row
        for row in paper_rows()
        if row.backbone in small and (row.method == Method.L2BT or row.shots is not None)
    ]
    grid = [
        row
        for row in grid_rows()
        if row.resolution == min(_GRID_RESOLUTIONS) or "no_rotation" in (row.preprocessing or "")
    ]
    return list(dict.fromkeys([*papers, *grid]))


def chosen_rows(patterns: Sequence[str]) -> list[LatencyRow]:
    """Rows by name.

    Args:
        patterns: Names of rows, also with ``*``, such as ``s-448-*``. A name need not be a row of
            a table: any backbone, resolution, number of shots and preprocessing can be measured.

    Raises:
        LatencyError: If a name is none, or a pattern fits no row.
    """
    rows: list[LatencyRow] = []
    for pattern in patterns:
        found = [row for row in all_rows() if fnmatch.fnmatchcase(row.name, pattern)]
        rows += found or [_row_from_name(pattern)]
    return list(dict.fromkeys(rows))


def grouped(rows: Iterable[LatencyRow]) -> dict[tuple[str, str, int], list[LatencyRow]]:
    """Rows by what one server serves: method, backbone and resolution; in order of appearance."""
    groups: dict[tuple[str, str, int], list[LatencyRow]] = {}
    for row in rows:
        groups.setdefault((row.method, row.backbone, row.resolution), []).append(row)
    return groups


def _row_from_name(name: str) -> LatencyRow:
    students = re.fullmatch(rf"l2bt-([{_SIZES}])-(\d+)", name)
    if students:
        return LatencyRow(Method.L2BT, f"dinov2_vit{students[1]}14", int(students[2]))
    settings = "|".join(_PREPROCESSING)
    bank = re.fullmatch(rf"([{_SIZES}])-(\d+)-([1-9]\d*|{_FULL})-({settings})", name)
    if bank:
        shots = None if bank[3] == _FULL else int(bank[3])
        backbone = f"dinov2_vit{bank[1]}14"
        return LatencyRow(Method.ANOMALY_DINO, backbone, int(bank[2]), shots, bank[4])
    raise LatencyError(
        f"{name!r} is no row of a latency table and no name of one; names look like "
        "s-448-16-agnostic, s-448-full-masking_only or l2bt-b-1036, and patterns like 's-448-*'"
    )
