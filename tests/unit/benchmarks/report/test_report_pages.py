"""The written report: the page read back as HTML, the Markdown beside it, and the command."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from hand_written import (
    accuracy,
    environment,
    l2bt_accuracy,
    latency,
    null_system,
    peak,
    peer_latency,
    write,
    write_picture,
)
from html_page import Page
from PIL import Image

from dinspect_bench.commands import ReportCommand
from dinspect_bench.errors import ReportError
from dinspect_bench.plots import line_plot
from dinspect_bench.report import writing
from dinspect_bench.report.document import (
    Compared,
    Document,
    Gallery,
    Picture,
    Plot,
    Plots,
    Section,
    Table,
)
from dinspect_bench.report.writing import markdown_text, write_report
from dinspect_client.main import main

HOSTILE = '<b>"x"</b>&<script>alert(1)</script>|*_[y](z)`'
WORST = [
    {"file": "test/crack/1.png", "label": "crack", "score": 0.5, "picture": "pictures/a.png"},
    {"file": "test/good/2.png", "label": "good", "score": 0.75, "picture": None},
]


@pytest.fixture
def folder(tmp_path):
    write_picture(tmp_path / "in" / "pictures" / "a.png")
    write(
        tmp_path / "in" / "a.jsonl",
        *(latency(resolution=r, shots=s) for r in (224, 448) for s in (1, 2)),
        null_system(),
        peak(),
        peer_latency(),
        accuracy(worst=WORST),
        accuracy(category="cable", worst=WORST),
        l2bt_accuracy(),
    )
    other = environment(git={"commit": "b" * 40, "changed_files": False})
    write(tmp_path / "in" / "b.jsonl", latency(environment=other, mean_ms=41.0))
    return tmp_path


def written(folder, *names):
    paths = [folder / "in" / name for name in names or ("a.jsonl", "b.jsonl")]
    write_report(paths, folder / "out")
    files = [folder / "out" / name for name in ("report.html", "report.md")]
    return [file.read_text(encoding="utf-8") for file in files]


def test_page_is_well_formed_and_needs_no_network(folder):
    html, _ = written(folder)
    page = Page(html)
    addresses = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href", "srcset", "action", "data", "poster")
        if key in attributes
    ]
    assert any(address.startswith("data:image/jpeg") for address in addresses)
    assert all(address.startswith(("data:image/", "#section-")) for address in addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for phrase in ("http:", "https:", "url(", "@import"):
        assert phrase not in html


def test_contents_lead_to_sections_and_ids_are_unique(folder):
    page = Page(written(folder)[0])
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes["href"].removeprefix("#") for attributes in page.all("a")]
    assert targets == [attributes["id"] for attributes in page.all("section")]
    assert len(targets) == 10


def test_every_plot_has_its_own_title(folder):
    page = Page(written(folder)[0])
    drawn = page.all("svg")
    titles = {attributes["id"] for attributes in page.all("title") if "id" in attributes}
    assert {one["aria-labelledby"] for one in drawn} == titles
    # By resolution and by shots, a bar for each latency, ROC and PRO of three categories.
    assert len(drawn) == 2 + 5 + 6
    assert all(one["role"] == "img" for one in drawn)
    assert all(re.fullmatch(r"[-\d., ]+", one["points"]) for one in page.all("polyline"))


def test_pictures_are_inside_the_page_and_described(folder):
    page = Page(written(folder)[0])
    images = page.all("img")
    assert len(images) == 2
    for attributes in images:
        assert attributes["alt"] == "test/crack/1.png, crack, with its anomaly map, score 0.5000"
        data = attributes["src"].split(",", 1)[1]
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (30, 20)
    assert "no picture was taken" in page.words


def test_both_files_hold_the_same_figures(folder):
    html, markdown = written(folder)
    words = Page(html).words
    for figure in ("82.0 ± 4.0", "41.0 ± 4.0", "0.850", "1.25 ± 0.05", "0.966 ± 0.004", "1.786 †",
                   "8,192 patches", "not run (2 of 15 categories)"):  # fmt: skip
        assert figure in words
        assert figure in markdown
    assert "0.900 / 0.997 ± 0.002 / −0.097" in markdown  # noqa: RUF001
    assert "0.900 0.997 ± 0.002 −0.097" in words  # noqa: RUF001


def test_not_run_is_marked_on_the_page_and_no_cell_is_blank(folder):
    html, markdown = written(folder)

    class Cells(HTMLParser):
        def __init__(self):
            super().__init__()
            self.cells, self.inside = [], False
            self.feed(html)

        def handle_starttag(self, tag, attrs):
            if tag in ("td", "th"):
                self.cells.append("")
                self.inside = True

        def handle_endtag(self, tag):
            self.inside = self.inside and tag not in ("td", "th")

        def handle_data(self, data):
            if self.inside:
                self.cells[-1] += data.strip()

    cells = Cells().cells
    assert cells.count("") == 1  # the corner of the table of environments
    # A mark for each cell; a figure of the paper follows ours in the same cell.
    marked = len(re.findall(r'class="not-run"', html))
    assert marked == sum(cell.startswith(("not run", "no masks")) for cell in cells)
    assert marked > 500
    assert markdown.count("not run") > 500
    blank = [line for line in markdown.splitlines() if re.search(r"^\| +\||\| +\|", line)]
    assert blank == ["|  | run A | run B |"]


def test_tables_of_which_nothing_was_run_are_closed(folder):
    html, _ = written(folder)
    summaries = re.findall(r"<summary>(.*?)</summary>", html)
    assert "Table 7" in summaries
    assert "Table 6" in summaries  # of L2BT; that of AnomalyDINO has two categories of ours
    opened = re.findall(r"<h3>(Table \w+)</h3>", html)
    assert opened == ["Table 6", "Table 9a", "Table 9b", "Table 9c", "Table 9d"]


def test_caution_on_weights_stands_before_the_figures(folder):
    html, markdown = written(folder)
    for text in (Page(html).words, markdown):
        caution, figures = text.index("no figure of the papers"), text.index("What it ran on")
        assert caution < figures


def test_names_are_text_and_never_markup(folder):
    hostile = environment()
    hostile["cpu"]["model"] = HOSTILE
    path = write(
        folder / "in" / "c.jsonl",
        accuracy(category=HOSTILE, dataset=HOSTILE, environment=hostile,
                 worst=[{"file": HOSTILE, "label": HOSTILE, "score": 1.0, "picture": None}]),
    )  # fmt: skip
    html, markdown = written(folder, path.name)
    page = Page(html)
    assert "<script" not in html
    assert '<b>"x"' not in html
    assert HOSTILE in "".join(page.text)
    assert "<script" not in markdown.replace("\\<", "")
    rows = [line for line in markdown.splitlines() if line.startswith("|") and "alert" in line]
    heads = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    # Environment, worst images, quartiles, accuracy: no name made a column of its own.
    assert heads == {3, 4, 12, 14}


def test_no_part_of_a_document_is_markup_in_markdown():
    marks = "*a* _b_ `c` <d> [e](f) g|h \\ i_j"
    picture = Picture(marks, marks, "0.5", None, "")
    plot = Plot(marks, "x", "y", line_plot([("line", [(0, 0), (1, 1)])]))
    blocks = [
        Table([marks], [[marks], [Compared(marks, marks, marks)]], title=marks, notes=[marks]),
        Gallery([picture], marks),
        Plots([plot], marks),
    ]
    document = Document(marks, marks, [marks], [Section(marks, [marks], blocks)])
    text = markdown_text(document)
    assert text.count("i_j") == 17
    for mark in ("*a", "_b", "`c", "<d", "[e", "|h"):
        assert text.count(mark) == text.count("\\" + mark) == 17, mark


def test_markdown_names_what_only_the_page_draws(folder):
    _, markdown = written(folder)
    assert "Drawn in `report.html`: Latency by resolution." in markdown
    assert "Drawn in `report.html`: bottle: ROC; bottle: PRO; cable: ROC; cable: PRO." in markdown
    assert "| test/crack/1.png | crack | 0.5000 |" in markdown


def test_page_over_its_size_is_refused(folder, monkeypatch):
    monkeypatch.setattr(writing, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(ReportError, match="at most 1000 are meant"):
        written(folder)
    assert not (folder / "out").exists()


def test_folder_that_cannot_be_made_is_refused(folder):
    (folder / "out").write_text("a file")
    with pytest.raises(ReportError, match="cannot write to"):
        written(folder)


def test_command_writes_both_files_and_tells_the_caution(folder, capsys):
    paths = [str(folder / "in" / name) for name in ("a.jsonl", "b.jsonl")]
    assert main(["report", *paths, "--output", str(folder / "out")]) == 0
    told = capsys.readouterr().out
    assert told.startswith("2 runs on 2 cores of Hand-written Processor, from 2026-01-02T")
    assert "3 of accuracy, 5 of latency, 1 of null_system, 1 of peak, 1 of peer_latency" in told
    assert "no figure of the papers can be expected" in told
    assert {path.name for path in (folder / "out").iterdir()} == {"report.html", "report.md"}


def test_command_says_where_a_record_is_broken(folder, capsys):
    path = folder / "in" / "a.jsonl"
    path.write_text(path.read_text() + json.dumps({"record": "peak"})[:-4])
    assert main(["report", str(path), "--output", str(folder / "out")]) == 2
    assert f"{path}, line 11 is no JSON" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_command_has_a_default_folder():
    import argparse

    parser = argparse.ArgumentParser()
    ReportCommand().add_arguments(parser)
    args = parser.parse_args(["a.jsonl", "b.jsonl"])
    assert [str(path) for path in args.records] == ["a.jsonl", "b.jsonl"]
    assert str(args.output) == "out/report"
