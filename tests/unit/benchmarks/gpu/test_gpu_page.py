"""The page, made of records written by hand for a GPU that was never here."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from dinspect_bench.gpu.cases import Case
from dinspect_bench.gpu.page import format_page, write_page
from dinspect_bench.gpu.page_tables import (
    device_table,
    engine_table,
    latency_table,
    operations_of,
    paper_section,
    parity_table,
    peak_table,
    served_table,
    short_reason,
)
from dinspect_bench.gpu.session import GpuRun

SMALL, LARGE = "dinov2_vits14", "dinov2_vitb14"
PEAK = {
    "matrix_product_flops": {"fp32": 5e13, "fp16": 8e14, "int8": None},
    "reached_by": {"fp16": "torch, 8192 x 8192", "fp32": "torch, 4096 x 4096"},
    "copy_bytes_per_s": 3e12,
    "host_to_device_bytes_per_s": 5.5e10,
    "device_to_host_bytes_per_s": None,
}


def timed(part, method, backbone, resolution, *, p50_ms, device_p50_ms=None, **settings):
    settings = {
        "batch": 1, "bank_patches": None, "precision": "fp16", "runtime": "tensorrt-rtx",
        **settings,
    }  # fmt: skip
    case = Case(part, method, backbone, resolution, **settings)
    return {
        **case.key(), "p50_ms": p50_ms, "p90_ms": 2 * p50_ms, "p99_ms": 3 * p50_ms,
        "mean_ms": p50_ms, "std_ms": 0.25, "num_samples": 200, "num_failed": 0, "first_ms": 900.0,
        "queued_ms": None if device_p50_ms is None else device_p50_ms / 2,
        "device_p50_ms": device_p50_ms,
        "device_p99_ms": None if device_p50_ms is None else 1.5 * device_p50_ms,
    }  # fmt: skip


def cells(table, number=0):
    """Head of a table to the cells of one of its rows."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    return dict(zip(lines[0], lines[2 + number], strict=True))


def test_row_has_times_rate_and_share_of_the_peak_of_its_precision():
    row = timed("backbone", None, SMALL, 448, p50_ms=1.25, device_p50_ms=1.0, batch=8)
    found = cells(latency_table([row], PEAK))
    # 63.4 GFLOP an image, eight in a millisecond, of 800 TFLOP/s.
    rate = 8 * operations_of(row) / 1e-3  # 507 TFLOP/s
    assert found == {
        "backbone": "vits14", "px": "448", "batch": "8", "runtime": "tensorrt-rtx fp16",
        "p50": "1.250", "p90": "2.500", "p99": "3.750", "mean ± std": "1.250 ± 0.250",
        "device p50": "1.000", "device p99": "1.500", "queued": "0.500", "samples": "200",
        "TFLOP/s": "507", "of the peak": "63.4%",
    }  # fmt: skip
    assert rate / 8e14 == pytest.approx(0.634, abs=0.001)


def test_row_of_a_cpu_has_no_column_of_the_device():
    row = timed("map", None, SMALL, 448, p50_ms=120.0, precision="fp32", runtime="pytorch")
    found = cells(latency_table([row], None))
    assert found["p50"] == "120"
    assert not {"device p50", "queued", "TFLOP/s", "of the peak", "bank"} & found.keys()


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (3, ("1.250", "", "", "1.000", "")),
        (10, ("1.250", "2.500", "", "1.000", "")),
        (99, ("1.250", "2.500", "", "1.000", "")),
        (100, ("1.250", "2.500", "3.750", "1.000", "1.500")),
    ],
)
def test_percentile_takes_enough_samples(samples, expected):
    many = timed("backbone", None, SMALL, 448, p50_ms=1.25, device_p50_ms=1.0)
    found = cells(latency_table([many | {"num_samples": samples}, many], None))
    names = ("p50", "p90", "p99", "device p50", "device p99")
    assert tuple(found[name] for name in names) == expected


def test_rate_is_the_programs_where_the_device_has_no_clock():
    row = timed("knn", "anomaly_dino", SMALL, 448, p50_ms=2.0, bank_patches=8192)
    rate = 2 * 1024 * 384 * 8192 / 2e-3
    assert cells(latency_table([row], PEAK))["TFLOP/s"] == f"{rate / 1e12:.3g}"


@pytest.mark.parametrize(
    ("part", "method", "bank", "expected"),
    [
        ("students", "l2bt", None, "students"),
        ("after_backbone", "l2bt", None, "students"),
        ("whole_image", "l2bt", None, "backbone students"),
        ("knn", "anomaly_dino", 100, "search"),
        ("after_backbone", "anomaly_dino", 100, "search"),
        ("whole_image", "anomaly_dino", 100, "backbone search"),
        ("map", None, None, ""),
    ],
)
def test_operations_are_those_of_what_ran(part, method, bank, expected):
    of = {
        "students": 2 * 3 * 2 * 1024 * 384**2,
        "search": 2 * 1024 * 384 * 100,
        "backbone": operations_of(timed("backbone", None, SMALL, 448, p50_ms=1.0)),
        "": 0,
    }
    row = timed(part, method, SMALL, 448, p50_ms=1.0, bank_patches=bank)
    assert operations_of(row) == sum(of[name] for name in expected.split())


