from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.resident_memory import PeakMemory, model_process
from dinspect_bench.markdown import markdown_table
from dinspect_bench.records import RecordFile
from dinspect_bench.studies.common import bank_of, mean_std, own_server, rise_remark

_ALLOCATES = """
import sys
sys.stdin.readline()
block = bytearray(b"x") * (80 << 20)
print(len(block), flush=True)
sys.stdin.readline()
del block
print("freed", flush=True)
sys.stdin.readline()
"""


def test_records_come_back_and_the_last_of_a_key_counts(tmp_path):
    records = RecordFile(tmp_path / "results" / "study.jsonl")
    assert records.read() == []
    for auroc in (0.7, 0.8):
        records.append({"kind": "mono", "shots": 1, "auroc": auroc})
    records.append({"kind": "poly", "shots": 1, "auroc": 0.6})
    again = RecordFile(tmp_path / "results" / "study.jsonl")
    assert [one["auroc"] for one in again.read()] == [0.7, 0.8, 0.6]
    assert again.find(kind="mono", shots=1)["auroc"] == 0.8
    assert again.find(kind="mono", shots=2) is None


def test_record_that_a_kill_cut_short_is_measured_again(tmp_path):
    path = tmp_path / "study.jsonl"
    whole = json.dumps({"kind": "mono"})
    path.write_text(f"{whole}\n{whole[:7]}")
    assert RecordFile(path).read() == [{"kind": "mono"}]
    RecordFile(path).append({"kind": "poly"})
    assert path.read_text() == '{"kind": "mono"}\n{"kind": "poly"}\n'


def test_record_that_lacks_only_its_end_stays(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text('{"kind": "mono"}')
    RecordFile(path).append({"kind": "poly"})
    assert path.read_text() == '{"kind": "mono"}\n{"kind": "poly"}\n'


def test_figure_that_is_no_number_is_never_recorded(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        RecordFile(tmp_path / "study.jsonl").append({"auroc": float("nan")})


def test_table_is_markdown():
    table = markdown_table(["a", "b"], [["1", "2"], ["3", "4"]])
    assert table == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n"


def test_mean_of_one_record_has_no_deviation():
    assert mean_std([{"auroc": 0.75}], "auroc") == "0.750"
    assert mean_std([{"auroc": 0.5}, {"auroc": 1.0}], "auroc", 1) == "0.8 ± 0.4"


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ([0.6, 0.7, 0.8], "cell: the mean AUROC rises with every step."),
        ([0.6, 0.6, 0.8], "does not rise from 1 to 2 shots (0.600 to 0.600), and rises elsewhere."),
        ([0.6, 0.5, 0.4], "(0.600 to 0.500); from 2 to 4 shots (0.500 to 0.400)."),
        ([0.6], "cell: one number of shots does not show whether the mean AUROC rises."),
    ],
)
def test_remark_says_what_the_means_do(means, said):
    assert rise_remark("cell", [1, 2, 4][: len(means)], means, "shots").endswith(said)


def test_bank_is_that_of_anomaly_dino_whatever_else_inspects_the_product():
    students, bank = SimpleNamespace(method="l2bt"), SimpleNamespace(method="anomaly_dino")
    assert bank_of(SimpleNamespace(products=lambda name: [students, bank]), "cell") is bank
    with pytest.raises(BenchmarkError, match="product cell has no memory bank; enrol it first"):
        bank_of(SimpleNamespace(products=lambda name: [students]), "cell")


def test_study_without_artefacts_says_where_they_come_from(tmp_path):
    with pytest.raises(BenchmarkError, match="make demo"), own_server(tmp_path / "none", "auto"):
        pass


def test_peak_is_the_most_there_was_and_not_what_is_left():
    with subprocess.Popen(
        [sys.executable, "-c", _ALLOCATES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def told(line):
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == line

        with PeakMemory([psutil.Process(child.pid)]) as memory:
            told(f"{80 << 20}\n")
            deadline = time.monotonic() + 30
            while memory.peak_bytes < memory.before_bytes + (75 << 20):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            told("freed\n")
        grown = memory.peak_bytes - memory.before_bytes
        assert 75 << 20 < grown < 200 << 20
        child.communicate("\n")


def test_process_that_ends_counts_no_more():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with PeakMemory([psutil.Process(child.pid), psutil.Process()]) as memory:
            child.communicate(b"\n")
        assert memory.peak_bytes >= memory.before_bytes > 0


def test_model_that_has_no_process_is_named():
    with pytest.raises(BenchmarkError, match="no process for model nobody_serves_it"):
        model_process(psutil.Process().pid, "nobody_serves_it")
