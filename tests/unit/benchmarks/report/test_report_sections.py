"""What the sections of a report show of hand-written records, and what they say of missing ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import (
    accuracy,
    environment,
    latency,
    null_system,
    peak,
    peer_latency,
)

from dinspect_bench.report.document import difference_text, ms_text, value_text
from dinspect_bench.report.environment import environment_section
from dinspect_bench.report.latency import MAX_LINES, latency_section
from dinspect_bench.report.record_files import SourcedRecord
from dinspect_bench.report.runs import RunRecord, tell_apart
from dinspect_bench.report.stages_and_peers import floor_section, peer_section, stages_section


def of_run(*records, run="A", folder=Path()):
    return [RunRecord(run, record, folder) for record in records]


def table(section, title):
    (found,) = (block for block in section.blocks if getattr(block, "title", None) == title)
    return found


def rows_of(found):
    return [dict(zip(found.head, row, strict=True)) for row in found.rows]


def plots(section, title):
    return [plot for block in section.blocks if block.title == title for plot in block.plots]


def test_every_scenario_of_both_methods_is_a_row_or_not_run():
    records = of_run(latency(), latency(scenario="server", target_qps=12.5, num_queries=70))
    rows = rows_of(table(latency_section(records, []), "By scenario"))
    assert [(row["scenario"], row["run"]) for row in rows] == [
        ("SingleStream", "A"), ("SingleStream", "not run"),
        ("MultiStream", "not run"), ("MultiStream", "not run"),
        ("Server", "A"), ("Server", "not run"),
        ("Offline", "not run"), ("Offline", "not run"),
    ]  # fmt: skip
    assert rows[0]["setting"] == (
        "anomaly_dino, dinov2_vits14, 448 px, 1-shot, 8,192 patches, agnostic, without map, "
        "openvino 1.2 bf16"
    )
    assert [rows[0][name] for name in ("p50", "p90", "p99", "mean ± std", "samples", "failed")] == [
        "80.0", "90.0", "99.0", "82.0 ± 4.0", "100", "0"
    ]  # fmt: skip
    assert rows[0]["memory bank, s"] == "1.25 ± 0.05"
    assert rows[4]["further figures"] == "target_qps 12.5"
    assert set(rows[1].values()) == {"SingleStream", "not run", "l2bt"}
    assert all(all(row.values()) for row in rows)


def test_part_of_an_inspection_and_figures_that_were_not_measured_are_shown_as_such():
    part = latency(
        method=None, part="backbone", batch=8, p50_ms=None, mean_ms=None, std_ms=None,
        bank_patches=None, shots=None, served=False, weights="random", requested_precision="auto", protocol="papers",
        stages_ms=None, masking=None, rotation=None,
    )  # fmt: skip
    (row,) = (r for r in rows_of(table(latency_section(of_run(part), []), "By scenario")) if r["run"] == "A")  # fmt: skip
    assert row["setting"] == (
        "backbone, dinov2_vits14, 448 px, without map, batch 8, openvino 1.2 bf16, "
        "protocol papers, served false, weights random"
    )
    assert (row["p50"], row["mean ± std"], row["memory bank, s"]) == (
        "not run",
        "not run",
        "no bank",
    )


def test_figures_of_a_scenario_are_shown_and_an_unknown_one_is_none():
    server = latency(
        scenario="server", rate_per_s=None, latency_bound_ms=200.0, concurrency=4, tried=[1],
        response_cache="off", input_size="448", ensemble="anomaly_dino_448", transport=None,
        server_version="2.51.0", bundle_version=3, backbone_sha256="bb" * 32, p50_ms=None,
        fallback=None, device_p50_ms=None, p90_early_stopping_ms=None,
    )  # fmt: skip
    (row,) = (r for r in rows_of(table(latency_section(of_run(server), []), "By scenario")) if r["run"] == "A")  # fmt: skip
    assert row["further figures"] == (
        "concurrency 4, latency_bound_ms 200, p90_early_stopping_ms none, rate_per_s none"
    )
    assert row["setting"].endswith("without map, openvino 1.2 bf16")
    other = server | {"response_cache": "unknown: no answer", "input_size": "448x588"}
    (row,) = (r for r in rows_of(table(latency_section(of_run(other), []), "By scenario")) if r["run"] == "A")  # fmt: skip
    assert row["setting"].endswith("input_size 448x588, response_cache unknown: no answer")


def test_null_system_within_a_latency_counts_and_the_slowest_is_shown():
    within = [
        latency(shots=n, null_system={"p50_ms": p50, "p99_ms": 0.9, "covers": "schedule and clock"})
        for n, p50 in enumerate((0.3, 0.1))
    ]
    records = of_run(*within) + of_run(within[1], run="B")
    rows = rows_of(table(latency_section(records, of_run(null_system())), "The null system"))
    assert [(row["run"], row["p50"], row["p99"]) for row in rows] == [
        ("A", "0.300", "0.900"),
        ("B", "0.100", "0.900"),
    ]


def test_null_system_is_shown_or_not_run():
    shown = rows_of(table(latency_section([], of_run(null_system())), "The null system"))
    assert shown == [{"run": "A", "covers": "schedule and clock", "p50": "0.250", "p99": "0.500"}]
    missing = rows_of(table(latency_section([], []), "The null system"))
    assert set(missing[0].values()) == {"not run"}


def test_latency_is_drawn_by_resolution_and_by_shots():
    grid = [
        latency(resolution=r, shots=s, bank_patches=s * r, mean_ms=float(r + s))
        for r in (672, 224, 448)
        for s in (1, 16)
    ]
    section = latency_section(of_run(*grid, latency(precision="fp32")), [])
    (by_resolution,) = plots(section, "Latency by resolution")
    assert by_resolution.x_label == "resolution, px"
    names = [line["name"] for line in by_resolution.geometry["lines"]]
    assert names == [
        "A: anomaly_dino, dinov2_vits14, 1-shot, agnostic, without map, openvino 1.2 bf16",
        "A: anomaly_dino, dinov2_vits14, 16-shot, agnostic, without map, openvino 1.2 bf16",
    ]
    first = by_resolution.geometry["lines"][0]["dots"]
    assert [(dot["at"], dot["value"]) for dot in first] == [
        (224, 225.0),
        (448, 449.0),
        (672, 673.0),
    ]
    (by_shots,) = plots(section, "Latency by shots")
    assert [len(line["dots"]) for line in by_shots.geometry["lines"]] == [2, 2, 2]
    assert "672 px" in by_shots.geometry["lines"][0]["name"]


def test_setting_that_was_measured_once_is_no_line():
    section = latency_section(of_run(latency(), latency(scenario="offline", shots=2)), [])
    assert [block.title for block in section.blocks] == ["By scenario", "The null system"]


def test_lines_of_several_runs_are_never_joined():
    records = of_run(latency()) + of_run(latency(resolution=672), run="B")
    assert plots(latency_section(records, []), "Latency by resolution") == []


def test_more_lines_than_colours_are_drawn_apart():
    grid = [latency(resolution=r, shots=s) for r in (224, 448) for s in range(1, MAX_LINES + 2)]
    drawn = plots(latency_section(of_run(*grid), []), "Latency by resolution")
    assert [len(plot.geometry["lines"]) for plot in drawn] == [MAX_LINES, 1]
    assert [plot.title for plot in drawn] == [
        "Latency by resolution, part 1",
        "Latency by resolution, part 2",
    ]


def test_stages_are_a_bar_and_a_row_and_a_sum_that_is_off_says_so():
    off = latency(stages_ms={"map": 2.0, "backbone": 50.0}, stages_sum_share=0.94, shots=2)
    near = latency(stages_sum_share=1.05)
    none = latency(stages_ms=None, shots=4)
    bars, found = stages_section(of_run(near, off, none)).blocks
    rows = rows_of(found)
    assert list(rows[0]) == ["run", "setting", "backbone", "knn", "map", "transport", "sum"]
    assert [row["sum"] for row in rows] == ["1.050", "0.940 (off)"]
    assert rows[1]["knn"] == rows[0]["map"] == "no such stage"
    assert rows[1]["map"] == "2.000"
    assert [bar.parts for bar in bars.bars] == [
        [("backbone", "60.0"), ("knn", "20.0"), ("transport", "1.000")],
        [("backbone", "50.0"), ("map", "2.000")],
    ]
    assert not bars.is_collapsed


def test_stages_that_were_not_measured_are_said_to_be():
    section = stages_section(of_run(latency(stages_ms=None)))
    assert section.blocks == ()
    assert "The stages were not run." in section.notes
    unsummed = latency()
    del unsummed["stages_sum_share"]
    assert rows_of(stages_section(of_run(unsummed)).blocks[1])[0]["sum"] == "not run"
    (row,) = rows_of(stages_section(of_run(unsummed | {"transport": "remainder"})).blocks[1])
    assert row["sum"] == "transport is what is left"


def test_floor_and_peak_are_shown_or_not_run():
    floors = {
        "backbone": {
            "floor_ms": 20.0,
            "bound": "compute",
            "measured_ms": 60.0,
            "peak_share": 1 / 3,
        },
        "map": {"floor_ms": 0.01, "bound": "memory", "measured_ms": None, "peak_share": None},
    }
    section = floor_section(of_run(latency(floor_by_step=floors)), of_run(peak()))
    rows = rows_of(table(section, "Floor by stage"))
    assert [list(row.values())[2:] for row in rows] == [
        ["backbone", "20.0", "compute", "60.0", "33 %"],
        ["map", "0.010", "memory", "not run", "not run"],
    ]
    assert rows_of(table(section, "Measured peak")) == [
        {"run": "A", "fp32, GFLOP/s": "200", "bf16, GFLOP/s": "600", "int8, GFLOP/s": "not run", "copy, GB/s": "12.0"}
    ]  # fmt: skip
    nothing = floor_section(of_run(latency()), [])
    for title in ("Floor by stage", "Measured peak"):
        (row,) = rows_of(table(nothing, title))
        assert set(row.values()) == {"not run"}


def test_peers_are_rows_with_their_ratio_and_missing_cases_not_run():
    records = of_run(
        peer_latency(image_auroc=0.875, precision="bf16", runtime="openvino", covers="all of it"),
        peer_latency(system="anomalib", p50_ms=None, ratio_to_dinspect=None, num_samples=0, not_run="it died"),
        peer_latency(case="another", ratio_to_dinspect=1.4567),
    )  # fmt: skip
    (found,) = peer_section(records).blocks
    assert [list(row) for row in found.rows] == [
        ["anomaly_dino_448", "A", "dinspect served", "openvino bf16", "all of it", "80.0", "1.000", "0.875", "20"],
        ["anomaly_dino_448", "A", "anomalib", "not told", "not told", "not run: it died", "not run", "not run", "0"],
        ["l2bt_1036", *["not run"] * 8],
        ["another", "A", "dinspect served", "not told", "not told", "80.0", "1.457", "not run", "20"],
    ]  # fmt: skip


def test_environment_is_a_column_for_each_run():
    other = environment(
        git=None, gpus=[{"name": "NVIDIA H200", "clock": "1980 MHz"}], packages={}, memory_gib=None
    )
    other["cpu"] |= {
        "clock_mhz": {"current": None, "max": 3700.0},
        "quota": 1.5,
        "virtualised": False,
    }
    slower = environment()
    slower["cpu"]["clock_mhz"] = {"current": 2400.0, "max": None}
    records = [
        latency(backbone_sha256="bb" * 32), latency(shots=2, environment=slower, created="2026-01-03T00:00:00+00:00"),
        latency(shots=2, environment=slower), accuracy(), accuracy(seed=1, bundle_version=3), latency(environment=other),
    ]  # fmt: skip
    runs, by_kind = tell_apart([SourcedRecord(r, Path("a"), n) for n, r in enumerate(records)])
    section = environment_section(runs, by_kind, {"parity": 4})
    (found,) = section.blocks
    assert list(found.head) == ["", "run A", "run B"]
    facts = {name: cells for name, *cells in found.rows}
    assert facts["processor"] == [
        "Hand-written Processor (virtual), 2 usable cores; avx2, fma",
        "Hand-written Processor, 2 usable cores, quota 1.5; avx2, fma",
    ]
    assert facts["clock"] == [
        "2,400 to 2,600 MHz while measuring; maximum not told",
        "not told; at most 3,700 MHz",
    ]
    assert facts["memory"] == ["23.5 GiB", "not told"]
    assert facts["GPU"] == ["none", "NVIDIA H200, 1980 MHz"]
    assert facts["packages"] == ["numpy 1.26.4", "not told"]
    assert facts["commit"] == ["a" * 40, "outside a checkout"]
    assert facts["records"] == [
        "5, 2026-01-02T03:04:05+00:00 to 2026-01-03T00:00:00+00:00",
        "1, 2026-01-02T03:04:05+00:00",
    ]
    assert facts["artefacts"] == [
        f"dinov2_vits14 {'bb' * 32} of weights {'ee' * 32}; bundle versions 1, 3",
        "not told",
    ]
    assert "1 earlier one is not shown" in section.notes[1]
    assert section.notes[2].endswith("pages of their own: 4 parity.")


def test_changed_files_are_told():
    runs, by_kind = tell_apart([SourcedRecord(latency(environment=environment(git={"commit": "c" * 40, "changed_files": True})), Path("a"), 1)])  # fmt: skip
    (found,) = environment_section(runs, by_kind, {}).blocks
    assert ["commit", f"{'c' * 40}, with changed files"] in [list(row) for row in found.rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ms_text(9.99), "9.990"), (ms_text(10.0), "10.0"), (ms_text(1234.56, 7.89), "1,234.6 ± 7.9"),
        (ms_text(-2.5), "−2.500"), (ms_text(0.0), "0.000"), (ms_text(0.00021), "0.00021"),  # noqa: RUF001
        (value_text(0.9996, None, "share"), "1.000"), (value_text(93.72, 20.56, "s"), "93.72 ± 20.56"),
        (value_text(2.361, None, "h"), "2.36"), (difference_text(-0.0001, "share"), "0.000"),
        (difference_text(12.34, "ms"), "+12.3"), (difference_text(-1.234, "ms"), "−1.234"),  # noqa: RUF001
    ],
)  # fmt: skip
def test_numbers_are_written_as_precisely_as_they_are_known(text, expected):
    assert text == expected
