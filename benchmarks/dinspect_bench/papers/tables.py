"""The figures of the papers' tables, typed.

The files beside this module hold what the papers print, digit by digit, one file per table:
``setting`` holds for all of a table, ``columns`` and the rows add to it, and a cell is a value, or
a value with its standard deviation. ``readings`` say how the extracted text was read where it is
garbled or silent, ``doubts`` name the figures that contradict others of the same paper.

Table 8 of AnomalyDINO holds choices and not figures; `default_preprocessing` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

PREPROCESSING_TABLE = ("anomaly_dino", "8")
_INDEX = "papers.json"
_UNITS = {"_ms": "ms", "_s": "s", "_hours": "h"}
"""Unit of a metric by the end of its name; all others are shares, 0 to 1."""
_FACTORS = {("%", "share"): 0.01, ("s", "ms"): 1000.0}


@dataclass(frozen=True)
class Paper:
    """A paper, and which of its tables are at hand.

    Attributes:
        name: ``anomaly_dino`` or ``l2bt``, also the name of its own method.
        title: Its title.
        authors: First author and others.
        published: Where, or which part of it was at hand.
        doi: Its DOI, None where the text at hand prints none.
        arxiv: Its arXiv id, None where the text at hand prints none.
        tables: Numbers of the tables that are data here.
        not_at_hand: Numbers of those that are not.
        why_not: Why not; None when all are there.
    """

    name: str
    title: str
    authors: str
    published: str
    doi: str | None
    arxiv: str | None
    tables: tuple[str, ...]
    not_at_hand: tuple[str, ...]
    why_not: str | None


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One printed figure and the setting it was measured in.

    Attributes:
        paper: ``anomaly_dino`` or ``l2bt``.
        table: Number of its table, ``6`` or ``9a``.
        method: ``anomaly_dino`` and ``l2bt`` as in records; others as the paper writes them.
        metric: Name of the figure as in records: ``image_auroc``, ``aupro_05_q1``, ``mean_ms``.
        value: The figure in `unit`.
        std: Its standard deviation in `unit`, None where none is printed.
        unit: ``share`` (0 to 1), ``ms``, ``s`` or ``h``.
        dataset: ``mvtec_ad`` or ``visa``; None for a figure over both.
        category: Category by the name of its folder; None for the mean of all.
        backbone: Backbone variant; None where the method has another or none is printed.
        resolution: Input size in pixels.
        shots: Number of reference or training images, None for all of them.
        preprocessing: AnomalyDINO's setting, as `dinspect enroll --preprocessing` names it.
        variant: What differs from the method's default; None for the default.
        hardware: What a time was measured on; None for other figures.
        doubt: What speaks against the figure within its own paper; None when nothing does.
    """

    paper: str
    table: str
    method: str
    metric: str
    value: float
    std: float | None
    unit: str
    dataset: str | None = None
    category: str | None = None
    backbone: str | None = None
    resolution: int | None = None
    shots: int | None = None
    preprocessing: str | None = None
    variant: str | None = None
    hardware: str | None = None
    doubt: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table.

    Attributes:
        paper: ``anomaly_dino`` or ``l2bt``.
        number: ``6`` or ``9a``.
        source: Paper and table, for a reader.
        content: What it shows, in one sentence.
        readings: How the text was read where it is garbled or silent.
        rows: Its figures as they are printed, each row from left to right.
    """

    paper: str
    number: str
    source: str
    content: str
    readings: tuple[str, ...]
    rows: tuple[tuple[PaperFigure, ...], ...]

    @property
    def figures(self) -> tuple[PaperFigure, ...]:
        """Its figures row by row."""
        return tuple(figure for row in self.rows for figure in row)


@dataclass(frozen=True)
class CategoryPreprocessing:
    """AnomalyDINO's default preprocessing of one category, from its Table 8.

    Attributes:
        dataset: ``mvtec_ad`` or ``visa``.
        category: Category by the name of its folder.
        masked: Whether the background of test images is masked.
        not_masked_because: ``texture`` or ``masking test`` (which failed); None when masked.
        rotated_informed: Whether references are rotated in the setting ``informed``.
        rotated_agnostic: The same for ``agnostic``.
    """

    dataset: str
    category: str
    masked: bool
    not_masked_because: str | None
    rotated_informed: bool
    rotated_agnostic: bool


@cache
def papers() -> tuple[Paper, ...]:
    """Both papers."""
    entries = _load(_INDEX)["papers"]
    return tuple(
        Paper(
            name=entry["paper"],
            **{key: entry[key] for key in ("title", "authors", "published", "doi", "arxiv")},
            tables=tuple(entry["tables"]),
            not_at_hand=tuple(entry["not_at_hand"]),
            why_not=entry["why_not"],
        )
        for entry in entries
    )


@cache
def paper_tables(paper: str) -> tuple[PaperTable, ...]:
    """All tables of figures of a paper that are at hand, in its order.

    Args:
        paper: ``anomaly_dino`` or ``l2bt``.
    """
    (numbers,) = (one.tables for one in papers() if one.name == paper)
    return tuple(
        _table(_load(_file_of(paper, number)))
        for number in numbers
        if (paper, number) != PREPROCESSING_TABLE
    )


@cache
def default_preprocessing() -> tuple[CategoryPreprocessing, ...]:
    """AnomalyDINO's default preprocessing, category by category."""
    rows = _load(_file_of(*PREPROCESSING_TABLE))["rows"]
    return tuple(CategoryPreprocessing(**row) for row in rows)


def _file_of(paper: str, number: str) -> str:
    digits = number.rstrip("abcd")
    return f"{paper}/table_{int(digits):02d}{number[len(digits) :]}.json"


def _load(name: str) -> dict[str, Any]:
    text = files("dinspect_bench.papers").joinpath(name).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def _table(content: Mapping[str, Any]) -> PaperTable:
    return PaperTable(
        content["paper"],
        content["table"],
        content["source"],
        content["content"],
        tuple(content["readings"]),
        tuple(tuple(_figures(content, row)) for row in content["rows"]),
    )


def _figures(content: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[PaperFigure]:
    for column, cell in zip(content["columns"], row["cells"], strict=True):
        setting = content["setting"] | row["setting"] | column
        printed_in = setting.pop("printed_in")
        unit = _unit_of(setting["metric"])
        value, std = cell if isinstance(cell, list) else (cell, None)
        yield PaperFigure(
            paper=content["paper"],
            table=content["table"],
            value=_convert(value, printed_in, unit),
            std=None if std is None else _convert(std, printed_in, unit),
            unit=unit,
            doubt=_doubt_of(setting, content["doubts"]),
            **setting,
        )


def _unit_of(metric: str) -> str:
    return next((unit for end, unit in _UNITS.items() if metric.endswith(end)), "share")


def _convert(value: float, printed_in: str, unit: str) -> float:
    factor = 1.0 if printed_in == unit else _FACTORS[printed_in, unit]
    # A printed figure has five digits; this keeps 0.9970000000000001 out of what is shown.
    return round(value * factor, 9)


def _doubt_of(setting: Mapping[str, Any], doubts: list[dict[str, Any]]) -> str | None:
    reasons = [
        doubt["why"]
        for doubt in doubts
        if all(name in setting and setting[name] == value for name, value in doubt["where"].items())
    ]
    return "; ".join(reasons) or None
