"""Our scenarios by MLPerf's own LoadGen: its figures from the latencies it logs, and ours of them.

LoadGen runs in a process of its own, since an error under it ends the process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import kstest

from dinspect_bench.latency.early_stopping import allowed_over_latency, estimate_percentile
from dinspect_bench.latency.server_rate import poisson_arrivals_ns

pytest.importorskip("mlperf_loadgen", reason="there is no wheel of LoadGen for this platform")

PROGRAM = """
import json, random, sys, time
import mlperf_loadgen as lg

scenario, options = sys.argv[1], json.loads(sys.argv[2])
work = random.Random(0)

def issue(samples):
    for sample in samples:
        if work.random() < 0.05:
            time.sleep(0.002 * work.random())
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

settings = lg.TestSettings()
settings.scenario = getattr(lg.TestScenario, scenario)
settings.mode = lg.TestMode.PerformanceOnly
settings.min_duration_ms = 0
for name, value in options.items():
    setattr(settings, name, value)
log = lg.LogSettings()
log.log_output = lg.LogOutputSettings()
log.log_output.outdir = "."
log.enable_trace = True
system = lg.ConstructSUT(issue, lambda: None)
library = lg.ConstructQSL(16, 16, lambda indices: None, lambda indices: None)
lg.StartTestWithLogSettings(system, library, settings, log)
"""


def loadgen(folder, scenario, num_queries, **options):
    """LoadGen's summary, and of each query when it was due and what it took, in nanoseconds."""
    options = {"min_query_count": num_queries, "max_query_count": num_queries, **options}
    command = [sys.executable, "-c", PROGRAM, scenario, json.dumps(options)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    trace = (folder / "mlperf_log_trace.json").read_text()
    due_us, took_ns = {}, {}
    pattern = r'"Sample",.*?"ph":"b".*?"ts":([\d.]+),.*?"query_seq":(\d+),.*?"complete_ns":(\d+)'
    for at, query, duration in re.findall(pattern, trace):
        due_us[int(query)] = float(at)
        took_ns[int(query)] = max(took_ns.get(int(query), 0), int(duration))
    assert len(took_ns) == num_queries
    queries = sorted(took_ns)
    summary = (folder / "mlperf_log_summary.txt").read_text()
    return summary, [due_us[query] for query in queries], [took_ns[query] for query in queries]


def told(summary, what):
    return int(re.search(rf"{what} *: (\d+)", summary)[1])


@pytest.mark.parametrize("num_queries", [64, 100, 1000])
def test_single_streams_estimate_is_loadgens(tmp_path, num_queries):
    summary, _, took_ns = loadgen(tmp_path, "SingleStream", num_queries)
    ours = estimate_percentile(took_ns, 0.9)
    assert ours.value == told(summary, "Early stopping 90.0th percentile estimate")
    discarded = int(re.search(r"Would discard (\d+) highest", summary)[1])
    assert ours.num_discarded == discarded
    p99 = estimate_percentile(took_ns, 0.99)
    if num_queries < 662:
        assert p99.value is None
        assert re.search(rf"least {p99.num_needed} total queries", summary)
    else:
        assert p99.value == told(summary, "Early stopping 99.0th percentile estimate")


def test_too_few_queries_are_too_few_for_loadgen(tmp_path):
    summary, _, took_ns = loadgen(tmp_path, "SingleStream", 63)
    needed = estimate_percentile(took_ns, 0.9).num_needed
    assert f"Need to process at least {needed} queries" in summary


def test_multi_streams_estimate_is_loadgens(tmp_path):
    summary, _, took_ns = loadgen(tmp_path, "MultiStream", 1100, multi_stream_samples_per_query=8)
    ours = estimate_percentile(took_ns, 0.99)
    assert ours.value == told(summary, "Early stopping 99.0th percentile estimate")


@pytest.mark.parametrize("bound_us", [1, 200, 5000])
def test_servers_verdict_is_loadgens(tmp_path, bound_us):
    summary, _, took_ns = loadgen(
        tmp_path, "Server", 700,
        server_target_qps=2000, server_target_latency_ns=1000 * bound_us,
        server_target_latency_percentile=0.9,
    )  # fmt: skip
    num_over = sum(duration > 1000 * bound_us for duration in took_ns)
    is_held = num_over <= allowed_over_latency(700, 0.9)
    assert is_held == ("Early stopping satisfied: Yes" in summary)


def test_arrivals_are_drawn_from_loadgens_distribution(tmp_path):
    _, due_us, _ = loadgen(tmp_path, "Server", 3000, server_target_qps=3000)
    theirs = np.diff(due_us) * 3000 / 1e6
    ours = np.diff(poisson_arrivals_ns(3000, 3000, seed=0)) * 3000 / 1e9
    for between in (theirs, ours):  # both from fixed seeds
        assert kstest(between, "expon").pvalue > 0.05
