"""The figures of a run as tables: mean over seeds, by category and over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinspect_bench.accuracy.means import mean_over_categories, mean_text
from dinspect_bench.markdown import markdown_table
from dinspect_bench.records import Record

FIGURES: Mapping[str, str] = {
    "image_auroc": "image AUROC",
    "image_f1_max": "image F1-max",
    "image_average_precision": "image AP",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1_max": "pixel F1-max",
    "pixel_average_precision": "pixel AP",
    "aupro_30": "AUPRO 30 %",
    "aupro_05": "AUPRO 5 %",
    "robustness_30": "robustness 30 %",
}
"""Figures of a table with their headings."""
_GROUP = (
    "dataset", "method", "backbone", "resolution", "runtime", "precision", "search_precision",
    "students_precision", "preprocessing", "selection", "shots",
)  # fmt: skip


def format_accuracy(records: Sequence[Record]) -> str:
    """Tables in Markdown, one for each way of measuring, with what must be known besides."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[name] for name in _GROUP), []).append(record)
    sections = [_section(group) for group in groups.values()]
    return "\n".join(sections + _notes(records) + _commits_note(records))


def _section(records: Sequence[Record]) -> str:
    by_category: dict[str, list[Record]] = {}
    for record in records:
        by_category.setdefault(record["category"], []).append(record)
    rows = [[name, _counts(found), *_figures([found])] for name, found in by_category.items()]
    if len(by_category) > 1:
        name = f"**mean of {len(by_category)} categories**"
        rows.append([name, "", *_figures(list(by_category.values()))])
    table = markdown_table(["category", "test images", *FIGURES.values()], rows)
    return "\n".join([f"{_title(records)}\n\n{table}", *_mask_notes(by_category)])


def _mask_notes(by_category: Mapping[str, Sequence[Record]]) -> list[str]:
    """Categories of which only some draws were masked; their means are of two ways to inspect."""
    notes = []
    for category, found in by_category.items():
        num_masked = sum(bool(record["masked"]) for record in found)
        if 0 < num_masked < len(found):
            notes.append(
                f"{category}: masked in {num_masked} of {len(found)} draws, as the masking test on "
                "the first image of each decided; these figures are means of both.\n"
            )
    return notes


def _title(records: Sequence[Record]) -> str:
    first = records[0]
    seeds = sorted({record["seed"] for record in records})
    if first["shots"] is None:
        learnt = "all training images"
    else:
        learnt = (
            f"{first['shots']} shot{'s' * (first['shots'] > 1)} ({first['selection']}), "
            f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        )
    return (
        f"{first['dataset']} by {first['method']}, {learnt}: {first['backbone']} at "
        f"{first['resolution']} px in {first['runtime']} {first['precision']}, "
        f"{_second_step(first)}, preprocessing {first['preprocessing']}"
    )


def _second_step(record: Record) -> str:
    """What follows the backbone, and its precision."""
    if record["students_precision"] is not None:
        return f"students in {record['students_precision']}"
    return f"search in {record['search_precision']}"


def _counts(records: Sequence[Record]) -> str:
    return f"{records[0]['num_good']} good, {records[0]['num_defective']} defective"


def _figures(by_category: Sequence[Sequence[Record]]) -> list[str]:
    """A row's figures, each over all of the categories that have it."""
    return [mean_text(mean_over_categories(by_category, key), len(by_category)) for key in FIGURES]


def _commits_note(records: Sequence[Record]) -> list[str]:
    """What was on record may have been measured by other code."""
    found = [(record.get("environment") or {}).get("git") for record in records]
    commits = dict.fromkeys(git["commit"][:12] for git in found if git)
    if len(commits) < 2:
        return []
    return [
        f"The records are of {len(commits)} commits ({', '.join(commits)}); if what the server "
        "computes has changed between them, measure all in a new file."
    ]


def _notes(records: Sequence[Record]) -> list[str]:
    """What a reader must know of the data, once for each category, in whole sentences."""
    notes = []
    for category, found in {record["category"]: record for record in records}.items():
        if found["left_out"]:
            notes.append(
                f"{category}: {len(found['left_out'])} images of another aspect ratio than the "
                "others are left out, for a product has one camera geometry; the records name them."
            )
        if found["num_not_outlined"] and found["num_regions"] is not None:
            notes.append(
                f"{category}: {found['num_not_outlined']} defective images have no mask; they "
                "count per image and not per pixel."
            )
        learnt = max(r["num_test_learnt_from"] for r in records if r["category"] == category)
        if learnt:
            notes.append(
                f"{category}: up to {learnt} test images are copies of images that were learnt "
                "from, so these figures flatter."
            )
        copies = [r for r in records if r["category"] == category and r["num_copies"]]
        if copies:
            notes.append(
                f"{category}: up to {max(r['num_copies'] for r in copies)} images to learn from "
                "are copies of others, and were taken once."
            )
    return notes
