"""Record files read for a report: what is refused, and how it says where."""

from __future__ import annotations

import json

import pytest
from hand_written import accuracy, l2bt_accuracy, latency, null_system, peak, peer_latency, write

from dinspect_bench.errors import ReportError
from dinspect_bench.report.record_files import RecordFiles
from dinspect_bench.report.record_schema import KINDS

MAKERS = {
    "accuracy": accuracy,
    "latency": latency,
    "null_system": null_system,
    "peak": peak,
    "peer_latency": peer_latency,
}


def read(*paths):
    return RecordFiles.read(paths)


def refusal(path):
    with pytest.raises(ReportError) as caught:
        read(path)
    return str(caught.value)


def test_every_kind_is_read_in_order_with_its_line(tmp_path):
    first = write(tmp_path / "a.jsonl", latency(), accuracy(), l2bt_accuracy())
    second = write(tmp_path / "b.jsonl", null_system(), peak(), peer_latency())
    found = read(first, second).records
    assert [(one.kind, one.path.name, one.line) for one in found] == [
        ("latency", "a.jsonl", 1),
        ("accuracy", "a.jsonl", 2),
        ("accuracy", "a.jsonl", 3),
        ("null_system", "b.jsonl", 1),
        ("peak", "b.jsonl", 2),
        ("peer_latency", "b.jsonl", 3),
    ]
    assert MAKERS.keys() == KINDS.keys()


def test_file_that_is_named_twice_is_read_once(tmp_path):
    path = write(tmp_path / "a.jsonl", peak())
    (tmp_path / "folder").mkdir()
    assert len(read(path, tmp_path / "folder" / ".." / "a.jsonl").records) == 1


def test_empty_lines_are_no_records_but_count_as_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{json.dumps(peak())}\n\n")
    (one,) = read(path).records
    assert one.line == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"record": "peak", "mat', "is no JSON"),
        ('{"record": "peak", "copy_bytes_per_s": NaN}', "NaN is no number"),
        ("[1, 2]", "is [1, 2], expected a JSON object"),
        ('{"record": "peek"}', 'is a record of kind "peek"; those a report shows are accuracy,'),
        ('{"auroc": 0.9}', "is a record of kind null;"),
        ('{"record": ["peak"]}', 'is a record of kind ["peak"];'),
        ('{"record": "peak"}', "is a record of kind peak and lacks created, environment, matrix_product_flops, copy_bytes_per_s"),
    ],
)  # fmt: skip
def test_broken_line_is_named_by_file_and_line(tmp_path, line, said):
    path = write(tmp_path / "a.jsonl", peak(), peak())
    path.write_text(path.read_text() + line + "\n")
    message = refusal(path)
    assert message.startswith(f"{path}, line 3 ")
    assert said in message


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_that_a_kind_must_have_is_missed(tmp_path, kind):
    for name in ("created", "environment", *KINDS[kind]):
        record = MAKERS[kind]()
        del record[name]
        message = refusal(write(tmp_path / "a.jsonl", record))
        assert message == f"{tmp_path}/a.jsonl, line 1 is a record of kind {kind} and lacks {name}"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (accuracy(image_auroc=1.5), "image_auroc 1.5, expected a number from 0 to 1"),
        (accuracy(image_auroc=None), "image_auroc null, expected a number from 0 to 1"),
        (accuracy(image_auroc=True), "image_auroc true, expected a number from 0 to 1"),
        (accuracy(aupro_30_q1="0.5"), 'aupro_30_q1 "0.5", expected a number from 0 to 1 or null'),
        (accuracy(shots=-1), "shots -1, expected a count or null"),
        (accuracy(shots=True), "shots true, expected a count or null"),
        (accuracy(resolution=448.5), "resolution 448.5, expected a count"),
        (accuracy(method="patchcore"), 'method "patchcore", expected anomaly_dino or l2bt'),
        (accuracy(category=""), 'category "", expected a text'),
        (accuracy(curves=[]), "curves [], expected lists of points"),
        (accuracy(curves={"roc": [[0.0, 0.0, 1.0]]}), "expected lists of points"),
        (accuracy(curves={"roc": [[0.0, None]]}), "expected lists of points"),
        (accuracy(worst=[{"file": "a", "label": "good", "score": 1.0}]), "expected a list of images"),
        (accuracy(worst=[{"file": "a", "label": "good", "score": None, "picture": None}]), "expected a list of images"),
        (accuracy(created="2026-01-02T03:04:05"), "expected a time with its zone"),
        (accuracy(created="yesterday"), "expected a time with its zone"),
        (accuracy(created=7), "expected a time with its zone"),
        (accuracy(environment={}), "environment {}, expected an environment with its cpu"),
        (latency(scenario="singlestream"), "expected one of single_stream, multi_stream, server, offline"),
        (latency(p50_ms=-1.0), "p50_ms -1.0, expected a number, 0 or more or null"),
        (latency(rotation=45), "rotation 45, expected true, false or a text or null"),
        (latency(with_map=1), "with_map 1, expected true or false"),
        (latency(stages_ms={"backbone": "60"}), "expected numbers by name"),
        (latency(floor_by_step={"backbone": 20.0}), "expected figures by name for each stage"),
        (peak(matrix_product_flops={"fp32": "fast"}), "expected numbers by name"),
        (latency(memory_bank_s="1"), 'memory_bank_s "1", expected a number, 0 or more or null'),
        (peer_latency(image_auroc=2), "image_auroc 2, expected a number from 0 to 1 or null"),
    ],
)  # fmt: skip
def test_value_of_the_wrong_form_is_shown_with_what_is_expected(tmp_path, record, said):
    path = write(tmp_path / "a.jsonl", record)
    message = refusal(path)
    assert message.startswith(f"{path}, line 1 has ")
    assert said in message


def test_number_beyond_any_float_is_no_number(tmp_path):
    path = write(tmp_path / "a.jsonl", peak())
    path.write_text(path.read_text().replace("12000000000.0", "1e999"))
    assert "copy_bytes_per_s Infinity, expected a number" in refusal(path)


def test_long_value_is_cut_in_the_message(tmp_path):
    message = refusal(write(tmp_path / "a.jsonl", accuracy(category=["x" * 500])))
    assert len(message) < 300


def test_missing_file_and_folder_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.jsonl")
    assert "Is a directory" in refusal(tmp_path)


def test_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xff\xfe")
    assert f"cannot read {path}" in refusal(path)


def test_nothing_to_show_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("")
    assert f"there is no record to show in {path}" in refusal(path)
    path.write_text('{"record": "parity"}\n')
    assert f"there is no record to show in {path}" in refusal(path)


def test_kinds_with_pages_of_their_own_are_counted(tmp_path):
    path = write(
        tmp_path / "a.jsonl", {"record": "parity"}, peak(), {"record": "parity"}, {"record": "wheel"}
    )  # fmt: skip
    found = read(path)
    assert [one.line for one in found.records] == [2]
    assert found.others == {"parity": 2, "wheel": 1}
