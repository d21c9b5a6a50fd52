"""Ours beside the papers' figures, each table as it is printed, with the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.accuracy.accuracy_table import FIGURES
from dinspect_bench.papers.tables import PaperFigure, PaperTable, paper_tables, papers
from dinspect_bench.report.document import (
    NOT_RUN,
    Cell,
    Compared,
    Section,
    Table,
    difference_text,
    value_text,
)
from dinspect_bench.report.figures_of_ours import Measured, OurFigures
from dinspect_bench.report.sources import Source

_DOUBT = " †"
_RHO = "\N{GREEK SMALL LETTER RHO}"
_SETTINGS = ("dataset", "category", "backbone", "resolution", "shots", "preprocessing", "variant")
_METRICS = {
    **FIGURES,
    "robustness_30": f"{_RHO} 30 %",
    "robustness_05": f"{_RHO} 5 %",
    "mean_ms": "inference, ms",
    "memory_bank_s": "memory bank, s",
    "training_hours": "training, h",
}
_DATASETS = {"mvtec_ad": "MVTec AD", "visa": "VisA"}


def paper_sections(ours: OurFigures) -> list[Section]:
    """One section for each paper, with all of its tables that are at hand."""
    sections = []
    for paper in papers():
        notes = [
            f"{paper.title} ({paper.authors}), {paper.published}"
            + (f", doi {paper.doi}" if paper.doi else "")
            + ". The method's own rows of each table, as they are printed. A cell holds ours, the "
            f"paper's and the difference, ours less the paper's; without a record of its setting "
            f"ours is “{NOT_RUN}”.",
        ]
        if paper.not_at_hand:
            numbers = ", ".join(paper.not_at_hand)
            notes.append(f"Tables {numbers} are not here: {paper.why_not}.")
        tables = [_comparison(table, ours) for table in paper_tables(paper.name)]
        sections.append(Section(f"Beside the paper: {paper.title}", notes, tables))
    return sections


def _comparison(table: PaperTable, ours: OurFigures) -> Table:
    own = [row for row in table.rows if row[0].method == table.paper]
    found = {figure: ours.find(figure) for row in own for figure in row}
    rows: list[list[Cell]] = []
    num_run = sum(
        any(isinstance(one, Measured) for one in found[figure].values())
        for row in own
        for figure in row
    )
    for row in own:
        label = _label(row, _differing(own, by_column=False))
        sources = sorted({source for figure in row for source in found[figure]})
        shown: list[Source | None] = [*sources] or [None]
        for source in shown:
            cells = [_cell(figure, found[figure], source) for figure in row]
            rows.append([label, NOT_RUN if source is None else str(source), *cells])
    in_columns = _differing(own, by_column=True)
    return Table(
        ["setting", "ours", *(_column_title(figure, in_columns) for figure in own[0])],
        rows,
        title=f"Table {table.number}",
        notes=[_summary(table, own, num_run), *_doubts(own)],
        num_text_columns=2,
        is_collapsed=not num_run,
    )


def _summary(table: PaperTable, own: Sequence[Sequence[PaperFigure]], num_run: int) -> str:
    total = sum(map(len, own))
    hardware = next((f.hardware for row in own for f in row if f.hardware), None)
    measured_on = f" The paper's times were measured on one {hardware}." if hardware else ""
    state = NOT_RUN if not num_run else f"{num_run} of ours"
    figures = "figure" if total == 1 else "figures"
    return f"{table.content}{measured_on} {total} {figures}: {state}."


def _doubts(own: Sequence[Sequence[PaperFigure]]) -> list[str]:
    """What the paper itself says against figures of this table."""
    differing = _differing(own, by_column=False) | _differing(own, by_column=True)
    metrics: dict[tuple[str, str], list[str]] = {}
    for figure in (figure for row in own for figure in row if figure.doubt):
        where = " ".join(_words(figure, differing)) or figure.method
        metrics.setdefault((where, str(figure.doubt)), []).append(metric_name(figure.metric))
    return [
        f"{_DOUBT.strip()} {where} ({', '.join(names)}): {doubt}."
        for (where, doubt), names in metrics.items()
    ]


def _cell(
    figure: PaperFigure, found: Mapping[Source, Measured | str], source: Source | None
) -> Compared:
    paper = value_text(figure.value, figure.std, figure.unit) + (_DOUBT if figure.doubt else "")
    measured = NOT_RUN if source is None else found.get(source, NOT_RUN)
    if isinstance(measured, str):
        return Compared(measured, paper)
    return Compared(
        value_text(measured.value, measured.std, figure.unit),
        paper,
        difference_text(measured.value - figure.value, figure.unit),
    )


def _differing(own: Sequence[Sequence[PaperFigure]], *, by_column: bool) -> set[str]:
    """Settings that differ from column to column, or from row to row."""
    lines: list[Sequence[PaperFigure]] = list(own) if by_column else list(zip(*own, strict=True))
    return {
        name for name in _SETTINGS for line in lines if len({getattr(f, name) for f in line}) > 1
    }


def _label(row: Sequence[PaperFigure], differing: set[str]) -> str:
    return " ".join(_words(row[0], differing)) or row[0].method


def _column_title(figure: PaperFigure, differing: set[str]) -> str:
    return " ".join([*_words(figure, differing), metric_name(figure.metric)])


def _words(figure: PaperFigure, differing: set[str]) -> list[str]:
    return [_word(name, getattr(figure, name)) for name in _SETTINGS if name in differing]


def _word(name: str, value: Any) -> str:
    """A setting's value in words; each setting has its own meaning of None."""
    if name == "dataset":
        return _DATASETS.get(value, "both data sets")
    if name == "category":
        return "mean" if value is None else str(value)
    if name == "shots":
        return "full-shot" if value is None else f"{value}-shot"
    if name == "variant":
        return "default" if value is None else str(value)
    if name == "resolution":
        return f"{value} px"
    return str(value)


def metric_name(metric: str) -> str:
    """What a figure is called in the head of a table."""
    name, _, quartile = metric.rpartition("_q")
    if name in _METRICS and quartile.isdigit():
        return f"{_METRICS[name]} Q{quartile}"
    return _METRICS[metric]
