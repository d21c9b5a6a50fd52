"""The report, read back as HTML."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from html_page import Page
from PIL import Image

from dinspect_bench.demo.gallery import Picture, choose_sections, colour_bar, files_of
from dinspect_bench.demo.report import operating_point, render_report, step_meaning
from dinspect_bench.errors import DemoError
from dinspect_bench.files import json_text
from dinspect_bench.pages import data_uri

BAR = np.zeros((12, 256, 3), np.uint8)


def render(result, pictures):
    return render_report(result, pictures, colour_bar=BAR, peak=1.0)


def test_the_page_needs_no_network(result, pictures):
    html = render(result, pictures)
    page = Page(html)
    addresses = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href", "srcset", "action", "data", "poster")
        if key in attributes
    ]
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for phrase in ("http:", "https:", "url(", "@import"):
        assert phrase not in html


def test_every_picture_is_there_decodes_and_is_described(result, pictures):
    page = Page(render(result, pictures))
    method = result["methods"]["anomaly_dino"]
    sections = choose_sections(method["images"], method["threshold"])
    images = page.all("img")
    assert len(images) == 1 + 2 * sum(len(section.images) for section in sections)
    for attributes in images:
        assert attributes["alt"].strip()
        kind, data = attributes["src"].split(",", 1)
        assert kind == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()


def test_the_figures_of_the_result_are_on_the_page(result, pictures):
    words = Page(render(result, pictures)).words
    for figure in ("0.920", "100.0 ms/sample", "2 of 10", "2.51.0", "ab" * 32, "cd" * 32, "bf16"):
        assert figure in words
    for phrase in ("CC BY-NC-SA 4.0", "fine-tuned it for saliency", "literature", "seed 0"):
        assert phrase in words


def test_every_plot_has_a_title_and_every_image_a_dot(result, pictures):
    html = render(result, pictures)
    page = Page(html)
    plots = page.all("svg")
    assert len(plots) == 6
    titles = [attributes["id"] for attributes in page.all("title") if "id" in attributes]
    assert sorted(plot["aria-labelledby"] for plot in plots) == sorted(titles)
    assert len(set(titles)) == 6
    assert all(plot["role"] == "img" for plot in plots)
    dots = [a for a in page.all("circle") if a["class"].startswith("dot")]
    assert len(dots) == 40
    assert sum("off" in a["class"].split() for a in dots) == 8


def test_both_methods_stand_side_by_side(result, pictures):
    words = Page(render(result, pictures)).words
    for phrase in ("The same cells by L2BT", "AnomalyDINO 0.920", "L2BT 0.920", "2.000 → 0.250"):
        assert phrase in words


def test_names_are_text_and_never_markup(result, pictures):
    hostile = '<b>"x"</b>&<script>alert(1)</script>'
    text = json_text(result).replace("images/bad9.png", json.dumps(hostile)[1:-1])
    result = json.loads(text)
    pictures[hostile] = pictures.pop("images/bad9.png")
    result["methods"]["anomaly_dino"]["product"] = hostile
    result["environment"]["cpu"]["model"] = hostile
    html = render(result, pictures)
    page = Page(html)
    assert "<script" not in html
    assert '<b>"x"' not in html
    assert hostile in "".join(page.text)
    assert any(hostile in attributes["alt"] for attributes in page.all("img"))


def test_an_empty_section_says_so(result, pictures):
    for image in result["methods"]["anomaly_dino"]["images"]:
        image["verdict"] = "anomalous" if image["label"] == "defective" else "normal"
    method = result["methods"]["anomaly_dino"]
    for name in files_of(choose_sections(method["images"], method["threshold"])):
        pictures.setdefault(name, next(iter(pictures.values())))
    assert Page(render(result, pictures)).words.count("There is none.") == 2


def test_metas_weights_carry_no_caution(result, pictures):
    result["fine_tuned"] = False
    assert "saliency" not in Page(render(result, pictures)).words


@pytest.mark.parametrize(
    ("value", "text"),
    [(-2.11, "−2.1"), (-0.01, "0.0"), (0.0, "0.0"), (1234.56, "1,234.6")],  # noqa: RUF001
)
def test_numbers_have_a_real_minus_sign(result, pictures, value, text):
    result["latency_by_step_ms"]["between_steps"] = value
    assert f"<b>{text}</b>" in render(result, pictures)


def test_a_backbone_that_does_not_dominate_is_admitted(result, pictures):
    result["checks"]["everything_but_backbone_is_less"] = False
    assert "does not dominate" in Page(render(result, pictures)).words


def test_a_missing_picture_is_an_error(result, pictures):
    del pictures["images/bad9.png"]
    with pytest.raises(DemoError, match=r"images/bad9\.png"):
        render(result, pictures)


def test_a_page_over_its_size_is_an_error(result, pictures, monkeypatch):
    monkeypatch.setattr("dinspect_bench.demo.report.MAX_REPORT_BYTES", 1000)
    with pytest.raises(DemoError, match="at most 1000"):
        render(result, pictures)


def test_large_pictures_are_made_smaller():
    uri = data_uri(np.zeros((1000, 2000, 3), np.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert picture.size == (420, 210)


def test_sections_are_chosen_by_score_truth_and_verdict(result):
    method = result["methods"]["anomaly_dino"]
    chosen = {
        section.title: [image["file"].removeprefix("images/") for image in section.images]
        for section in choose_sections(method["images"], method["threshold"])
    }
    assert chosen["Most anomalous"] == [f"bad{i}.png" for i in (9, 8, 7, 6, 5, 4)]
    assert set(chosen["Borderline"][:2]) <= {"good8.png", "bad2.png"}
    assert chosen["Worst misses"] == ["bad0.png", "bad1.png"]
    assert chosen["Worst false alarms"] == ["good9.png", "good8.png"]
    assert chosen["Ordinary"] == ["good2.png", "good3.png", "good4.png"]


def test_colour_bar_runs_from_nothing_to_the_peak():
    seen = {}

    def overlay(image, anomaly_map, *, peak):
        seen.update(low=anomaly_map[0, 0], high=anomaly_map[-1, -1], peak=peak)
        assert anomaly_map.dtype == np.float32
        return image

    assert colour_bar(overlay, 0.25).shape == (12, 256, 3)
    assert seen == {"low": 0, "high": 0.25, "peak": 0.25}


def test_undecided_parts_are_neither_alarms_nor_detections():
    counts = {
        "num_functional": 10,
        "num_defective": 20,
        "num_false_alarms": 1,
        "num_misses": 4,
        "num_undecided_functional": 2,
        "num_undecided_defective": 6,
    }
    assert operating_point(counts) == (0.1, 0.5)


@pytest.mark.parametrize("name", ["preprocess_448", "dinov2_vitb14_448x588", "cosine_knn_672"])
def test_steps_have_a_meaning(name):
    assert step_meaning(name)
    assert step_meaning("something_else") == ""


def test_pictures_hold_both_views():
    picture = Picture(BAR, BAR)
    assert picture.original is BAR
