"""Step ``page``: everything that was recorded of this device, as one page."""

from __future__ import annotations

from dinspect_bench.files import write_text_atomically
from dinspect_bench.gpu import page_tables as tables
from dinspect_bench.gpu.cases import PARTS
from dinspect_bench.gpu.session import NOT_RUN, GpuRun, label_of
from dinspect_bench.gpu.steps import DONE, TASKS
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record

_MEASURED = ("device", "parity", "engine", "latency", "peak")
_SETTINGS = ("record", "created", "environment", "quick", "versions", "of", "reason")


def write_page(run: GpuRun) -> None:
    """Write the page from the records alone; what is missing is told with its reason."""
    write_text_atomically(run.page, format_page(run))


def format_page(run: GpuRun) -> str:
    """The page, in Markdown."""
    devices = run.all("device")
    peaks = run.all("peak")
    peak = peaks[-1] if peaks else None
    latency = run.all("latency")
    measured = _measured(run)
    sections = [
        f"# {_title(run, devices)}\n\n{_introduction(run)}",
        f"## Steps\n\n{_steps(run)}",
        f"## The device\n\n{tables.device_table(devices, measured)}" if devices else "",
        _section("Parity", _PARITY, tables.parity_table(run.all("parity"))),
        _section("Engines", _ENGINES, tables.engine_table(run.all("engine"))),
        "## Latency\n\n" + _LATENCY if latency else "",
        *(_latency_section(part, latency, peak) for part in PARTS),
        tables.paper_section(latency),
        _section("Through the embedded server", _SERVED, tables.served_table(latency)),
        _section("Peaks", _PEAKS, tables.peak_table(peak) if peak else ""),
        _section("Not run", "", _not_run(run)),
        f"Measured by `python benchmarks/gpu_run.py` on {measured_on(measured)}\n",
    ]
    return "\n".join(section for section in sections if section)


_PARITY = (
    "Against PyTorch in FP32 on the processor. Patch tokens: the smallest cosine of any patch, "
    "over all images, layers and batches. Scores and verdicts: AnomalyDINO's, of real solar cells, "
    "with the packaged weights; random weights have none. Search and map: against NumPy in double "
    "precision; close rows are about 1e-4 to 1e-3 from each other, which a search rounded more "
    "coarsely than to FP16 mixes up. What is required is in docs/engines.md.\n"
)
_ENGINES = (
    "Proven is an engine that ran on this device and kept to the gate. Fused attention: kernels "
    "named in the plan's text, and layers by TensorRT's inspector where the engine was loaded.\n"
)
_LATENCY = (
    "In process, one call at a time, inputs and outputs on the device; weights and inputs are "
    "random. p50 to std: until the device is done, by the program's clock. Device: between two "
    "events on the device itself, waiting for the program included; the rows of CUDA graphs have "
    "none. Small eager rows at batch 1 are bounded by the program's launches. Queued: the mean of "
    "calls that do not wait for each other. Milliseconds per call; a call is a batch; p90 takes 10 "
    "samples, p99 takes 100. Rates count matrix products alone, by the device's clock where there "
    "is one, so that TFLOP/s and the share of the peak have the same waiting in them, but for CUDA "
    "graphs.\n"
)
_SERVED = (
    "A PNG in, score and map out, through gRPC. The embedded server has no GPU backend: these are "
    "times of the processor.\n"
)
_PEAKS = "The best of several sizes, on random values; no data sheet's figures.\n"
_TITLES = {
    "backbone": "Backbone: pixels to patch tokens",
    "students": "L2BT's students: patch tokens to distances",
    "knn": "AnomalyDINO's search: patch tokens to distances",
    "map": "Map: distances to pixels, smoothed",
    "after_backbone": "After the backbone: patch tokens to the map",
    "whole_image": "Whole image: pixels to the map",
}


def _measured(run: GpuRun) -> list[Record]:
    """All records with figures of the page, oldest first."""
    records = [record for kind in _MEASURED for record in run.all(kind)]
    return sorted(records, key=lambda record: str(record["created"]))


def _title(run: GpuRun, devices: list[Record]) -> str:
    if run.scope.device == "cpu":
        return "The GPU script, tried on a CPU"
    named = [record["name"] for record in devices if record.get("name")]
    return f"{named[-1] if named else 'GPU'}: parity, engines, latency, peaks"


def _introduction(run: GpuRun) -> str:
    text = ""
    if run.scope.device == "cpu":
        text += (
            "**No GPU was there.** This page shows how far `benchmarks/gpu_run.py` goes without "
            "one: engines are built and not run, times and rates are the processor's, and "
            "everything that takes a GPU is below as not run.\n"
        )
    if run.scope.quick:
        text += (
            "**A quick run**: one small input, few samples. It shows that the script works; no "
            "figure here is a measurement.\n"
        )
    return text or "One command, one device, no network; each step in a process of its own.\n"


def _steps(run: GpuRun) -> str:
    latest = {record["task"]: record for record in run.all("step")}
    rows = []
    for task in TASKS:
        if task.step == "page":
            continue
        record = latest.get(task.name)
        if record is None:
            rows.append([task.name, "not run", "", "not asked for"])
            continue
        seconds = f"{record['elapsed_s']:.0f}" if record["elapsed_s"] else ""
        rows.append([task.name, record["status"], seconds, record["reason"]])
    undone = [row[0] for row in rows if row[1] != DONE]
    foot = f"\nNot done: {', '.join(undone)}.\n" if undone else "\nAll steps are done.\n"
    return markdown_table(["step", "outcome", "s", "why"], rows) + foot


def _section(title: str, text: str, table: str) -> str:
    """A section with a table, or nothing where the table is empty."""
    if not table:
        return ""
    return f"## {title}\n\n{text}\n{table}" if text else f"## {title}\n\n{table}"


def _latency_section(part: str, latency: list[Record], peak: Record | None) -> str:
    records = [record for record in latency if record["part"] == part]
    if not records:
        return ""
    return f"### {_TITLES[part]}\n\n{tables.latency_table(records, peak)}"


def _not_run(run: GpuRun) -> str:
    """What has no figures to this day, one line for each reason; a row's last reason counts."""
    reasons: dict[tuple[str, str], str] = {}
    for record in run.all(NOT_RUN):
        key = {name: value for name, value in record.items() if name not in _SETTINGS}
        if run.find(record["of"], **key) is None:
            reasons[record["of"], label_of(key)] = record["reason"]
    grouped: dict[tuple[str, str], list[str]] = {}
    for (kind, label), reason in reasons.items():
        grouped.setdefault((kind, reason), []).append(label)
    rows = [
        [kind, str(len(names)), tables.short_reason(reason), names[0]]
        for (kind, reason), names in grouped.items()
    ]
    return markdown_table(["what", "rows", "why", "the first of them"], rows) if rows else ""
