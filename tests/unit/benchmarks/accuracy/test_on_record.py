"""Rows that are on record: by the same search too, for which the server is asked if it must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from accuracy_fakes import BACKBONE, FakeClient
from small_trees import write_mvtec_category

from dinspect_bench.accuracy.measurement import Measurement
from dinspect_bench.accuracy.on_record import find_on_record
from dinspect_bench.accuracy.protocol import plan_protocols
from dinspect_bench.accuracy.served_backbones import (
    RunningBackbone,
    Serving,
    students_in_force,
)
from dinspect_bench.accuracy.temporary_product import ProductMaker
from dinspect_bench.datasets.mvtec import load_mvtec

RUNNING = RunningBackbone(BACKBONE.onnx_sha256, BACKBONE.runtime, BACKBONE.precision)
SERVING = Serving((RUNNING,), None, "fp32")


@pytest.fixture
def client():
    return FakeClient(answer_of=None)  # whose versions are searched in BF16


@pytest.fixture
def maker(client, tmp_path):
    return ProductMaker(client, "host:1", tmp_path / "work", "me", keep=True)


@pytest.fixture
def rows(tmp_path):
    (category,) = load_mvtec(write_mvtec_category(tmp_path / "nut"))
    return [
        Measurement("parts", category, protocol, "ef" * 32)
        for protocol in plan_protocols(["anomaly_dino"], [1, 2], [0])
    ]


def record_of(row, search="bf16", **others):
    precisions = {"search_precision": search, "students_precision": None}
    return row.key() | RUNNING.key() | precisions | others


def test_row_of_another_search_precision_is_not_on_record(rows, maker, client):
    records = [record_of(rows[0]), record_of(rows[1], "fp32")]
    assert find_on_record(rows, records, SERVING, maker) == [records[0], None]
    assert client.there == {}
    ((_, images, options),) = client.made  # asked once, of one image
    assert images == list(rows[0].category.good[:1])
    assert (options["preprocessing"], options["resolution"]) == ("no_mask_no_rotation", 448)


def test_last_of_several_records_counts(rows, maker):
    records = [record_of(rows[0], seen=n) for n in (1, 2)] + [record_of(rows[0], "fp32", seen=3)]
    assert find_on_record(rows[:1], records, SERVING, maker) == [records[1]]


def test_server_is_not_asked_without_need(rows, maker, client):
    assert find_on_record(rows, [], SERVING, maker) == [None, None]
    told = replace(SERVING, search_precision="fp32")
    records = [record_of(rows[0], "fp32"), record_of(rows[1])]
    assert find_on_record(rows, records, told, maker) == [records[0], None]
    assert client.made == []


@pytest.mark.parametrize(
    ("runtime", "asked", "expected"),
    [
        ("openvino", "auto", "fp32"), ("openvino", "fp32", "fp32"), ("openvino", "bf16", "bf16"),
        ("openvino", "fp16", "fp16"), ("onnxruntime", "bf16", "fp32"),
    ],
)  # fmt: skip
def test_students_run_in_what_was_asked_for_by_name(runtime, asked, expected):
    told = {"students_runtime": runtime, "students_precision": asked}
    assert students_in_force(told) == expected
