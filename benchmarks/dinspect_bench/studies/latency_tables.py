"""The page of the study ``latency``: the papers' tables, and what was measured here beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinspect_bench.latency.floor import floor_at, step_times
from dinspect_bench.machine.roofline import BACKBONE, KNN, MAP, PREPROCESS, STUDENTS, Peak
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.papers.tables import PaperFigure
from dinspect_bench.records import Record
from dinspect_bench.studies.latency_backbones import RANDOM
from dinspect_bench.studies.latency_rows import (
    LATENCY_TABLES,
    MEASURED_METRIC,
    LatencyRow,
    grid_rows,
    row_of,
    table_figures,
)
from dinspect_client.wire import Method

NOT_RUN = "not run"
DEFAULT_ROW = LatencyRow(Method.ANOMALY_DINO, "dinov2_vits14", 448, 1, "agnostic")
"""What Table 9 varies around."""
_TITLES = {
    "9a": "Table 9a: by the number of shots",
    "9b": "Table 9b: by preprocessing",
    "9c": "Table 9c: by resolution",
    "9d": "Table 9d: by size of the backbone",
}
_BANK_METRIC = "memory_bank_s"
_OUR_HEAD = [
    "row", "masked, rotated", "patches", "samples", "ms", "relative", "memory bank s", "floor ms",
]  # fmt: skip

Records = Mapping[LatencyRow, Record]


def format_latency(records: Records, peaks: Sequence[Record]) -> str:
    """The page, in Markdown.

    Args:
        records: Rows that were measured, at least one.
        peaks: The machine's records of kind ``peak``, at least one; the highest figures count.
    """
    peak = Peak.from_records(peaks)
    records = {row: {**one, **floor_at(one, peak)} for row, one in records.items()}
    tables = [f"## {_TITLES[number]}\n\n{_table_9(number, records)}" for number in _TITLES]
    others = [row for row in records if row not in _shown_rows()]
    if others:
        tables.append(f"## Other rows\n\n{_ours(others, records)}")
    return "\n".join(
        [
            _introduction(records),
            *tables,
            f"## Resolution, preprocessing and shots\n\n{_grid(records)}",
            f"## L2BT, Table 2\n\n{_table_2(records)}",
            f"## Where the time goes, and the floor\n\n{_stages(records)}",
            _foot(records, peaks),
        ]
    )


def _introduction(records: Records) -> str:
    some = next(iter(records.values()))
    runtime = f"{some['runtime']} {some['precision']}"
    random = ", ".join(row.name for row, one in records.items() if one["weights"] == RANDOM)
    weights = f"With random weights, on which time does not depend: {random}." if random else ""
    return (
        f"# Latency by the papers' protocol, {some['precision']}\n\n"
        "A PNG in, score and patch distances out, through gRPC and Triton, one request at a time "
        f"after a warm-up; the backbone in {runtime}. Mean ± standard deviation over all "
        "inspections, and over the products for the memory bank. AnomalyDINO: 1024 x 1024 px (real "
        "solar cells, enlarged, of two kinds of modules: two products), no map, which the authors "
        "leave out of their time as well. The memory bank's time is that of a whole enrolment, "
        "until it is in force: decoding, rotations, backbone, and what the authors do not have, "
        "thresholds (by one good image besides) and the version's files. L2BT: an image as large "
        f"as the input, with its map. {weights}\n\n"
        "The papers' times are of other hardware, without a server: compare what is relative to "
        f"their default, {DEFAULT_ROW.name}. *{NOT_RUN}* is run by its name: `dinspect study "
        "latency --rows NAME`.\n"
    )


def _table_9(number: str, records: Records) -> str:
    rows = []
    for figures in table_figures("anomaly_dino", number):
        inference, bank = figures[MEASURED_METRIC], figures[_BANK_METRIC]
        rows.append(
            [
                *_our_cells(row_of(inference), records),
                _spread(inference.value, inference.std, 0),
                f"{inference.value / _paper_default().value:.2f}",
                _spread(bank.value, bank.std, 2),
            ]
        )
    theirs = (f"{inference.hardware}: {what}" for what in ("ms", "relative", "memory bank s"))
    return markdown_table([*_OUR_HEAD, *theirs], rows)


def _ours(rows: Sequence[LatencyRow], records: Records) -> str:
    return markdown_table(_OUR_HEAD, [_our_cells(row, records) for row in rows])


def _our_cells(row: LatencyRow, records: Records) -> list[str]:
    record = records.get(row)
    if record is None:
        return [row.name, *[NOT_RUN] * (len(_OUR_HEAD) - 1)]
    default = records.get(DEFAULT_ROW)
    bank_s = record.get("memory_bank_s")
    return [
        row.name,
        f"{_yes(record['masking'])}, {_yes(record['rotation'])}",
        "" if record["bank_patches"] is None else f"{record['bank_patches']:,}",
        str(record["num_samples"]),
        _spread(record["mean_ms"], record["std_ms"], 0),
        NOT_RUN if default is None else f"{record['mean_ms'] / default['mean_ms']:.2f}",
        "" if bank_s is None else _spread(bank_s, record["memory_bank_std_s"], 2),
        f"{record['floor_ms']:.0f}",
    ]


def _grid(records: Records) -> str:
    """Rows: resolution and preprocessing; columns: shots."""
    shots = sorted({row.shots for row in grid_rows() if row.shots is not None})
    kinds = dict.fromkeys((row.resolution, row.preprocessing) for row in grid_rows())
    rows = []
    for resolution, preprocessing in kinds:
        cells = [f"{resolution} px", f"{preprocessing}"]
        for count in shots:
            row = LatencyRow(
                Method.ANOMALY_DINO, DEFAULT_ROW.backbone, resolution, count, preprocessing
            )
            cells.append(_grid_cell(records.get(row)))
        rows.append(cells)
    head = ["resolution", "preprocessing", *(f"shots {count}: ms; bank s" for count in shots)]
    names = f"`s-<resolution>-<shots>-<preprocessing>`, as in {grid_rows()[0].name}"
    return (
        f"ViT-S; one product, but where a table above has the row; names are {names}.\n\n"
        + markdown_table(head, rows)
    )


def _grid_cell(record: Record | None) -> str:
    if record is None:
        return NOT_RUN
    bank = _spread(record["memory_bank_s"], record["memory_bank_std_s"], 1)
    return f"{_spread(record['mean_ms'], record['std_ms'], 0)}; {bank}"


def _table_2(records: Records) -> str:
    rows, doubts = [], []
    for figures in table_figures("l2bt", "2"):
        printed = figures[MEASURED_METRIC]
        row = row_of(printed)
        record = records.get(row)
        rows.append([row.name, *_l2bt_cells(record), f"{printed.value:.3f}"])
        if printed.doubt:
            doubts.append(f"{printed.value} ms {printed.doubt}")
    head = [
        "row", "samples", "students only ms", "pixels to map ms", "whole request ms", "floor ms",
        f"{printed.hardware}: ms",
    ]  # fmt: skip
    doubted = f"\nThe paper's {'; its '.join(doubts)}.\n" if doubts else ""
    return markdown_table(head, rows) + doubted


def _l2bt_cells(record: Record | None) -> list[str]:
    if record is None:
        return [NOT_RUN] * 5
    stages = record["stages_ms"]
    return [
        str(record["num_samples"]),
        f"{stages[STUDENTS]:.1f}",
        f"{stages[BACKBONE] + stages[STUDENTS] + stages[MAP]:.0f}",
        _spread(record["mean_ms"], record["std_ms"], 0),
        f"{record['floor_ms']:.0f}",
    ]


def _stages(records: Records) -> str:
    rows = [[row.name, *_stage_cells(row, record)] for row, record in records.items()]
    head = [
        "row", "preprocessing ms", "of it decoding", "backbone ms", "of its peak",
        "kNN or students ms", "of its peak", "map ms", "queue and routing ms", "transport ms",
        "floor of the whole",
    ]  # fmt: skip
    return (
        markdown_table(head, rows)
        + "\nMeans per request, by Triton's own clocks; transport is what is left of the mean "
        "above. A step's floor is its operations at the peak rate of its precision, or its bytes "
        "at the rate of a copy, whichever takes longer; *of its peak* is floor over time. The "
        "search's step also makes the mask, the students' the map their score is taken from. "
        "Decoding has no floor here: only its bytes are counted.\n"
    )


def _stage_cells(row: LatencyRow, record: Record) -> list[str]:
    stages, steps = record["stages_ms"], step_times(record["stages_ms"])
    decode_ms = stages.get("decode")
    return [
        f"{steps[PREPROCESS]:.1f}",
        "" if decode_ms is None else f"{decode_ms:.1f}",
        *_step_cells(record, BACKBONE),
        *_step_cells(record, STUDENTS if row.method == Method.L2BT else KNN),
        f"{stages[MAP]:.1f}" if MAP in stages else "",
        # Adding zero turns the -0.0 of a tiny negative into 0.0.
        f"{round(stages['queue'] + stages['routing'], 1) + 0.0:.1f}",
        f"{round(stages['transport'], 1) + 0.0:.1f}",
        f"{100 * record['floor_ms'] / record['mean_ms']:.0f} %",
    ]


def _step_cells(record: Record, step: str) -> list[str]:
    share = record["floor_by_step"][step]["peak_share"]
    return [f"{record['stages_ms'][step]:.1f}", "" if share is None else f"{100 * share:.0f} %"]


def _foot(records: Records, peaks: Sequence[Record]) -> str:
    peak = Peak.from_records(peaks)
    times = "once" if len(peaks) == 1 else f"the best of {len(peaks)} times"
    rates = [
        f"{name.upper()} {flops / 1e9:,.0f} GFLOP/s"
        for name, flops in peak.matrix_product_flops.items()
        if flops
    ]
    loads = [one["load_average"] for one in records.values()]
    copied = peak.copy_bytes_per_s / 1e9
    return (
        f"Peak of this machine in products of several shapes, measured {times}: "
        f"{', '.join(rates)}; copy {copied:.1f} GB/s, read and written. "
        f"The load average before the rows was {min(loads):.1f} to {max(loads):.1f}.\n\n"
        f"Measured by `dinspect study latency` on {measured_on(list(records.values()))}\n"
    )


def _shown_rows() -> set[LatencyRow]:
    in_tables = {
        row_of(figures[MEASURED_METRIC])
        for paper, numbers in LATENCY_TABLES.items()
        for number in numbers
        for figures in table_figures(paper, number)
    }
    return in_tables | set(grid_rows())


def _paper_default() -> PaperFigure:
    (found,) = (
        figures[MEASURED_METRIC]
        for figures in table_figures("anomaly_dino", "9c")
        if row_of(figures[MEASURED_METRIC]) == DEFAULT_ROW
    )
    return found


def _spread(mean: float, std: float | None, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
