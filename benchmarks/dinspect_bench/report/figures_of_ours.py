"""Our figures by the setting a paper prints them for: which records answer to which figure.

Only records of the same setting do: method, data set, category, backbone, resolution, shots,
preprocessing and whatever departs from the method's default. A mean over the categories is there
only when all categories of the paper's data set are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dinspect_bench.accuracy.means import NO_MASKS, mean_over_categories
from dinspect_bench.papers.tables import PaperFigure, default_preprocessing
from dinspect_bench.records import Record
from dinspect_bench.report.document import NOT_RUN
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import preprocessing_of, setting_text
from dinspect_client.wire import Method

L2BT_EPOCHS = 50
_WHOLE = (None, "whole_image", "request")
"""Parts of an inspection that are all of it; most records have no part."""
_DIGEST_SHOWN = 8
_PARTS = {"search_precision": "search", "students_precision": "students"}
"""Key of a record of accuracy to what runs in that precision."""
_DEVIATIONS = {"mean_ms": "std_ms", "memory_bank_s": "memory_bank_std_s"}
"""Latency figures to the key of their deviation."""


@dataclass(frozen=True, order=True)
class Source:
    """What our figures of one row come from; those of several are told apart.

    Attributes:
        run: Label of the run.
        what: Backbone, runtime and so on, for a reader.
    """

    run: str
    what: str

    def __str__(self) -> str:
        return f"{self.run}: {self.what}"


@dataclass(frozen=True)
class Measured:
    """A figure of ours.

    Attributes:
        value: In the paper's unit.
        std: Standard deviation, None where there is none.
    """

    value: float
    std: float | None


class OurFigures:
    """Looks up records by the setting of a paper's figure.

    Args:
        accuracy: Records of kind ``accuracy``.
        latency: Records of kind ``latency``.
    """

    def __init__(self, accuracy: Iterable[RunRecord], latency: Iterable[RunRecord]) -> None:
        self._accuracy = list(accuracy)
        self._latency = [one for one in latency if one.values["scenario"] == "single_stream"]

    def find(self, figure: PaperFigure) -> dict[Source, Measured | str]:
        """Ours of every source that has any record of the figure's setting.

        Returns:
            Source to the figure, or to the reason why it has none; nothing for no record at all.
        """
        if figure.unit == "share":
            return self._find_accuracy(figure)
        return self._find_latency(figure)

    def _find_accuracy(self, figure: PaperFigure) -> dict[Source, Measured | str]:
        by_source: dict[Source, dict[str, list[Record]]] = {}
        fitting = [one for one in self._accuracy if _is_accuracy_of(one.values, figure)]
        for one, source in zip(fitting, accuracy_sources(fitting), strict=True):
            by_category = by_source.setdefault(source, {})
            by_category.setdefault(one.values["category"], []).append(one.values)
        return {
            source: _one_category(by_category[figure.category], figure.metric)
            if figure.category is not None
            else _mean_of_all(by_category, figure)
            for source, by_category in by_source.items()
        }

    def _find_latency(self, figure: PaperFigure) -> dict[Source, Measured | str]:
        found: dict[Source, Measured | str] = {}
        for one in self._latency:
            if _is_latency_of(one.values, figure):
                value = one.values.get(figure.metric)
                std = one.values.get(_DEVIATIONS.get(figure.metric, ""))
                found[latency_source(one)] = NOT_RUN if value is None else Measured(value, std)
        return found


def accuracy_sources(records: Sequence[RunRecord]) -> list[Source]:
    """Where each record of accuracy comes from.

    A data set's cameras need input sizes, and so graphs, of their own; what they have in common is
    the weights, so these stand for the backbone. Where one category was measured by several graphs
    of the same weights, the graph does: figures of two exports are never averaged.
    """
    graphs: dict[tuple[Any, ...], set[str]] = {}
    for one in records:
        graphs.setdefault(_graph_key(one), set()).add(one.values["backbone_sha256"])
    ambiguous = {key[0] for key, digests in graphs.items() if len(digests) > 1}
    by_weights = [_accuracy_source(one, _weights_of(one)) for one in records]
    return [
        _accuracy_source(one, one.values["backbone_sha256"]) if source in ambiguous else source
        for one, source in zip(records, by_weights, strict=True)
    ]


def _graph_key(one: RunRecord) -> tuple[Any, ...]:
    """What one graph answers for: a category at a method's resolution, from one source."""
    keys = ("dataset", "category", "method", "resolution")
    return (_accuracy_source(one, _weights_of(one)), *(one.values[key] for key in keys))


def _weights_of(one: RunRecord) -> str:
    return one.values.get("weights_sha256") or one.values["backbone_sha256"]


def _accuracy_source(one: RunRecord, digest: str) -> Source:
    record = one.values
    parts = [
        f"{record['backbone']} {digest[:_DIGEST_SHOWN]}",
        " ".join(record[key] for key in ("runtime", "precision") if record.get(key)),
        *(f"{part} {record[key]}" for key, part in _PARTS.items() if record.get(key)),
        record.get("selection") or "",
        "" if record.get("epochs") is None else f"{record['epochs']} epochs",
    ]
    return Source(one.run, ", ".join(part for part in parts if part))


def latency_source(one: RunRecord) -> Source:
    """Where a record of latency comes from; what a row of the papers' says itself is left out."""
    said_by_row = dict.fromkeys(("resolution", "shots"))
    return Source(one.run, setting_text({**one.values, **said_by_row}))


def _is_accuracy_of(record: Record, figure: PaperFigure) -> bool:
    return (
        _is_setting_of(record, figure)
        and record["dataset"] == figure.dataset
        and figure.category in (None, record["category"])
        and record["shots"] == figure.shots
        and figure.preprocessing in (None, record["preprocessing"])
        and (record["method"] != Method.L2BT or record.get("epochs") in (None, L2BT_EPOCHS))
    )


def _is_latency_of(record: Record, figure: PaperFigure) -> bool:
    is_whole = record.get("part") in _WHOLE and record.get("batch") in (None, 1)
    if not is_whole or not _is_setting_of(record, figure):
        return False
    if record["method"] == Method.L2BT:
        return True  # its time does not depend on how many images the students were trained on
    return record["shots"] == figure.shots and preprocessing_of(record) == figure.preprocessing


def _is_setting_of(record: Record, figure: PaperFigure) -> bool:
    return (
        record["method"] == figure.method
        # L2BT's paper does not mention the registers that its official code uses.
        and (
            record["backbone"] == figure.backbone
            or (figure.paper == "l2bt" and record["backbone"] == f"{figure.backbone}_reg")
        )
        and record["resolution"] == figure.resolution
        and record.get("variant") == figure.variant
    )


def _one_category(records: Sequence[Record], metric: str) -> Measured | str:
    return _measured([records], metric)


def _mean_of_all(
    by_category: Mapping[str, Sequence[Record]], figure: PaperFigure
) -> Measured | str:
    names = [one.category for one in default_preprocessing() if one.dataset == figure.dataset]
    have = [name for name in names if name in by_category]
    if len(have) < len(names):
        return f"{NOT_RUN} ({len(have)} of {len(names)} categories)"
    return _measured([by_category[name] for name in names], figure.metric)


def _measured(by_category: Sequence[Sequence[Record]], metric: str) -> Measured | str:
    """The mean of all of the categories; where one has no masks there is none to compare."""
    mean = mean_over_categories(by_category, metric)
    if mean is None or mean.num_categories < len(by_category):
        return NO_MASKS
    return Measured(mean.value, mean.std)
