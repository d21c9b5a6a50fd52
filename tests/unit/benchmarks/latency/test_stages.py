"""Every stage once: the stages and the server's time by two ways."""

from __future__ import annotations

import pytest

from dinspect_bench.latency.single_stream import LatencySamples, summarize
from dinspect_bench.latency.stages import MEASURED, REMAINDER, latency_by_step, stages_of
from dinspect_bench.latency.statistics import ServerTimes, StepTimes

MS = 1_000_000
STEPS = (
    StepTimes("preprocess_448", 3, 0.5, 0.25, 6.0, 0.75),
    StepTimes("dinov2_vits14_448", 3, 1.0, 1.0, 68.0, 2.0),
    StepTimes("cosine_knn_448", 3, 0.25, 0.5, 12.0, 0.5),
    StepTimes("anomaly_map", 3, 0.125, 0.5, 3.0, 1.5),
)
PARTS = {"decode": 2.0, "resize": 3.5}
SERVER = ServerTimes("anomaly_dino_448", 3, 99.0, STEPS, PARTS, "")
SUMMARY = summarize(LatencySamples((102 * MS, 104 * MS, 106 * MS)))


def test_stages_are_each_what_it_is_called():
    stages = stages_of(SUMMARY, SERVER, transport_ms=4.5)
    assert stages.times_ms == {
        "decode": 2.0,
        "resize": 3.5,
        "preprocess_other": pytest.approx(7.0 - 5.5),
        "backbone": 71.0,
        "knn": 13.0,
        "map": 5.0,
        "queue": 1.875,
        "routing": pytest.approx(99.0 - 97.875),
        "transport": 4.5,
    }
    assert stages.transport == MEASURED
    assert stages.whole_ms == 104.0


@pytest.mark.parametrize("parts_ms", [PARTS, {}])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_nothing_is_counted_twice_and_nothing_left_out(parts_ms, num_steps):
    """All stages but transport make up the server's time, whatever is told apart."""
    server = ServerTimes("e", 3, 99.0, STEPS[:num_steps], parts_ms, "")
    times_ms = stages_of(SUMMARY, server, transport_ms=4.5).times_ms
    assert sum(times_ms.values()) - times_ms["transport"] == pytest.approx(server.total_ms)
    assert len(times_ms) == num_steps + 3 + (2 if parts_ms else 0)


def test_the_sum_is_held_against_the_clients_clock():
    assert stages_of(SUMMARY, SERVER, transport_ms=5.0).sum_share == pytest.approx(1.0)
    assert stages_of(SUMMARY, SERVER, transport_ms=15.4).sum_share == pytest.approx(1.1)
    assert stages_of(SUMMARY, SERVER, transport_ms=0.0).sum_share == pytest.approx(99 / 104)


def test_what_is_left_over_proves_nothing():
    stages = stages_of(SUMMARY, SERVER)
    assert stages.times_ms["transport"] == pytest.approx(5.0)
    assert (stages.transport, stages.sum_share) == (REMAINDER, None)


def test_without_the_models_own_counters_preprocessing_is_one_stage():
    times_ms = stages_of(SUMMARY, ServerTimes("e", 3, 99.0, STEPS)).times_ms
    assert times_ms["preprocess"] == 7.0
    assert not {"decode", "resize", "preprocess_other"} & times_ms.keys()


def test_overlapping_steps_make_routing_negative_and_keep_the_sum():
    server = ServerTimes("e", 3, 97.0, STEPS, PARTS, "")
    stages = stages_of(SUMMARY, server, transport_ms=7.0)
    assert stages.times_ms["routing"] == pytest.approx(-0.875)
    assert stages.sum_share == pytest.approx(1.0)


def test_a_step_that_nobody_needed_is_no_stage():
    steps = (*STEPS[:3], StepTimes("anomaly_map", 0, 0.0, 0.0, 0.0, 0.0))
    assert "map" not in stages_of(SUMMARY, ServerTimes("e", 3, 99.0, steps)).times_ms


def test_students_are_a_stage_and_a_foreign_step_keeps_its_name():
    names = ("preprocess_1036", "backbone_1036", "students_1036", "sharpen")
    steps = tuple(StepTimes(name, 3, 0.0, 0.0, 1.0, 0.0) for name in names)
    times_ms = stages_of(SUMMARY, ServerTimes("e", 3, 9.0, steps)).times_ms
    assert list(times_ms)[:4] == ["preprocess", "backbone", "students", "sharpen"]


def test_table_by_step_adds_up_to_the_clients_mean():
    by_step = latency_by_step(SUMMARY, SERVER)
    steps = sum(step["total"] for step in by_step["steps"].values())
    rest = by_step["between_steps"] + by_step["transport_and_client"]
    assert steps + rest == pytest.approx(by_step["client_mean"])
