"""The section on what everything ran on, one column for each run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dinspect_bench.report.document import Cell, Section, Table
from dinspect_bench.report.runs import Run, RunRecord

_UNKNOWN = "not told"
_NONE = "none"


def environment_section(
    runs: Sequence[Run], by_kind: Mapping[str, Sequence[RunRecord]], others: Mapping[str, int]
) -> Section:
    """Hardware, software, commit and artefacts of every run.

    Args:
        runs: The runs.
        by_kind: Their records by kind.
        others: Kinds of records that are not shown here, with their number.
    """
    rows: list[list[Cell]] = [[name, *(fact(run) for run in runs)] for name, fact in _FACTS.items()]
    rows.append(["artefacts", *(_artefacts(run, by_kind) for run in runs)])
    notes = [
        "A run is one machine with one software at one commit; its letter stands beside its "
        "figures, and figures of several runs are never averaged."
    ]
    replaced = sum(run.num_replaced for run in runs)
    if replaced:
        notes.append(
            f"Of several records of one run with one setting the last counts; {replaced} earlier "
            f"{'one is' if replaced == 1 else 'ones are'} not shown."
        )
    if others:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"Records of other kinds, which have pages of their own: {listed}.")
    head = ["", *(f"run {run.label}" for run in runs)]
    table = Table(head, rows, num_text_columns=len(head))
    return Section("What it ran on", notes, [table])


def _processor(run: Run) -> str:
    cpu = run.environment["cpu"]
    quota = cpu.get("quota")
    virtual = " (virtual)" if cpu.get("virtualised") else ""
    cores = cpu.get("usable_cores")
    return (
        f"{cpu.get('model') or _UNKNOWN}{virtual}, {cores or _UNKNOWN} usable cores"
        + (f", quota {quota}" if quota else "")
        + f"; {', '.join(cpu.get('flags') or ()) or _UNKNOWN}"
    )


def _clock(run: Run) -> str:
    limit = (run.environment["cpu"].get("clock_mhz") or {}).get("max")
    at_most = "maximum not told" if not limit else f"at most {limit:,.0f} MHz"
    if run.clocks_mhz is None:
        return f"{_UNKNOWN}; {at_most}"
    low, high = run.clocks_mhz
    seen = f"{low:,.0f} MHz" if low == high else f"{low:,.0f} to {high:,.0f} MHz"
    return f"{seen} while measuring; {at_most}"


def _memory(run: Run) -> str:
    memory_gib = run.environment.get("memory_gib")
    return f"{memory_gib} GiB" if memory_gib else _UNKNOWN


def _gpus(run: Run) -> str:
    gpus = [
        ", ".join(str(value) for value in gpu.values()) for gpu in run.environment.get("gpus") or ()
    ]
    return "; ".join(gpus) or _NONE


def _system(run: Run) -> str:
    told = (run.environment.get(name) for name in ("os", "kernel", "python"))
    return ", ".join(one or _UNKNOWN for one in told)


def _packages(run: Run) -> str:
    packages = run.environment.get("packages") or {}
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or _UNKNOWN


def _commit(run: Run) -> str:
    git = run.environment.get("git")
    if not git:
        return "outside a checkout"
    return str(git.get("commit") or _UNKNOWN) + (
        ", with changed files" if git.get("changed_files") else ""
    )


def _records(run: Run) -> str:
    first, last = run.created
    when = first if first == last else f"{first} to {last}"
    return f"{run.num_records}, {when}"


_FACTS: dict[str, Callable[[Run], str]] = {
    "processor": _processor,
    "clock": _clock,
    "memory": _memory,
    "GPU": _gpus,
    "system": _system,
    "packages": _packages,
    "commit": _commit,
    "records": _records,
}


def _artefacts(run: Run, by_kind: Mapping[str, Sequence[RunRecord]]) -> str:
    """Digests of the backbones and of their weights, and the versions that answered."""
    weights: dict[tuple[str, str], str | None] = {}
    for one in (one for records in by_kind.values() for one in records if one.run == run.label):
        record: Mapping[str, Any] = one.values
        if record.get("backbone_sha256"):
            key = (record["backbone"], record["backbone_sha256"])
            weights[key] = record.get("weights_sha256") or weights.get(key)
    lines = [
        f"{name} {digest}" + (f" of weights {told}" if told else "")
        for (name, digest), told in weights.items()
    ]
    versions = sorted(
        {
            one.values["bundle_version"]
            for one in by_kind.get("accuracy", ())
            if one.run == run.label and one.values.get("bundle_version") is not None
        }
    )
    answered = f"bundle versions {', '.join(map(str, versions))}" if versions else None
    return "; ".join([*lines, *([answered] if answered else [])]) or _UNKNOWN
