"""The section on accuracy: every figure by category, and the mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dinspect_bench.accuracy.means import mean_over_categories, mean_text
from dinspect_bench.records import Record
from dinspect_bench.report.document import (
    NOT_RUN,
    Cell,
    Section,
    Table,
)
from dinspect_bench.report.paper_comparison import metric_name
from dinspect_bench.report.record_schema import (
    IMAGE_FIGURES,
    PIXEL_FIGURES,
    QUARTILES,
    ROBUSTNESS,
)
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.sources import accuracy_sources

_UNUSUAL = {
    "left_out": "Files of the data set that were not measured",
    "num_test_learnt_from": "Test images that are also among those learnt from, at the most",
    "num_not_outlined": "Defective images that nobody has outlined, counted per image only",
}
"""Key of a record to what it counts."""
_EVERYTHING = float("inf")


@dataclass(frozen=True)
class Group:
    """Records of one table: all that is equal but category, shots and seed.

    Attributes:
        title: What they have in common.
        records: At least one.
    """

    title: str
    records: tuple[RunRecord, ...]

    def by_shots(self) -> Iterator[tuple[int | None, dict[str, list[Record]]]]:
        """Records of each number of shots by category, few shots first, all images last."""
        for shots in sorted({one.values["shots"] for one in self.records}, key=shots_order):
            by_category: dict[str, list[Record]] = {}
            for one in self.records:
                if one.values["shots"] == shots:
                    by_category.setdefault(one.values["category"], []).append(one.values)
            yield shots, dict(sorted(by_category.items()))


def accuracy_section(groups: Sequence[Group]) -> Section:
    """Every figure by category with the mean, also where nothing was measured."""
    notes = [
        "Shares from 0 to 1, higher is better; mean ± standard deviation (n - 1) over seeds, no "
        "deviation for a single one. Below the categories of each number of shots stands their "
        "mean."
    ]
    if not groups:
        return Section("Accuracy", [*notes, f"Accuracy was {NOT_RUN}."])
    return Section("Accuracy", notes, [table for group in groups for table in _tables(group)])


def group_records(records: Sequence[RunRecord]) -> list[Group]:
    """Sort records of kind ``accuracy`` by table."""
    members: dict[str, list[RunRecord]] = {}
    for one, source in zip(records, accuracy_sources(records), strict=True):
        record = one.values
        title = ", ".join(
            str(part)
            for part in (
                record["dataset"],
                record["method"],
                f"{record['resolution']} px",
                record["preprocessing"],
                record.get("variant"),
            )
            if part is not None
        )
        members.setdefault(f"{title} ({source})", []).append(one)
    return [Group(title, tuple(group)) for title, group in sorted(members.items())]


def _tables(group: Group) -> Iterator[Table]:
    figures = (*IMAGE_FIGURES, *PIXEL_FIGURES, *ROBUSTNESS)
    notes = _notes(group)
    yield Table(
        ["shots", "category", "seeds", *map(metric_name, figures)],
        _rows(group, figures),
        title=group.title,
        notes=notes,
        num_text_columns=3,
    )
    if any(one.values[key] is not None for one in group.records for key in QUARTILES):
        yield Table(
            ["shots", "category", "seeds", *map(metric_name, QUARTILES)],
            _rows(group, QUARTILES),
            title=f"By the size of defects: {group.title}",
            notes=["Q1 holds the smallest quarter of a category's defects, Q4 all of them."],
            num_text_columns=3,
            is_collapsed=True,
        )


def _rows(group: Group, figures: Sequence[str]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for shots, by_category in group.by_shots():
        label = "all" if shots is None else str(shots)
        for category, records in by_category.items():
            seeds = ", ".join(str(record["seed"]) for record in records)
            rows.append([label, category, seeds, *_cells([records], figures)])
        count = len(by_category)
        what = f"mean of {count} {'category' if count == 1 else 'categories'}"
        means = _cells(list(by_category.values()), figures)
        rows.append([label, what, "all of them", *means])
    return rows


def _cells(by_category: Sequence[Sequence[Record]], figures: Sequence[str]) -> list[str]:
    return [mean_text(mean_over_categories(by_category, key), len(by_category)) for key in figures]


def _notes(group: Group) -> list[str]:
    """What is unusual about some of its records, so that no figure is taken for more than it is."""
    return [
        f"{words}: {', '.join(f'{count} of {name}' for name, count in counts.items())}."
        for key, words in _UNUSUAL.items()
        if (counts := _counts(group, key))
    ]


def _counts(group: Group, key: str) -> dict[str, int]:
    """Category to its records' largest count, where it is not 0; a list counts by its length."""
    counts: dict[str, int] = {}
    for one in group.records:
        value, category = one.values.get(key) or 0, one.values["category"]
        number = len(value) if isinstance(value, list) else int(value)
        if number > counts.get(category, 0):
            counts[category] = number
    return counts


def shots_order(shots: int | None) -> float:
    """To sort by: few shots first, all images last."""
    return _EVERYTHING if shots is None else shots
