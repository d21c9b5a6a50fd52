"""The page of the study ``peers``: ours beside each peer, and what each time covers."""

from __future__ import annotations

from collections.abc import Sequence

from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.peers.rounds import PAUSE_S
from dinspect_bench.peers.served import OURS
from dinspect_bench.records import Record

NOT_RUN = "not run"
IDLE_LIMIT = 0.05
"""Share of a core a system may use while another is measured, before the page warns of it."""
_METHODS = {"anomaly_dino_448": "AnomalyDINO", "l2bt_1036": "L2BT"}
_HEAD = [
    "system",
    "precision",
    "p50 ms",
    "quartiles ms",
    "ours / system",
    "quartiles",
    "of medians",
    "image AUROC",
    "processor while idle",
]


def format_peers(records: Sequence[Record]) -> str:
    """The page, in Markdown.

    Args:
        records: As the study measures them, ours first among those of a run.
    """
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        runs.setdefault((record["case"], record["requested_precision"]), []).append(record)
    return (
        "# Beside the peers, in the same run\n\n"
        f"{_introduction()}\n\n"
        + "\n".join(_run(run) for run in runs.values())
        + f"\nMeasured by `dinspect study peers` on {measured_on(records)}\n"
    )


def _introduction() -> str:
    return (
        "Ours is the whole served request, the peers run in process in an environment of their own "
        "(`dinspect install-peers`), each in its own process. In every round each of them inspects "
        "one image, the same for all, in orders in which each follows every other equally often; "
        "the first samples do not count. **Ours / system** is the median of the rounds' own "
        "ratios, so that what the machine does meanwhile cancels; **of medians** is the ratio of "
        "the two medians. Below 1 ours is faster. While one is measured the others wait: OpenMP's "
        "threads sleep (`OMP_WAIT_POLICY=PASSIVE`, for the server too), ONNX Runtime's do not spin "
        f"(`allow_spinning=0`), and {1e3 * PAUSE_S:.0f} ms pass before each sample. How much of a "
        "core a system used while others were measured is its processor time while idle."
    )


def _run(records: Sequence[Record]) -> str:
    ours = next(record for record in records if record["system"] == OURS)
    return (
        f"## {_title(ours)}\n\n{_conditions(ours)}\n\n"
        + markdown_table(_HEAD, [_row(record) for record in records])
        + f"\n{_verdict(records)}\n\nInside the times:\n\n{_covered(records)}"
        + _versions(records)
    )


def _covered(records: Sequence[Record]) -> str:
    """What lies inside the times, systems with the same in one line."""
    systems: dict[str, list[str]] = {}
    for record in records:
        systems.setdefault(record["covers"], []).append(record["system"])
    return "".join(f"- {', '.join(names)}: {covers}.\n" for covers, names in systems.items())


def _versions(records: Sequence[Record]) -> str:
    """What the peers' environment holds, as the first that ran says; empty if none did."""
    found: dict[str, str] = next((one["versions"] for one in records if one["versions"]), {})
    listed = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"\nThe peers' packages: {listed}.\n" if listed else ""


def _title(ours: Record) -> str:
    side = ours["resolution"]
    asked = ours["requested_precision"]
    precision = ours["precision"] + (f" (asked for: {asked})" if asked != ours["precision"] else "")
    return f"{_METHODS[ours['case']]} at {side} x {side}, ours in {precision}"


def _conditions(ours: Record) -> str:
    side = ours["resolution"]
    images = f"JPEG files of {side} x {side} (solar cells, resized), so all maps are of that size"
    if ours["bank_patches"] is None:
        return (
            f"{ours['backbone']} and students with **random weights**, the same in ours and in "
            f"anomalib's; {images}. {ours['num_samples']} rounds."
        )
    return (
        f"{ours['backbone']} with the demo's weights, the same in ours and in anomalib's, and "
        f"{ours['bank_patches']:,} patches of the same images in each bank; no masking, no "
        f"rotation; {images}. {ours['num_samples']} rounds. AUROC of {ours['num_inspected']} "
        f"functional and {ours['num_inspected']} defective cells; where there is none, the scores "
        "were not compared."
    )


def _row(record: Record) -> list[str]:
    name = _named(record)
    if record["not_run"] is not None:
        reason = " ".join(record["not_run"].replace("|", "/").split())
        return [name, "", f"{NOT_RUN}: {reason}", *[NOT_RUN] * (len(_HEAD) - 3)]
    auroc = record["image_auroc"]
    ratios = ["", "", ""]
    if record["system"] != OURS:
        low, high = record["dinspect_ratio_p25"], record["dinspect_ratio_p75"]
        ratios = [
            f"{record['dinspect_ratio']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{record['dinspect_ratio_of_medians']:.2f}",
        ]
    return [
        name,
        record["precision"],
        f"{record['p50_ms']:,.0f}",
        f"{record['p25_ms']:,.0f} to {record['p75_ms']:,.0f}",
        *ratios,
        "" if auroc is None else f"{auroc:.4f}",
        f"{100 * record['idle_processor_share']:.1f} %",
    ]


def _named(record: Record) -> str:
    runtime = record["runtime"]
    return record["system"] if runtime is None else f"{record['system']} ({runtime})"


def _verdict(records: Sequence[Record]) -> str:
    peers = [one for one in records if one["system"] != OURS and one["not_run"] is None]
    if not peers:
        return "No peer was run, so there is nothing to compare with."
    best = min(peers, key=lambda record: float(record["p50_ms"]))
    ratio = best["dinspect_ratio_of_medians"]
    word = "faster" if ratio < 1 else "not faster"
    return (
        f"The fastest peer is {best['system']}: ours takes {ratio:.2f} of its time (medians), "
        f"{best['dinspect_ratio']:.2f} round by round, and is {word}.{_not_idle(records)}"
    )


def _not_idle(records: Sequence[Record]) -> str:
    """A warning of systems that worked while others were measured; empty if none did."""
    busy = [
        record["system"]
        for record in records
        if record["not_run"] is None and record["idle_processor_share"] > IDLE_LIMIT
    ]
    if not busy:
        return ""
    return (
        f" **{' and '.join(busy)} used more than {100 * IDLE_LIMIT:.0f} % of a core while others "
        "were measured, whose times are too long by it.**"
    )
