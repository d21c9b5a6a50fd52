"""Our figures by the setting a paper prints them for: which records answer to which figure.

Only records of the same setting do: method, data set, category, backbone, resolution, shots,
preprocessing and whatever departs from the method's default, all images of the category measured. A
mean over the categories is there only when all categories of the paper's data set are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dinspect_bench.accuracy.means import NO_MASKS, mean_over_categories
from dinspect_bench.papers.tables import PaperFigure, default_preprocessing
from dinspect_bench.records import Record
from dinspect_bench.report.document import NOT_RUN
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import preprocessing_of
from dinspect_bench.report.sources import Source, accuracy_sources, latency_source, said_otherwise
from dinspect_client.wire import Method

L2BT_EPOCHS = 50
_WHOLE = (None, "whole_image", "request")
"""Parts of an inspection that are all of it; most records have no part."""
_DEVIATIONS = {"mean_ms": "std_ms", "memory_bank_s": "memory_bank_std_s"}
"""Latency figures to the key of their deviation."""


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
        records = list(accuracy)
        self._accuracy = list(zip(records, accuracy_sources(records), strict=True))
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
        for one, source in self._accuracy:
            if _is_accuracy_of(one.values, figure):
                by_category = by_source.setdefault(source, {})
                by_category.setdefault(one.values["category"], []).append(one.values)
        return {
            source: _of_categories(by_category, figure) for source, by_category in by_source.items()
        }

    def _find_latency(self, figure: PaperFigure) -> dict[Source, Measured | str]:
        found: dict[Source, Measured | str] = {}
        for one in self._latency:
            if _is_latency_of(one.values, figure):
                value = one.values.get(figure.metric)
                std = one.values.get(_DEVIATIONS.get(figure.metric, ""))
                found[latency_source(one)] = NOT_RUN if value is None else Measured(value, std)
        return found


def _is_accuracy_of(record: Record, figure: PaperFigure) -> bool:
    return (
        _is_setting_of(record, figure)
        and record["dataset"] == figure.dataset
        and figure.category in (None, record["category"])
        and record["shots"] == figure.shots
        and figure.preprocessing in (None, record["preprocessing"])
        and (record["method"] != Method.L2BT or record.get("epochs") in (None, L2BT_EPOCHS))
        and not said_otherwise(record)
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


def _of_categories(
    by_category: Mapping[str, Sequence[Record]], figure: PaperFigure
) -> Measured | str:
    """A figure of one category, or its mean over all categories of the paper's data set."""
    if figure.category is None:
        names = [one.category for one in default_preprocessing() if one.dataset == figure.dataset]
    else:
        names = [figure.category]
    have = [name for name in names if name in by_category]
    if len(have) < len(names):
        return f"{NOT_RUN} ({len(have)} of {len(names)} categories)"
    left_out = sum(_num_left_out(by_category[name]) for name in names)
    if left_out:  # the paper measured these images, too
        return f"{NOT_RUN} ({left_out} images left out)"
    mean = mean_over_categories([by_category[name] for name in names], figure.metric)
    if mean is None or mean.num_categories < len(names):
        return NO_MASKS
    return Measured(mean.value, mean.std)


def _num_left_out(records: Sequence[Record]) -> int:
    return max(len(record.get("left_out") or ()) for record in records)
