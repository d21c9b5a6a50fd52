"""The demo's report: one HTML file that needs nothing else, not even a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.demo.gallery import Picture, Rgb, choose_sections
from dinspect_bench.errors import DemoError
from dinspect_bench.pages import data_uri, page_environment
from dinspect_bench.plots import roc_plot, sample_plot, score_plot, stacked_bar

TEMPLATE = "report.html.j2"
MAX_REPORT_BYTES = 8_000_000
_STEP_MEANINGS = (
    ("preprocess", "decode, resize, crop to the patch grid"),
    ("backbone", "vision transformer: pixels to patch tokens"),
    ("dinov2", "vision transformer: pixels to patch tokens"),
    ("cosine_knn", "nearest neighbour in the memory bank, score, verdict"),
    ("anomaly_map", "patch distances to a map of the original size"),
)


def render_report(
    result: Mapping[str, Any],
    pictures: Mapping[str, Picture],
    *,
    colour_bar: Rgb,
    peak: float,
) -> str:
    """Render the report.

    Args:
        result: As `result.build_result` gives it, or read back from ``result.json``.
        pictures: File name to picture of every image that `gallery.choose_sections` chooses.
        colour_bar: The overlays' colours from 0 to ``peak``, ``(h, w, 3)`` uint8 RGB.
        peak: Map value of the hottest colour.

    Returns:
        HTML with styles, plots and pictures inside.

    Raises:
        DemoError: If a chosen image has no picture or the page is over its size.
    """
    method, l2bt = result["methods"]["anomaly_dino"], result["methods"]["l2bt"]
    sections = choose_sections(method["images"], method["threshold"])
    html = (
        page_environment("dinspect_bench.demo")
        .get_template(TEMPLATE)
        .render(
            result=result,
            method=method,
            l2bt=l2bt,
            l2bt_scores=score_plot(l2bt["images"], l2bt["threshold"]),
            l2bt_roc=roc_plot(l2bt["roc"], operating_point(l2bt["at_threshold"])),
            gallery=[
                {
                    "title": section.title,
                    "note": section.note,
                    "tiles": [_tile(image, pictures) for image in section.images],
                }
                for section in sections
            ],
            colour_bar=data_uri(colour_bar),
            peak=peak,
            scores=score_plot(method["images"], method["threshold"]),
            roc=roc_plot(method["roc"], operating_point(method["at_threshold"])),
            samples=sample_plot(result["latency_samples_ms"], result["latency_ms"]),
            rows=latency_rows(result["latency_by_step_ms"]),
            bar=stacked_bar(_bar_parts(result["latency_by_step_ms"])),
        )
    )
    size_bytes = len(html.encode())
    if size_bytes > MAX_REPORT_BYTES:
        raise DemoError(f"the report has {size_bytes} bytes, at most {MAX_REPORT_BYTES} are meant")
    return html


def operating_point(counts: Mapping[str, int]) -> tuple[float, float]:
    """Rate of false alarms and of detections the verdicts come to; undecided parts are neither."""
    detected = counts["num_defective"] - counts["num_misses"] - counts["num_undecided_defective"]
    return (
        counts["num_false_alarms"] / counts["num_functional"],
        detected / counts["num_defective"],
    )


def latency_rows(by_step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table by step, each with its share of the client's mean.

    Args:
        by_step: As `stages.latency_by_step` gives it.
    """
    rows = [
        {"name": name, "meaning": step_meaning(name), **times}
        for name, times in by_step["steps"].items()
    ]
    rows += [
        {
            "name": "between the steps",
            "meaning": "Triton routes tensors from model to model",
            "total": by_step["between_steps"],
        },
        {
            "name": "transport and client",
            "meaning": "gRPC, building the request, reading the answer",
            "total": by_step["transport_and_client"],
        },
    ]
    return [row | {"share": row["total"] / by_step["client_mean"]} for row in rows]


def step_meaning(model: str) -> str:
    """What a model of the ensemble does, in a few words; empty for an unknown one."""
    return next((text for prefix, text in _STEP_MEANINGS if model.startswith(prefix)), "")


def _tile(image: Mapping[str, Any], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    picture = pictures.get(image["file"])
    if picture is None:
        raise DemoError(f"there is no picture of {image['file']}, which the report shows")
    wrong = (image["label"], image["verdict"]) in (
        ("functional", "anomalous"),
        ("defective", "normal"),
    )
    return {
        **image,
        "wrong": wrong,
        "original": data_uri(picture.original),
        "overlay": data_uri(picture.overlay),
    }


def _bar_parts(by_step: Mapping[str, Any]) -> Sequence[tuple[str, float]]:
    return [(row["name"], row["total"]) for row in latency_rows(by_step)]
