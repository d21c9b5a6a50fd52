"""Where our figures of a row come from: run, backbone, runtime and whatever else must not be mixed.

Records of accuracy with all of the training images are chosen in one way only. They belong to the
few-shot records of the same source, so that both meet in a row, unless these were chosen in several
ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dinspect_bench.accuracy.protocol import KNOWN_ROTATION, TESTED_MASKING
from dinspect_bench.datasets.mvtec import MVTEC_AD_ROTATED, MVTEC_AD_TEXTURES
from dinspect_bench.records import Record
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import setting_text

_DIGEST_SHOWN = 8
_PARTS = {"search_precision": "search", "students_precision": "students"}
"""Key of a record of accuracy to what runs in that precision."""
_TABLE = ("dataset", "method", "resolution", "variant")
_ROWS = (*_TABLE, "shots", "selection", "preprocessing")


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

    def and_also(self, what: str) -> Source:
        """The same with one thing more, if it is any."""
        return replace(self, what=f"{self.what}, {what}") if what else self


def accuracy_sources(records: Sequence[RunRecord]) -> list[Source]:
    """Where each record of accuracy comes from.

    A data set's cameras need input sizes, and so graphs, of their own; what they have in common is
    the weights, so these stand for the backbone. Where one category was measured by several graphs
    of the same weights, the graph does: figures of two exports are never averaged. Nor are those of
    a category of which different things were said.
    """
    sources = _with_what_was_said(records, _with_graphs(records))
    return _with_selections(records, sources)


def latency_source(one: RunRecord) -> Source:
    """Where a record of latency comes from; what a row of the papers' says itself is left out."""
    said_by_row = dict.fromkeys(("resolution", "shots"))
    return Source(one.run, setting_text({**one.values, **said_by_row}))


def said_otherwise(record: Record) -> str:
    """What was said of a category's parts that is not what MVTec AD's are known for, in words.

    Returns:
        ``bottle as texture``, ``carpet not as texture``; empty where nothing else was said.
    """
    setting, category = record["preprocessing"], record["category"]
    known = {
        "texture": setting in TESTED_MASKING and category in MVTEC_AD_TEXTURES,
        "rotated": setting == KNOWN_ROTATION and category in MVTEC_AD_ROTATED,
    }
    return ", ".join(
        f"{category} {'as' if record[name] else 'not as'} {name}"
        for name, usual in known.items()
        if record.get(name, usual) != usual
    )


def _with_graphs(records: Sequence[RunRecord]) -> list[Source]:
    """The sources by weights, or by graphs in a table where a category was measured by several."""
    by_weights = [_source_of(one.run, one.values, _weights_of(one.values)) for one in records]
    tables = _grouped(records, by_weights, _ROWS)
    graphs = _seen(
        [(table, one.values["category"]) for one, table in zip(records, tables, strict=True)],
        [one.values["backbone_sha256"] for one in records],
    )
    several = {table for (table, _), found in graphs.items() if len(found) > 1}
    return [
        _source_of(one.run, one.values, one.values["backbone_sha256"])
        if table in several
        else source
        for one, source, table in zip(records, by_weights, tables, strict=True)
    ]


def _with_what_was_said(records: Sequence[RunRecord], sources: Sequence[Source]) -> list[Source]:
    """The sources with what was said of a category's parts, where it was not always the same."""
    categories = _grouped(records, sources, (*_ROWS, "category"))
    said = [said_otherwise(one.values) for one in records]
    everything = _seen(categories, said)
    return [
        source.and_also(words if len(everything[category]) > 1 else "")
        for source, words, category in zip(sources, said, categories, strict=True)
    ]


def _source_of(run: str, record: Record, digest: str) -> Source:
    parts = [
        f"{record['backbone']} {digest[:_DIGEST_SHOWN]}",
        " ".join(record[key] for key in ("runtime", "precision") if record.get(key)),
        *(f"{part} {record[key]}" for key, part in _PARTS.items() if record.get(key)),
        "" if record.get("epochs") is None else f"{record['epochs']} epochs",
    ]
    return Source(run, ", ".join(part for part in parts if part))


def _with_selections(records: Sequence[RunRecord], sources: Sequence[Source]) -> list[Source]:
    """The sources with how images were chosen; all images go with the only few-shot choice."""
    tables = _grouped(records, sources, _TABLE)
    chosen = [_selection_of(one.values) for one in records]
    seen: Mapping[Any, set[str]] = _seen(tables, chosen)
    completed = []
    for source, table, selection in zip(sources, tables, chosen, strict=True):
        others = seen[table] - {""}
        alone = next(iter(others)) if len(others) == 1 else ""
        completed.append(source.and_also(selection or alone))
    return completed


def _selection_of(record: Record) -> str:
    """How a few-shot record's images were chosen; empty for all images."""
    return "" if record["shots"] is None else record.get("selection") or ""


def _weights_of(record: Record) -> str:
    return str(record.get("weights_sha256") or record["backbone_sha256"])


def _grouped(
    records: Sequence[RunRecord], sources: Sequence[Source], names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """What each record has in common with others: its source, and some of its values."""
    return [
        (source, *(one.values.get(name) for name in names))
        for one, source in zip(records, sources, strict=True)
    ]


def _seen(groups: Sequence[tuple[Any, ...]], values: Sequence[str]) -> dict[Any, set[str]]:
    """Group to all values that occur in it."""
    seen: dict[Any, set[str]] = {}
    for group, value in zip(groups, values, strict=True):
        seen.setdefault(group, set()).add(value)
    return seen
