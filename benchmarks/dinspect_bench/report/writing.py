"""Write a report, as Markdown for a repository and as one HTML page for a browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dinspect_bench.errors import ReportError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.markdown import markdown_table
from dinspect_bench.pages import page_environment
from dinspect_bench.report.assembly import assemble_document
from dinspect_bench.report.document import Bars, Block, Cell, Document, Gallery, Plots, Table

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"
MAX_PAGE_BYTES = 40_000_000
_TEMPLATE = "benchmarks.html.j2"
_MARKS = re.compile(r"[\\|*`<\[]|(?<!\w)_|_(?!\w)")
"""What Markdown would read as markup; an underscore within a word is none."""


def write_report(paths: Sequence[Path], output: Path) -> Document:
    """Read record files and write ``report.md`` and ``report.html``.

    Args:
        paths: JSON-lines files.
        output: Folder of both, made if it is not there.

    Returns:
        What was written.

    Raises:
        ReportError: If a record cannot be shown, the page is over its size, or a file cannot be
            written.
    """
    document = assemble_document(paths)
    texts = {MARKDOWN_FILE: markdown_text(document), HTML_FILE: html_text(document)}
    try:
        for name, text in texts.items():
            write_text_atomically(output / name, text)
    except OSError as error:
        raise ReportError(f"cannot write to {output}: {error.strerror}") from error
    return document


def html_text(document: Document) -> str:
    """The report as a page with styles, plots and pictures inside.

    Raises:
        ReportError: If it is over its size.
    """
    # The second package gives the look: the demo's report has it too.
    environment = page_environment("dinspect_bench.report", "dinspect_bench.demo")
    html = environment.get_template(_TEMPLATE).render(document=document)
    size_bytes = len(html.encode())
    if size_bytes > MAX_PAGE_BYTES:
        raise ReportError(
            f"the page has {size_bytes} bytes, at most {MAX_PAGE_BYTES} are meant; report fewer "
            "records at once"
        )
    return html


def markdown_text(document: Document) -> str:
    """The report in Markdown: every table, and the names of what only the page draws."""
    parts = [f"# {_escaped(document.title)}", _escaped(document.lead)]
    parts += [f"**{_escaped(caution)}**" for caution in document.cautions]
    for section in document.sections:
        parts += [f"## {_escaped(section.title)}", *map(_escaped, section.notes)]
        for block in section.blocks:
            parts += _markdown_block(block)
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> list[str]:
    heading = [f"### {_escaped(block.title)}"] if block.title else []
    if isinstance(block, Table):
        rows = [[_markdown_cell(cell) for cell in row] for row in block.rows]
        head = [_escaped(title) for title in block.head]
        return [*heading, *map(_escaped, block.notes), markdown_table(head, rows).rstrip()]
    if isinstance(block, Gallery):
        shown = [(one.file, one.label, one.score) for one in block.pictures]
        rows = [[_escaped(text) for text in row] for row in shown]
        return [*heading, markdown_table(["image", "truth", "score"], rows).rstrip()]
    if isinstance(block, Plots):
        names = "; ".join(plot.title for plot in block.plots)
        return [*heading, f"Drawn in `{HTML_FILE}`: {_escaped(names)}."]
    if isinstance(block, Bars):
        return []  # the table beside it has the same figures
    raise TypeError(f"a report has no block of type {type(block).__name__}")


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return _escaped(cell)
    shown = [cell.ours, cell.paper, cell.difference]
    return " / ".join(_escaped(text) for text in shown if text is not None)


def _escaped(text: str) -> str:
    """Text that is no markup, and stays within its cell."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))
