"""Tables in Markdown, and the line below them that says on what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from dinspect_bench.machine.environment import describe_environment


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def measured_on() -> str:
    """One line on machine and commit, for the foot of a table."""
    facts = describe_environment()
    cpu, git = facts["cpu"], facts["git"]
    commit = "outside a checkout" if git is None else f"commit {git['commit'][:12]}"
    if git is not None and git["changed_files"]:
        commit += " with changes"
    flags = ", ".join(cpu["flags"])
    return f"{cpu['usable_cores']} cores of {cpu['model']} ({flags}), {commit}."
