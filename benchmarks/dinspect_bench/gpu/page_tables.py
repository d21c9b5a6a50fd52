"""The tables of the page, each from its records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from dinspect_bench.gpu.cases import EAGER
from dinspect_bench.gpu.packages import PACKAGES
from dinspect_bench.gpu.scope import TEACHER_VARIANT
from dinspect_bench.machine.operations import (
    backbone_operations,
    knn_operations,
    students_operations,
)
from dinspect_bench.markdown import markdown_table
from dinspect_bench.records import Record
from dinspect_export.geometry import grid_from_size
from dinspect_export.variants import variant_by_name

PAPER_MS = 1.786
"""L2BT's time per image at 1036 x 1036 on an RTX 4090 (Table 2)."""
MIN_SAMPLES = {"p50": 1, "p90": 10, "p99": 100}
"""Percentile to the samples from which on it is shown: one at least lies at or beyond it."""
_PAPER_SIZE = 1036
_MIB = 2**20
# What TensorRT says of an engine it does not load, without where in its source it says so.
_NOT_LOADED = re.compile(
    r"cannot be loaded on this machine: .*?Error Code \d+: [^()]*\((?P<words>.+?) In \w+ at \S+\)"
)
_SENTENCE_END = re.compile(r"(?<=\.) (?=[A-Z])")


def device_table(devices: Sequence[Record], measured: Sequence[Record]) -> str:
    """What the device is, and its state at each moment, as it was there the last time.

    Args:
        devices: Records of the device, oldest first.
        measured: All records with figures, oldest first: they tell the packages' versions.
    """
    last = devices[-1]
    versions = versions_in(measured)
    facts = [f"{name} {' and '.join(counts)}" for name, counts in versions.items()]
    if "multiprocessors" in last:
        facts += [
            f"CUDA {last['cuda']}",
            f"{last['multiprocessors']} multiprocessors",
            f"{last['device_memory_bytes'] / 2**30:.0f} GiB",
        ]
    if last.get("driver"):
        facts += [f"driver {last['driver']}", f"compute capability {last['compute_capability']}"]
    text = ", ".join(facts) + f".{_differences(versions)}\n"
    states = {one["moment"]: one for one in devices if "sm_clock_mhz" in one}
    if not states:
        return text
    head = ["moment", "SM clock, MHz", "at most", "memory clock, MHz", "power, W", "limit", "°C"]
    names = (
        "sm_clock_mhz", "max_sm_clock_mhz", "memory_clock_mhz", "power_w", "power_limit_w",
        "temperature_c",
    )  # fmt: skip
    rows = [[moment, *(_plain(one[name]) for name in names)] for moment, one in states.items()]
    return f"{text}\n{markdown_table(head, rows)}"


