"""Differences of Triton's running totals, from replies written as Triton writes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tritonclient.utils import InferenceServerException

from dinspect_bench.errors import StatisticsError
from dinspect_bench.latency.statistics import (
    ServerTimes,
    StepTimes,
    difference,
    ensemble_steps,
    settled_duration,
    settled_snapshot,
    snapshot,
    totals_from_json,
)
from dinspect_bench.served import runtime_from_json, server_errors

ENSEMBLE = "anomaly_dino_448"
STEPS = ("preprocess_448", "backbone_vits14_448", "cosine_knn", "anomaly_map")
MS = 1_000_000


def model_stats(name, count, success_ms, queue_ms=0, input_ms=0, infer_ms=0, output_ms=0):
    """One model as ``MessageToJson`` gives it: integers as strings, zeros left out."""

    def duration(ms):
        entry = {"count": str(count), "ns": str(int(ms * MS))}
        return {key: text for key, text in entry.items() if text != "0"}

    return {
        "name": name,
        "version": "1",
        "inference_stats": {
            "success": duration(success_ms),
            "fail": {},
            "queue": duration(queue_ms),
            "compute_input": duration(input_ms),
            "compute_infer": duration(infer_ms),
            "compute_output": duration(output_ms),
        },
    }


class WrittenReplies:
    """Hands out replies written by hand, the last one again and again."""

    def __init__(self, *replies, steps=STEPS):
        self.replies = list(replies)
        self.steps = steps

    def get_inference_statistics(self, model_name="", *, as_json=False):
        assert as_json
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return {"model_stats": reply}

    def get_model_config(self, model_name, *, as_json=False):
        assert as_json
        if model_name != ENSEMBLE:
            return {"config": {"name": model_name, "backend": "python"}}
        step = [{"model_name": name, "model_version": "-1"} for name in self.steps]
        return {"config": {"name": model_name, "ensemble_scheduling": {"step": step}}}


BEFORE = [
    model_stats(ENSEMBLE, 10, 1000),
    model_stats(STEPS[0], 10, 50, 1, 2, 40, 5),
    model_stats(STEPS[1], 10, 800, 10, 10, 770, 10),
    model_stats(STEPS[2], 10, 100, 0, 0, 100, 0),
    model_stats(STEPS[3], 0, 0),
    model_stats("l2bt_screw_448", 7, 900),
]
AFTER = [
    model_stats(ENSEMBLE, 14, 1480),
    model_stats(STEPS[0], 14, 78, 3, 4, 60, 11),
    model_stats(STEPS[1], 14, 1200, 12, 12, 1154, 18),
    model_stats(STEPS[2], 14, 136, 0, 0, 136, 0),
    model_stats(STEPS[3], 0, 0),
    model_stats("l2bt_screw_448", 900, 90_000),
]


def taken(reply, **options):
    return snapshot(WrittenReplies(reply, **options), ENSEMBLE)


def test_difference_is_the_mean_per_request_in_milliseconds():
    times = difference(taken(BEFORE), taken(AFTER))
    assert (times.count, times.total_ms) == (4, pytest.approx(120.0))
    preprocess, backbone, knn, anomaly_map = times.steps
    assert preprocess.count == 4
    assert preprocess.queue_ms == pytest.approx(0.5)
    assert preprocess.compute_input_ms == pytest.approx(0.5)
    assert preprocess.compute_infer_ms == pytest.approx(5.0)
    assert preprocess.compute_output_ms == pytest.approx(1.5)
    assert preprocess.compute_ms == pytest.approx(7.0)
    assert preprocess.total_ms == pytest.approx(7.5)
    assert backbone.total_ms == pytest.approx(99.0)
    assert knn.compute_infer_ms == pytest.approx(9.0)
    assert (anomaly_map.count, anomaly_map.total_ms) == (0, 0.0)
    assert times.between_steps_ms == pytest.approx(120 - 7.5 - 99 - 9)
    assert times.backbone() is backbone


def test_steps_come_from_the_served_config_and_leave_other_models_out():
    before = taken(BEFORE)
    assert before.steps == STEPS
    assert set(before.totals) == {ENSEMBLE, *STEPS}


def test_a_model_without_steps_is_no_ensemble():
    with pytest.raises(StatisticsError, match="no ensemble"):
        ensemble_steps(WrittenReplies(BEFORE), "cosine_knn")


def test_versions_of_a_model_are_added_up():
    totals = totals_from_json({"model_stats": [model_stats("m", 2, 3), model_stats("m", 5, 7)]})
    assert totals["m"]["success"].count == 7
    assert totals["m"]["success"].total_ns == 10 * MS


def test_a_step_without_statistics_is_named():
    with pytest.raises(StatisticsError, match="anomaly_map"):
        taken([model for model in BEFORE if model["name"] != "anomaly_map"])


def test_a_restarted_server_is_noticed():
    with pytest.raises(StatisticsError, match="restarted"):
        difference(taken(AFTER), taken(BEFORE))


def test_no_request_in_between_is_an_error():
    with pytest.raises(StatisticsError, match="no request"):
        difference(taken(BEFORE), taken(BEFORE))


def test_readings_of_different_ensembles_do_not_mix():
    with pytest.raises(StatisticsError, match="one ensemble"):
        difference(taken(BEFORE), taken(AFTER, steps=STEPS[:3]))


def test_steps_of_l2bt_are_found_by_their_beginnings():
    names = ("preprocess_1036", "dinov2_vitb14_1036", "students_1036", "anomaly_map")
    steps = tuple(StepTimes(name, 1, 0.0, 0.0, 1.0, 0.0) for name in names)
    times = ServerTimes("l2bt_backbone-plate_1036", 1, 5.0, steps)
    assert times.backbone() is steps[1]
    assert times.step("students") is steps[2]
    with pytest.raises(StatisticsError, match=r"one step called cosine_knn\.\.\., it has: preproc"):
        times.step("cosine_knn")
    with pytest.raises(StatisticsError, match="one step called dinov2 or students"):
        times.step("dinov2", "students")


def test_an_ensemble_without_one_backbone_is_refused():
    times = difference(taken(BEFORE, steps=STEPS[2:]), taken(AFTER, steps=STEPS[2:]))
    with pytest.raises(StatisticsError, match="cosine_knn, anomaly_map"):
        times.backbone()


def test_settled_snapshot_waits_until_two_readings_agree():
    late = [model_stats(ENSEMBLE, 13, 1400), *AFTER[1:]]
    pauses = []
    settled = settled_snapshot(WrittenReplies(late, AFTER, AFTER), ENSEMBLE, sleep=pauses.append)
    assert settled.totals[ENSEMBLE]["success"].count == 14
    assert len(pauses) == 2


def test_statistics_that_never_settle_are_an_error():
    class Busy(WrittenReplies):
        def get_inference_statistics(self, model_name="", *, as_json=False):
            self.replies = [[model_stats(ENSEMBLE, self.replies.__len__(), 1), *AFTER[1:]]] * (
                len(self.replies) + 1
            )
            return {"model_stats": self.replies[0]}

    with pytest.raises(StatisticsError, match="keep changing"):
        settled_snapshot(Busy(AFTER), ENSEMBLE, sleep=lambda _: None)


def with_parts(reply, decode_us, resize_us):
    parts_us = {"decode": decode_us, "resize": resize_us}
    return replace(taken(reply), parts_us=parts_us, parts_unknown="")


def test_parts_of_the_preprocessing_are_means_of_the_same_requests():
    times = difference(with_parts(BEFORE, 1000, 500), with_parts(AFTER, 9000, 4500))
    assert times.parts_ms == {"decode": 2.0, "resize": 1.0}
    assert times.parts_unknown == ""


@pytest.mark.parametrize("known", [0, 1])
def test_parts_that_were_not_read_twice_are_unknown(known):
    readings = [taken(BEFORE), taken(AFTER)]
    readings[known] = with_parts((BEFORE, AFTER)[known], 1, 1)
    times = difference(*readings)
    assert times.parts_ms == {}
    assert "metrics was not given" in times.parts_unknown


def test_the_requests_of_one_model_are_read_until_they_settle():
    late = [model_stats("bench_answer", 2, 6)]
    replies = WrittenReplies(late, [model_stats("bench_answer", 3, 9)])
    pauses = []
    found = settled_duration(replies, "bench_answer", sleep=pauses.append)
    assert (found.count, found.total_ns) == (3, 9 * MS)
    assert len(pauses) == 2
    with pytest.raises(StatisticsError, match="no statistics of absent"):
        settled_duration(WrittenReplies(AFTER), "absent", sleep=pauses.append)


def test_what_a_backbone_says_must_hold_runtime_and_precision():
    info = runtime_from_json(b'{"runtime": "openvino 2026.4", "precision": "bf16"}', "backbone")
    assert info["precision"] == "bf16"
    with pytest.raises(StatisticsError, match="without runtime and precision"):
        runtime_from_json('{"runtime": "openvino"}', "backbone")


def test_a_refusing_server_becomes_our_error():
    with (
        pytest.raises(StatisticsError, match=r"the statistics of x.*restricted"),
        server_errors("the statistics of x"),
    ):
        raise InferenceServerException("restricted protocol")
