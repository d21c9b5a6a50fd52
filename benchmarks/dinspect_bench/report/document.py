"""What a report is made of, whichever way it is written: sections of tables, plots and pictures.

Both writers draw the same document, so a figure on the HTML page is the figure in the Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinspect_bench.pages import number_format

NOT_RUN = "not run"
_SIGNED = number_format("+.3f")
_SIGNED_MS = {True: number_format("+,.1f"), False: number_format("+.3f")}
_MS = {True: number_format(",.1f"), False: number_format(".3f")}
_FEW_MS = 10  # below it a tenth of a millisecond hides too much
_TINY_MS = 0.001


_ORDER = (
    "preprocess", "decode", "resize", "preprocess_other", "backbone", "knn", "students", "map",
    "queue", "routing", "between_steps", "transport", "transport_and_client",
    "fp32", "fp16", "bf16", "int8",
)  # fmt: skip
"""Stages of a request and precisions, as a reader expects them; a record file sorts its keys."""


@dataclass(frozen=True)
class Compared:
    """A cell that sets a figure of ours beside the paper's.

    Attributes:
        ours: Our figure, or why there is none.
        paper: The paper's.
        difference: Ours less the paper's; None where there is none of ours.
    """

    ours: str
    paper: str
    difference: str | None = None


Cell = str | Compared


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Titles of the columns.
        rows: Cells, as many as titles in each row, none of them empty but in ``head``.
        title: Heading, empty for none.
        notes: Sentences below the heading.
        num_text_columns: Columns from the left that hold words; the others hold figures.
        is_collapsed: Whether a page shows it only when asked.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    notes: Sequence[str] = ()
    num_text_columns: int = 1
    is_collapsed: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot, on the page alone.

    Attributes:
        title: Heading.
        x_label: What the horizontal axis shows.
        y_label: What the vertical one shows.
        geometry: As `plots.line_plot` gives it.
    """

    title: str
    x_label: str
    y_label: str
    geometry: Mapping[str, Any]


@dataclass(frozen=True)
class Plots:
    """Plots side by side.

    Attributes:
        plots: At least one.
        title: Heading.
    """

    plots: Sequence[Plot]
    title: str


@dataclass(frozen=True)
class Bar:
    """A whole split into parts.

    Attributes:
        title: Heading.
        parts: Name and milliseconds of each.
        geometry: As `plots.stacked_bar` gives it.
    """

    title: str
    parts: Sequence[tuple[str, str]]
    geometry: Mapping[str, Any]


@dataclass(frozen=True)
class Bars:
    """Bars below each other.

    Attributes:
        bars: At least one.
        title: Heading.
        is_collapsed: Whether a page shows them only when asked.
    """

    bars: Sequence[Bar]
    title: str
    is_collapsed: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture of an inspected image.

    Attributes:
        file: The image's name in its data set.
        label: The truth.
        score: Its anomaly score.
        source: The picture inside an address, None if there is none.
        missing: Why there is none.
    """

    file: str
    label: str
    score: str
    source: str | None
    missing: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures that belong together.

    Attributes:
        pictures: At least one.
        title: Heading.
    """

    pictures: Sequence[Picture]
    title: str


Block = Table | Plots | Bars | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        title: Heading.
        notes: Sentences below it.
        blocks: What it shows, in order.
    """

    title: str
    notes: Sequence[str] = ()
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: Heading.
        lead: What it is of, in a sentence or two.
        cautions: What a reader must know before quoting a figure.
        sections: Its parts.
    """

    title: str
    lead: str
    cautions: Sequence[str]
    sections: Sequence[Section]


def share_text(value: float, std: float | None = None) -> str:
    """A figure between 0 and 1, with its deviation if there is one."""
    return f"{value:.3f}" + ("" if std is None else f" ± {std:.3f}")


def ms_text(value: float, std: float | None = None) -> str:
    """Milliseconds: to a tenth, small ones to a thousandth, tiny ones to a nanosecond."""
    if 0 < abs(value) < _TINY_MS:
        return f"{value:.6f}".rstrip("0")
    write = _MS[abs(value) >= _FEW_MS]
    return write(value) + ("" if std is None else f" ± {write(std)}")


def seconds_text(value: float, std: float | None = None) -> str:
    """Seconds to a hundredth."""
    return f"{value:,.2f}" + ("" if std is None else f" ± {std:,.2f}")


def value_text(value: float, std: float | None, unit: str) -> str:
    """A figure in its unit, which is not written: ``share``, ``ms``, ``s`` or ``h``."""
    writers = {"share": share_text, "ms": ms_text}
    return writers.get(unit, seconds_text)(value, std)


def difference_text(difference: float, unit: str) -> str:
    """A difference with its sign, as precise as `value_text`."""
    if unit == "ms":
        return _SIGNED_MS[abs(difference) >= _FEW_MS](difference)
    return _SIGNED(difference)


def in_order(names: Iterable[str]) -> list[str]:
    """Stages or precisions, each once, as a reader expects them; unknown ones last."""
    known = {name: number for number, name in enumerate(_ORDER)}
    return sorted(dict.fromkeys(names), key=lambda name: known.get(name, len(known)))