def test_papers_claim_is_held_against_students_and_whole_image():
    rows = [
        timed("whole_image", "l2bt", LARGE, 1036, p50_ms=17.86, device_p50_ms=17.0),
        timed("after_backbone", "l2bt", LARGE, 1036, p50_ms=0.893, device_p50_ms=0.8),
        timed("after_backbone", "l2bt", LARGE, 1036, p50_ms=5.0, batch=8),
        timed("after_backbone", "l2bt", SMALL, 1036, p50_ms=5.0),
        timed("after_backbone", "anomaly_dino", LARGE, 1036, p50_ms=5.0),
    ]
    section = paper_section(rows)
    whole, students = cells(section), cells(section, 1)
    assert (whole[""], whole["times 1.786 ms"]) == ("whole image", "10.00")
    assert (students[""], students["times 1.786 ms"]) == ("students only: tokens to map", "0.50")
    assert section.count("tensorrt-rtx") == 2
    assert "cannot include the teacher" in section
    assert paper_section(rows[2:]) == ""


def test_disagreement_stands_out_and_the_last_word_counts():
    bad = {
        "artefact": "a", "weights": "packaged", "runtime": "x", "min_patch_cosine": 0.5,
        "max_score_change": 0.25, "verdict_flips": 2, "kept": False, "failures": ["too far off"],
    }  # fmt: skip
    assert cells(parity_table([bad])) == {
        "artefact": "a", "weights": "packaged", "runtime": "x",
        "smallest cosine of a patch": "0.500000", "largest change of a score": "25.00%",
        "verdict flips": "2", "largest change of a distance or pixel": "",
        "kept": "**no**: too far off",
    }  # fmt: skip
    good = bad | {"kept": True, "failures": []}
    assert cells(parity_table([bad, good]))["kept"] == "yes"
    other = bad | {"weights": "random"}
    assert parity_table([good, other]).count("| a |") == 2


def test_engines_say_whether_they_ran():
    built = {
        "artefact": "a.tensorrt-rtx", "compute_capabilities": ["current"], "targets": [],
        "size_bytes": 52 * 2**20, "fused_attention_kernels": 12, "fused_attention_layers": 12,
        "min_patch_cosine": 0.9995, "status": "proven", "remark": "",
    }  # fmt: skip
    found = cells(engine_table([built]))
    assert (found["for"], found["MiB"], found["layers"], found["outcome"]) == (
        "current", "52.0", "12", "proven",
    )  # fmt: skip


def test_reason_of_tensorrt_is_cut_to_what_matters():
    said = (
        "model.plan cannot be loaded on this machine: IRuntime::deserializeCudaEngine: Error Code "
        "6: API Usage Error (The engine cannot run on this GPU, which has compute capability 9.0. "
        "Supported compute capabilities: 8.0 8.6 >12.0. TensorRT-RTX does not support this compute "
        "capability, so the engine cannot be rebuilt for it. In throwUnlessComputeCapSupported at "
        "runtime.cpp:84)"
    )
    assert short_reason(said) == (
        "The engine cannot run on this GPU, which has compute capability 9.0. "
        "Supported compute capabilities: 8.0 8.6 >12.0."
    )
    assert short_reason("there is no GPU. Or so.") == "there is no GPU. Or so."


def test_peaks_are_given_where_they_are_known():
    table = peak_table(PEAK)
    assert "matrix product, fp16 | 800 TOP/s | torch, 8192 x 8192" in table
    assert "copy on the device, read and written | 3,000 GB/s" in table
    assert "int8" not in table
    assert "copy to the host" not in table


def test_state_of_the_device_is_told_at_each_moment():
    state = {
        "name": "NVIDIA H100", "driver": "580.1", "compute_capability": "9.0",
        "sm_clock_mhz": 345.0, "max_sm_clock_mhz": 1980.0, "memory_clock_mhz": 2619.0,
        "power_w": "[N/A]", "power_limit_w": 700.0, "temperature_c": 31.0,
        "versions": {"torch": "2.11.0"}, "cuda": "13.0", "multiprocessors": 132,
        "device_memory_bytes": 80 * 2**30, "moment": "before the rows of map",
    }  # fmt: skip
    states = [state, state | {"moment": "after the rows of map", "sm_clock_mhz": 1980.0}]
    table = device_table(states, states)
    assert "differ" not in table
    assert "torch 2.11.0, CUDA 13.0, 132 multiprocessors, 80 GiB, driver 580.1" in table
    assert cells(table)["power, W"] == "[N/A]"
    assert cells(table, 1)["SM clock, MHz"] == "1,980"


