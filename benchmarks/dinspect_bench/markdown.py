"""Tables in Markdown, and the line below them that says on what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.records import Record


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def measured_on(records: Sequence[Record]) -> str:
    """Machine and commit, for the foot of a table.

    Args:
        records: What the table is made of, oldest first.

    Returns:
        One sentence, with each distinct machine and commit in the order of the records.
    """
    environments = [one["environment"] for one in records if one.get("environment")]
    places = dict.fromkeys(_place(environment) for environment in environments)
    return f"{'; then on '.join(places) or 'a machine that no record describes'}."


def _place(environment: Mapping[str, Any]) -> str:
    """Processor and commit of a measurement, in words."""
    cpu, git = environment["cpu"], environment["git"]
    commit = "outside a checkout" if git is None else f"commit {git['commit'][:12]}"
    if git is not None and git["changed_files"]:
        commit += " with changes"
    return f"{cpu['usable_cores']} cores of {cpu['model']} ({', '.join(cpu['flags'])}), {commit}"
