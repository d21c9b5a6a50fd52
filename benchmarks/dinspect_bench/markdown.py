"""Tables in Markdown, and the line below them that says on what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.machine.environment import describe_environment


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def measured_on(records: Sequence[Mapping[str, Any]] = ()) -> str:
    """One line on machines and commits, for the foot of a table.

    Args:
        records: What is in the table, each with its ``environment``; without any, the machine and
            commit that write it are told.
    """
    environments = [record["environment"] for record in records] or [describe_environment()]
    commits: dict[str, dict[str, None]] = {}  # of each machine, in the order they came
    for one in environments:
        commits.setdefault(_processor(one["cpu"]), {})[_commit(one["git"])] = None
    return "; ".join(f"{machine}, {', '.join(of_it)}" for machine, of_it in commits.items()) + "."


def _processor(cpu: Mapping[str, Any]) -> str:
    return f"{cpu['usable_cores']} cores of {cpu['model']} ({', '.join(cpu['flags'])})"


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "outside a checkout"
    return f"commit {git['commit'][:12]}" + (" with changes" if git["changed_files"] else "")