def versions_in(records: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Package to its versions, each with the number of records that were measured with it.

    What went through the embedded server is left out, which has packages of its own.
    """
    found: dict[str, dict[str, int]] = {}
    for record in (one for one in records if not one.get("served")):
        for name, version in _versions_of(record).items():
            counts = found.setdefault(name, {})
            counts[version] = counts.get(version, 0) + 1
    return {name: found[name] for name in PACKAGES if name in found}


def _versions_of(record: Record) -> dict[str, str]:
    """By the record itself; older ones have some of them in their environment only."""
    environment = record.get("environment") or {"packages": {}}
    return {**environment["packages"], **record.get("versions", {})}


def _differences(versions: Mapping[str, Mapping[str, int]]) -> str:
    """A sentence on the packages of which there are several versions; empty without any."""
    several = [
        f"{name} {version} in {count}"
        for name, counts in versions.items()
        if len(counts) > 1
        for version, count in counts.items()
    ]
    return f" **Versions differ between records**: {', '.join(several)}." if several else ""


def parity_table(records: Sequence[Record]) -> str:
    """Each runtime's agreement; the last record of each counts."""
    latest = {(one["artefact"], one["weights"], one["runtime"]): one for one in records}
    rows = [
        [
            artefact,
            weights or "",
            runtime,
            _figure(one.get("min_patch_cosine"), ".6f"),
            _figure(one.get("max_score_change"), ".2%"),
            _figure(one.get("verdict_flips"), "d"),
            _figure(one.get("max_distance_change", one.get("max_change")), ".1e"),
            "yes" if one["kept"] else "**no**: " + "; ".join(one["failures"]),
        ]
        for (artefact, weights, runtime), one in latest.items()
    ]
    head = [
        "artefact", "weights", "runtime", "smallest cosine of a patch", "largest change of a score",
        "verdict flips", "largest change of a distance or pixel", "kept",
    ]  # fmt: skip
    return markdown_table(head, rows) if rows else ""


def engine_table(records: Sequence[Record]) -> str:
    """Each engine; the last record of each counts."""
    latest = {one["artefact"]: one for one in records}
    rows = [
        [
            artefact,
            ", ".join(one["targets"] or one["compute_capabilities"]) or "this GPU",
            f"{one['size_bytes'] / _MIB:.1f}",
            str(one["fused_attention_kernels"]),
            _figure(one["fused_attention_layers"], "d"),
            _figure(one.get("min_patch_cosine"), ".6f"),
            one["status"],
            short_reason(one["remark"]),
        ]
        for artefact, one in latest.items()
    ]
    head = [
        "engine", "for", "MiB", "fused attention, kernels", "layers",
        "smallest cosine of a patch", "outcome", "remark",
    ]  # fmt: skip
    return markdown_table(head, rows) if rows else ""


def short_reason(reason: str) -> str:
    """A reason as the page shows it; the record has all of it.

    Of what TensorRT says of an engine it does not load the first two sentences are enough: that it
    does not run on this GPU, and on which it would. Any other reason stays as it is.
    """
    found = _NOT_LOADED.search(reason)
    return " ".join(_SENTENCE_END.split(found["words"])[:2]) if found else reason


def latency_table(records: Sequence[Record], peak: Record | None) -> str:
    """The rows of one part; columns in which no row has anything are left out."""
    head = [
        "method", "backbone", "px", "batch", "bank", "runtime", "p50", "p90", "p99", "mean ± std",
        "device p50", "device p99", "queued", "samples", "TFLOP/s", "of the peak",
    ]  # fmt: skip
    rows = [_latency_row(one, peak) for one in records]
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    return markdown_table(
        [head[index] for index in kept], [[row[index] for index in kept] for row in rows]
    )


def _latency_row(one: Record, peak: Record | None) -> list[str]:
    execution = "" if one["execution"] == EAGER else f", {one['execution']}"
    rate = operations_per_s(one)
    best = peak["matrix_product_flops"].get(one["precision"]) if peak else None
    return [
        one["method"] or "",
        one["backbone"].removeprefix("dinov2_"),
        str(one["resolution"]),
        str(one["batch"]),
        f"{one['bank_patches']:,}" if one["bank_patches"] else "",
        f"{one['runtime']} {one['precision']}{execution}",
        *(_percentile(one, name) for name in ("p50", "p90", "p99")),
        f"{_ms(one['mean_ms'])} ± {one['std_ms']:,.{_decimals(one['mean_ms'])}f}",
        *(_percentile(one, name, "device_") for name in ("p50", "p99")),
        _ms(one["queued_ms"]),
        str(one["num_samples"]),
        _digits(rate / 1e12) if rate else "",
        f"{rate / best:.1%}" if rate and best else "",
    ]


def operations_per_s(record: Record) -> float | None:
    """Matrix products' operations per second of a row; None for the map, which has none counted."""
    operations = record["batch"] * operations_of(record)
    milliseconds = record["device_p50_ms"] or record["p50_ms"]
    return operations / milliseconds * 1e3 if operations else None


def operations_of(record: Record) -> int:
    """Operations of one image in a row's part of the work."""
    variant = variant_by_name(record["backbone"])
    grid = grid_from_size(str(record["resolution"]), variant.patch_size)
    part, total = record["part"], 0
    if part in ("backbone", "whole_image"):
        total += backbone_operations(variant, grid, max(variant.default_layers)).total
    if part in ("students", "after_backbone", "whole_image") and record["method"] == "l2bt":
        total += students_operations(variant.dim, grid).total
    if record["bank_patches"]:
        total += knn_operations(variant.dim, grid, record["bank_patches"]).total
    return total


def paper_section(records: Sequence[Record]) -> str:
    """L2BT at the paper's size: students only, and the whole image; empty without such rows."""
    named = {"after_backbone": "students only: tokens to map", "whole_image": "whole image"}
    rows = [
        [named[one["part"]], f"{one['runtime']} {one['precision']}", one["execution"],
         _ms(one["p50_ms"]), _ms(one["device_p50_ms"]), f"{one['p50_ms'] / PAPER_MS:.2f}"]
        for one in records
        if one["part"] in named
        and (one["method"], one["backbone"]) == ("l2bt", TEACHER_VARIANT)
        and (one["resolution"], one["batch"]) == (_PAPER_SIZE, 1)
    ]  # fmt: skip
    if not rows:
        return ""
    head = ["", "runtime", "execution", "p50", "device p50", f"times {PAPER_MS} ms"]
    return (
        f"### L2BT at {_PAPER_SIZE} x {_PAPER_SIZE}, ViT-B/14, one image\n\n"
        f"The paper's Table 2 gives {PAPER_MS} ms per image on an RTX 4090, from the image on the "
        "device to its map. results/l2bt_1036.md shows why that cannot include the teacher; hence "
        f"the two are told apart.\n\n{markdown_table(head, rows)}"
    )


def served_table(records: Sequence[Record]) -> str:
    """Requests through the embedded server; empty where it was not started."""
    rows = [
        [one["backbone"].removeprefix("dinov2_"), str(one["resolution"]),
         f"{one['bank_patches']:,}", f"{one['runtime']} {one['precision']}",
         *(_percentile(one, name) for name in ("p50", "p90", "p99")),
         f"{one['num_samples']} ({one['num_failed']} failed)"]
        for one in records
        if one["part"] == "request"
    ]  # fmt: skip
    head = ["backbone", "px", "bank", "runtime", "p50", "p90", "p99", "samples"]
    return markdown_table(head, rows) if rows else ""


def peak_table(peak: Record) -> str:
    """The highest rates seen."""
    rates = peak["matrix_product_flops"]
    rows = [
        [
            f"matrix product, {name}",
            f"{_digits(rate / 1e12)} TOP/s",
            peak["reached_by"].get(name, ""),
        ]
        for name, rate in rates.items()
        if rate
    ]
    copies = {
        "copy on the device, read and written": peak.get("copy_bytes_per_s"),
        "copy from the host, pinned": peak.get("host_to_device_bytes_per_s"),
        "copy to the host, pinned": peak.get("device_to_host_bytes_per_s"),
    }
    rows += [[name, f"{_digits(rate / 1e9)} GB/s", ""] for name, rate in copies.items() if rate]
    return markdown_table(["", "at best", "by"], rows)


def _percentile(record: Record, name: str, clock: str = "") -> str:
    """Milliseconds; empty where there are too few samples for it to be more than the slowest."""
    enough = record["num_samples"] >= MIN_SAMPLES[name]
    return _ms(record[f"{clock}{name}_ms"]) if enough else ""


def _ms(value: float | None) -> str:
    """Milliseconds to at least three digits, none behind the point from 100 on."""
    return "" if value is None else f"{value:,.{_decimals(value)}f}"


def _digits(value: float) -> str:
    """At least three digits, never an exponent's."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _decimals(value: float) -> int:
    return 3 if value < 10 else 1 if value < 100 else 0


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"
