"""The sections on what a latency is made of, and is measured against: stages, floor, peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dinspect_bench.plots import stacked_bar
from dinspect_bench.report.document import (
    NOT_RUN,
    Bar,
    Bars,
    Cell,
    Section,
    Table,
    in_order,
    ms_text,
    share_text,
)
from dinspect_bench.report.latency import ms_or_not_run
from dinspect_bench.report.runs import RunRecord
from dinspect_bench.report.setting_text import setting_text

_PEER_CASES = ("anomaly_dino_448", "l2bt_1036")
_PEER_HEAD = ("case", "run", "system", "runtime", "covers", "p50, ms", "ratio to ours",
              "image AUROC", "samples")  # fmt: skip
_MAX_OPEN_BARS = 6
_REMAINDER = "remainder"  # of transport, where it was not measured by itself
_TOLERANCE = 0.05
"""How far the stages' sum may be from the whole."""


def stages_section(records: Sequence[RunRecord]) -> Section:
    """Where the time of a request goes, from records of kind ``latency``."""
    staged = [one for one in records if one.values.get("stages_ms")]
    notes = [
        "Mean milliseconds of a request by stage. The sum is the stages' share of the whole; it "
        f"may be off by {_TOLERANCE:.0%}.".replace("%", " %")
    ]
    if not staged:
        return Section("Where the time goes", [*notes, f"The stages were {NOT_RUN}."])
    names = in_order(name for one in staged for name in one.values["stages_ms"])
    rows: list[list[Cell]] = []
    bars = []
    for one in staged:
        stages, share = one.values["stages_ms"], one.values.get("stages_sum_share")
        rows.append(
            [
                one.run,
                setting_text(one.values),
                *(ms_text(stages[name]) if name in stages else "no such stage" for name in names),
                _sum_text(share, one.values.get("transport")),
            ]
        )
        parts = [(name, stages[name]) for name in in_order(stages)]
        title = f"{one.run}: {setting_text(one.values)}"
        labels = [(name, ms_text(value)) for name, value in parts]
        bars.append(Bar(title, labels, stacked_bar(parts)))
    table = Table(["run", "setting", *names, "sum"], rows, num_text_columns=2)
    return Section(
        "Where the time goes",
        notes,
        [Bars(bars, "By stage", is_collapsed=len(bars) > _MAX_OPEN_BARS), table],
    )


def _sum_text(share: float | None, transport: str | None) -> str:
    if share is None:
        return "transport is what is left" if transport == _REMAINDER else NOT_RUN
    # A share such as 1.05 is a little more than that in binary.
    is_off = round(abs(share - 1), 9) > _TOLERANCE
    return f"{share:.3f}{' (off)' if is_off else ''}"


def floor_section(records: Sequence[RunRecord], peaks: Sequence[RunRecord]) -> Section:
    """How near to the machine's peak the stages come.

    Args:
        records: Records of kind ``latency``.
        peaks: Records of kind ``peak``.
    """
    notes = [
        "The least time a stage could take: its operations at the machine's measured peak, or its "
        "bytes at the rate of a copy, whichever is longer.",
    ]
    floors: list[list[Cell]] = [
        [
            one.run,
            setting_text(one.values),
            step,
            ms_or_not_run(floor.get("floor_ms")),
            str(floor.get("bound") or NOT_RUN),
            ms_or_not_run(floor.get("measured_ms")),
            _share(floor.get("peak_share")),
        ]
        for one in records
        for step, floor in _floors_of(one)
    ]
    head = ["run", "setting", "stage", "floor, ms", "bound by", "measured, ms", "share reached"]
    table = Table(
        head, floors or [[NOT_RUN] * len(head)], title="Floor by stage", num_text_columns=3
    )
    return Section("The floor", notes, [_peak_table(peaks), table])


def _floors_of(one: RunRecord) -> list[tuple[str, Mapping[str, Any]]]:
    floors = one.values.get("floor_by_step") or {}
    return [(step, floors[step]) for step in in_order(floors)]


def _peak_table(peaks: Sequence[RunRecord]) -> Table:
    told = (name for one in peaks for name in one.values["matrix_product_flops"])
    names = in_order(told) or ["fp32", "bf16", "int8"]
    rows: list[list[Cell]] = []
    for one in peaks:
        rates = one.values["matrix_product_flops"]
        cells = [f"{rates[name] / 1e9:,.0f}" if rates.get(name) else NOT_RUN for name in names]
        rows.append([one.run, *cells, f"{one.values['copy_bytes_per_s'] / 1e9:,.1f}"])
    head = ["run", *(f"{name}, GFLOP/s" for name in names), "copy, GB/s"]
    return Table(head, rows or [[NOT_RUN] * len(head)], title="Measured peak")


def _share(value: float | None) -> str:
    return NOT_RUN if value is None else f"{100 * value:.0f} %"


def peer_section(records: Sequence[RunRecord]) -> Section:
    """Ours beside other implementations, from records of kind ``peer_latency``."""
    rows: list[list[Cell]] = []
    for case in dict.fromkeys([*_PEER_CASES, *(one.values["case"] for one in records)]):
        chosen = [one for one in records if one.values["case"] == case]
        rows += [_peer_row(one) for one in chosen] or [[case, *[NOT_RUN] * (len(_PEER_HEAD) - 1)]]
    notes = [
        "Medians of samples taken in turn, the same images in the same minutes. The ratio is the "
        "median over the rounds of a system's time to ours: above 1 it is slower than ours."
    ]
    return Section("Beside the peers", notes, [Table(_PEER_HEAD, rows, num_text_columns=5)])


def _peer_row(one: RunRecord) -> list[Cell]:
    record: Mapping[str, Any] = one.values
    ratio, auroc = record["ratio_to_dinspect"], record.get("image_auroc")
    reason = f": {record['not_run']}" if record.get("not_run") else ""
    told = (record.get("runtime"), record.get("precision"))
    return [
        record["case"],
        one.run,
        record["system"],
        " ".join(str(word) for word in told if word) or "not told",
        record.get("covers") or "not told",
        NOT_RUN + reason if record["p50_ms"] is None else ms_text(record["p50_ms"]),
        NOT_RUN if ratio is None else f"{ratio:.3f}",
        NOT_RUN if auroc is None else share_text(auroc),
        f"{record['num_samples']:,}",
    ]
