"""Records of several machines and commits, told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_written import (
    accuracy,
    environment,
    latency,
    null_system,
    peer_latency,
)

from dinspect_bench.report.record_files import SourcedRecord
from dinspect_bench.report.runs import tell_apart


def told_apart(*records):
    return tell_apart(
        [SourcedRecord(one, Path("a.jsonl"), line) for line, one in enumerate(records, 1)]
    )


def with_cpu(**changes):
    told = environment()
    told["cpu"] |= changes
    return told


def clock(mhz):
    return {"current": mhz, "max": 3700.0}


@pytest.mark.parametrize(
    "other",
    [
        environment(git={"commit": "b" * 40, "changed_files": False}),
        environment(git={"commit": "a" * 40, "changed_files": True}),
        environment(git=None),
        environment(packages={"numpy": "2.0.0"}),
        environment(memory_gib=64.0),
        environment(gpus=[{"name": "NVIDIA H200", "driver": "570"}]),
        with_cpu(model="Another Processor"),
        with_cpu(usable_cores=4),
        with_cpu(flags=["avx2"]),
    ],
)
def test_other_machine_software_or_commit_is_another_run(other):
    runs, by_kind = told_apart(latency(), latency(environment=other), latency(p50_ms=1.0))
    assert [run.label for run in runs] == ["A", "B"]
    assert [(one.run, one.values["p50_ms"]) for one in by_kind["latency"]] == [
        ("A", 1.0),
        ("B", 80.0),
    ]
    assert runs[1].environment == other


def test_clocks_that_differ_make_no_other_run():
    gpu = {"name": "NVIDIA H200", "driver": "570", "clock": "345 MHz", "max_clock": "1980 MHz"}
    told = [with_cpu(clock_mhz=clock(mhz)) for mhz in (2600.0, 2400.0, 3100.0)]
    for one, state in zip(told, ("345 MHz", "1980 MHz", "1200 MHz"), strict=True):
        one["gpus"] = [gpu | {"clock": state}]
    (run,), _ = told_apart(*(latency(shots=n, environment=one) for n, one in enumerate(told)))
    assert run.clocks_mhz == (2400.0, 3100.0)
    assert told[0]["cpu"]["clock_mhz"] == clock(2600.0)
    assert told[0]["gpus"][0]["clock"] == "345 MHz"


def test_environment_without_a_clock_is_read():
    told = environment()
    del told["cpu"]["clock_mhz"]
    (run,), _ = told_apart(latency(environment=told), latency(shots=2))
    assert run.clocks_mhz == (2600.0, 2600.0)
    (run,), _ = told_apart(latency(environment=told))
    assert run.clocks_mhz is None


def test_last_record_of_a_setting_counts_and_the_others_are_counted():
    (run,), by_kind = told_apart(
        latency(p50_ms=1.0), latency(p50_ms=2.0), latency(p50_ms=3.0), null_system()
    )
    assert (run.num_records, run.num_replaced) == (4, 2)
    assert [one.values["p50_ms"] for one in by_kind["latency"]] == [3.0]
    assert len(by_kind["null_system"]) == 1


@pytest.mark.parametrize(
    "setting",
    [
        {"scenario": "server"}, {"shots": 2}, {"resolution": 672}, {"bank_patches": 9},
        {"masking": False}, {"rotation": False}, {"with_map": True}, {"precision": "fp32"},
        {"runtime": "onnxruntime"}, {"batch": 8}, {"part": "backbone"}, {"product": "screw"},
        {"served": False},
    ],
)  # fmt: skip
def test_every_setting_of_a_latency_is_a_row_of_its_own(setting):
    _, by_kind = told_apart(latency(), latency(**setting))
    assert len(by_kind["latency"]) == 2


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": 1}, {"category": "cable"}, {"epochs": 50}, {"backbone_sha256": "x"},
        {"selection": "random"}, {"precision": "bf16"}, {"variant": "z"}, {"texture": True},
        {"rotated": True}, {"search_precision": "fp32"}, {"students_precision": "bf16"},
    ],
)  # fmt: skip
def test_every_setting_of_an_accuracy_is_a_row_of_its_own(setting):
    _, by_kind = told_apart(accuracy(), accuracy(**setting))
    assert len(by_kind["accuracy"]) == 2


def test_figures_and_names_of_a_measurement_are_no_settings():
    _, by_kind = told_apart(
        accuracy(product="accuracy-1", bundle_version=1, data_sha256="a"),
        accuracy(
            product="accuracy-2",
            bundle_version=7,
            image_auroc=0.5,
            data_sha256="b",
            num_good=3,
        ),
    )
    (one,) = by_kind["accuracy"]
    assert one.values["bundle_version"] == 7


def test_how_a_latency_was_taken_apart_is_no_setting():
    _, by_kind = told_apart(
        latency(transport="measured", requested_precision="auto"),
        latency(transport="remainder", requested_precision="bf16"),
    )
    assert len(by_kind["latency"]) == 1
    scenarios = [null_system(scenario=name) for name in ("offline", "server", "server")]
    _, by_kind = told_apart(*scenarios)
    assert len(by_kind["null_system"]) == 2


def test_peer_that_failed_before_is_replaced_when_it_runs():
    failed = {"system": "anomalib", "p50_ms": None, "not_run": "it died", "runtime": None}
    _, by_kind = told_apart(
        peer_latency(**failed), peer_latency(system="anomalib", not_run=None, runtime="openvino")
    )
    (one,) = by_kind["peer_latency"]
    assert one.values["p50_ms"] == 80.0


def test_times_of_a_run_are_those_of_its_oldest_and_newest_record():
    times = [f"2026-01-0{day}T00:00:00+00:00" for day in (3, 1, 2)]
    (run,), _ = told_apart(*(latency(shots=n, created=t) for n, t in enumerate(times)))
    assert run.created == (times[1], times[0])


def test_there_are_more_labels_than_letters():
    records = [latency(environment=environment(memory_gib=float(n))) for n in range(28)]
    runs, _ = told_apart(*records)
    assert [run.label for run in runs][-3:] == ["Z", "A2", "B2"]
