"""The sections to look at: ROC and PRO curves, the worst misses and false alarms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dinspect_bench.errors import ReportError
from dinspect_bench.pages import data_uri
from dinspect_bench.plots import line_plot
from dinspect_bench.records import Record
from dinspect_bench.report.accuracy import Group, shots_order
from dinspect_bench.report.document import (
    NOT_RUN,
    Gallery,
    Picture,
    Plot,
    Plots,
    Section,
)
from dinspect_bench.report.latency import MAX_LINES

_PRO_LIMIT = 0.3
Line = tuple[str, Sequence[Sequence[float]]]
"""Name and points of a curve."""


def curves_section(groups: Sequence[Group]) -> Section:
    """ROC and PRO curves of every category, a line for each number of shots."""
    blocks = [Plots(plots, group.title) for group in groups if (plots := _plots(group))]
    notes = [
        "Of each category and the lowest seed. ROC: detection rate over false alarm rate. "
        "PRO: mean overlap with the defect regions over the false positive rate of pixels, up to "
        f"{100 * _PRO_LIMIT:.0f} %."
    ]
    return Section("ROC and PRO curves", notes if blocks else [f"Accuracy was {NOT_RUN}."], blocks)


def pictures_section(groups: Sequence[Group]) -> Section:
    """The worst images of every category, of the most shots and the lowest seed.

    Raises:
        ReportError: If a picture lies outside its record's folder or cannot be read.
    """
    blocks = [gallery for group in groups for gallery in _galleries(group)]
    notes = [
        "Defective images with the lowest scores and good ones with the highest, each with its "
        "anomaly map over it; of the most shots and the lowest seed."
    ]
    name = "Worst misses and false alarms"
    return Section(name, notes if blocks else [f"Accuracy was {NOT_RUN}."], blocks)


def _plots(group: Group) -> list[Plot]:
    roc, pro = _lines(group, "roc"), _lines(group, "pro")
    plots = []
    for category in sorted(roc.keys() | pro.keys()):
        for kind, lines in (("ROC", roc.get(category)), ("PRO", pro.get(category))):
            plots += [
                _plot(f"{category}: {kind}", kind, lines[start : start + MAX_LINES])
                for start in range(0, len(lines or ()), MAX_LINES)
                if lines
            ]
    return plots


def _plot(title: str, kind: str, lines: Sequence[Line]) -> Plot:
    limit = 1.0 if kind == "ROC" else _PRO_LIMIT
    labels = {
        "ROC": ("false alarm rate", "detection rate"),
        "PRO": ("false positive rate of pixels", "mean overlap"),
    }
    return Plot(title, *labels[kind], line_plot(lines, x_range=(0.0, limit), y_range=(0.0, 1.0)))


def _lines(group: Group, kind: str) -> dict[str, list[Line]]:
    """Category to its curves, one for each number of shots."""
    lines: dict[str, list[Line]] = {}
    for shots, by_category in group.by_shots():
        for category, records in by_category.items():
            points = min(records, key=_seed_order)["curves"].get(kind)
            if points:
                lines.setdefault(category, []).append((_shots_name(shots), points))
    return lines


def _galleries(group: Group) -> Iterable[Gallery]:
    for category in sorted({one.values["category"] for one in group.records}):
        members = [one for one in group.records if one.values["category"] == category]
        chosen = max(
            members,
            key=lambda one: (shots_order(one.values["shots"]), -_seed_order(one.values)),
        )
        pictures = [_picture(chosen.folder, entry) for entry in chosen.values["worst"]]
        if pictures:
            title = f"{category}, {_shots_name(chosen.values['shots'])}: {group.title}"
            yield Gallery(pictures, title)


def _picture(folder: Path, entry: Record) -> Picture:
    source, missing = None, "no picture was taken"
    if entry["picture"] is not None:
        path = (folder / entry["picture"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ReportError(
                f"a record in {folder} names the picture {entry['picture']}, which is outside "
                "that folder; a record may only name pictures beside it"
            )
        source, missing = _read_picture(path, entry["picture"])
    return Picture(entry["file"], entry["label"], f"{entry['score']:.4f}", source, missing)


def _read_picture(path: Path, name: str) -> tuple[str | None, str]:
    """Its address, or why there is none: a record file may have been moved without its pictures."""
    try:
        with Image.open(path) as picture:
            return data_uri(np.asarray(picture.convert("RGB"), dtype=np.uint8)), ""
    except FileNotFoundError:
        return None, f"the picture {name} is not there"
    except (OSError, UnidentifiedImageError) as error:
        raise ReportError(f"{path} is no picture that can be read: {error}") from error


def _shots_name(shots: int | None) -> str:
    return "all images" if shots is None else f"{shots}-shot"


def _seed_order(record: Record) -> int:
    return record["seed"] or 0