def test_versions_are_those_of_the_rows_and_told_where_they_differ():
    """Older rows have no versions of their own, but what their environment had."""
    device = {"versions": {"torch": "2.11.0"}, "moment": "now"}
    older = {"environment": {"packages": {"torch": "2.10.0", "openvino": "2026.4.1", "numpy": "2"}}}
    newer = {"environment": None, "versions": {"torch": "2.11.0", "openvino": "2026.4.1"}}
    served = {"served": True, "versions": {"torch": "1.0", "onnxruntime": "1.0"}}
    assert device_table([device], [older, newer, newer, served]) == (
        "torch 2.10.0 and 2.11.0, openvino 2026.4.1. **Versions differ between records**: "
        "torch 2.10.0 in 1, torch 2.11.0 in 2.\n"
    )


def test_served_requests_have_their_own_table():
    request = {
        "part": "request", "backbone": SMALL, "resolution": 448, "bank_patches": 8192,
        "runtime": "triton, openvino", "precision": "fp32", "p50_ms": 50.0, "p90_ms": 60.0,
        "p99_ms": 70.0, "num_samples": 60, "num_failed": 1,
    }  # fmt: skip
    found = cells(served_table([request]))
    assert found["samples"] == "60 (1 failed)"
    assert (found["p50"], found["p90"], found["p99"]) == ("50.0", "60.0", "")
    assert served_table([timed("map", None, SMALL, 448, p50_ms=1.0)]) == ""


def test_page_tells_what_was_not_run_once_for_each_reason(run):
    for batch in (1, 8):
        run.not_run("latency", {"part": "knn", "batch": batch}, "no CuPy")
    run.not_run("latency", {"part": "map", "batch": 1}, "out of memory")
    run.append("latency", part="map", batch=1, **measured("map"))
    page = format_page(run)
    assert "| latency | 2 | no CuPy | batch 1, part knn |" in page
    assert "out of memory" not in page  # it was measured since


def test_last_reason_of_a_row_counts(run):
    for reason in ("no CuPy", "out of memory", "no CuPy"):
        run.not_run("latency", {"part": "knn", "batch": 1}, reason)
    page = format_page(run)
    assert "| latency | 1 | no CuPy | batch 1, part knn |" in page
    assert "out of memory" not in page


def measured(part):
    row = timed(part, None, SMALL, 448, p50_ms=1.0)
    return {name: row[name] for name in row if name not in ("part", "batch")}


def test_page_of_a_gpu_is_named_after_it(run):
    on_gpu = GpuRun(replace(run.scope, device="cuda", quick=False), run.folders, run.page)
    on_gpu.append("device", name="NVIDIA H100 80GB HBM3", moment="now", versions={})
    on_gpu.append("step", step="parity", task="parity", status="done", reason="", elapsed_s=61.4)
    on_gpu.append(
        "step", step="peak", task="peak", status="timed out", reason="after 90 s", elapsed_s=90.0
    )
    write_page(on_gpu)
    page = on_gpu.page.read_text()
    assert page.startswith("# NVIDIA H100 80GB HBM3: parity, engines, latency, peaks\n")
    assert "| parity | done | 61 |  |" in page
    assert "| peak | timed out | 90 | after 90 s |" in page
    assert "| served | not run |  | not asked for |" in page
    assert "No GPU was there" not in page
    assert "A quick run" not in page
    assert "Measured by `python benchmarks/gpu_run.py` on " in page


def test_page_says_that_the_device_waits_for_the_program(run):
    run.append("latency", part="map", batch=1, **measured("map"))
    page = format_page(run)
    assert "waiting for the program included" in page
    assert "share of the peak have the same waiting in them, but for CUDA graphs" in page


def test_foot_of_the_page_is_where_its_rows_were_measured(run):
    for number, created in (("2", "2026-02-02"), ("1", "2026-01-01")):
        cpu = {"model": f"Processor {number}", "usable_cores": 4, "flags": ["avx2"]}
        git = {"commit": number * 40, "changed_files": False}
        run.records.append(
            {"record": "parity", "quick": True, "created": created, "artefact": number,
             "weights": None, "runtime": "x", "kept": True,
             "environment": {"cpu": cpu, "git": git, "packages": {}}}
        )  # fmt: skip
    run.append("step", step="parity", task="parity", status="done", reason="", elapsed_s=1.0)
    assert format_page(run).endswith(
        "on 4 cores of Processor 1 (avx2), commit 111111111111; "
        "then on 4 cores of Processor 2 (avx2), commit 222222222222.\n"
    )


def test_page_of_a_cpu_and_of_a_quick_run_says_so(run):
    page = format_page(run)
    assert page.startswith("# The GPU script, tried on a CPU\n\n**No GPU was there.**")
    assert "**A quick run**" in page
    assert not re.search(r"\n\n\n", page)
