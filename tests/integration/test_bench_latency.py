"""``bench-latency`` on the real server: its parts are there and agree with each other.

How long anything takes is not judged here; that stages add up within 5 % is measured, not tested.
"""

from __future__ import annotations

import json

import pytest

from dinspect_bench.errors import StatisticsError
from dinspect_bench.latency.command import main
from dinspect_bench.latency.subject import find_subject
from dinspect_bench.latency.transport import ANSWER_MODEL, measure_transport
from dinspect_bench.records import RecordFile
from dinspect_client import InspectionClient
from dinspect_server.assemble import assemble
from dinspect_server.embedded import EmbeddedTriton, grpc_client

PRODUCT = "timed"
ADMIN_KEY = "admin"
STAGES = {
    "decode",
    "resize",
    "preprocess_other",
    "backbone",
    "knn",
    "queue",
    "routing",
    "transport",
}


@pytest.fixture(scope="module")
def repository(artefacts_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timed")
    artefacts = tmp_path_factory.mktemp("one")
    (artefacts / "a").symlink_to(artefacts_dir / "dinov2_vits14_448")
    assemble(artefacts, folder)
    return folder


@pytest.fixture(scope="module")
def images(split, tmp_path_factory):
    """Three cells in a folder."""
    folder = tmp_path_factory.mktemp("cells")
    for path in split.functional[:3]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(repository, split):
    """Running, with a product."""
    with EmbeddedTriton(repository, admin_key=ADMIN_KEY) as running:
        with InspectionClient(running.grpc_url) as client:
            client.enroll(PRODUCT, split.enrolled[:2], preprocessing="informed")
        yield running


@pytest.fixture
def bench(capsys):
    """Runs the program; gives its status and what it printed as JSON."""

    def run(*arguments):
        status = main([str(argument) for argument in ("--product", PRODUCT, "--json", *arguments)])
        printed = capsys.readouterr()
        return status, json.loads(printed.out) if printed.out else printed.err

    return run


def test_a_running_servers_stages_are_told(bench, server, images, tmp_path):
    record_file = tmp_path / "records.jsonl"
    status, report = bench(
        images, "--url", server.grpc_url, "--metrics-url", server.metrics_url,
        "--samples", 6, "--warmup", 2, "--output", record_file,
    )  # fmt: skip
    assert status == 0
    stages = report["stages_ms"]
    assert stages.keys() == STAGES | {"map"}
    assert all(
        time_ms > 0 for name, time_ms in stages.items() if name not in ("routing", "transport")
    )
    by_step = report["latency_by_step_ms"]
    inside = sum(stages.values()) - stages["transport"]
    assert inside == pytest.approx(by_step["server_total"])
    preprocess = by_step["steps"]["preprocess_448"]
    decode, resize = stages["decode"], stages["resize"]
    assert 0 < decode + resize < preprocess["compute_infer"]
    # Nothing is uploaded to a server that is not ours.
    assert (report["transport"], report["stages_sum_share"]) == ("remainder", None)
    assert report["run"]["response_cache"] == "off"
    record = RecordFile(record_file).find(record="latency", product=PRODUCT)
    assert record["stages_ms"] == stages
    assert record["p50_ms"] == report["latency_ms"]["p50"]
    assert (record["num_samples"], record["num_failed"], record["shots"]) == (6, 0, 2)
    assert record["bank_patches"] == 2 * 32 * 32
    assert record["null_system"]["p50_ms"] < record["p50_ms"]


def test_without_the_map_it_is_no_stage(bench, server, images):
    _, report = bench(images, "--url", server.grpc_url, "--samples", 2, "--warmup", 1, "--no-map")
    assert "map" not in report["stages_ms"]
    assert report["latency_by_step_ms"]["steps"]["anomaly_map"]["count"] == 0
    assert {"preprocess", "backbone", "knn"} <= report["stages_ms"].keys()


def test_an_image_that_is_refused_fails_and_is_not_timed(bench, server, images, tmp_path):
    broken = tmp_path / "zz_broken.png"
    broken.write_bytes(b"no image")
    first = sorted(images.iterdir())[0]
    status, report = bench(
        first, broken, "--url", server.grpc_url, "--metrics-url", server.metrics_url,
        "--samples", 4, "--warmup", 1,
    )  # fmt: skip
    assert status == 3
    assert (report["latency_ms"]["count"], report["latency_ms"]["num_failed"]) == (2, 2)
    assert "no image in a known format" in report["failures"][0]
    # The model that refused them counts them too, so its times are not those of the others.
    assert report["stages_ms"] is None
    assert "preprocess_448 ran 4 times" in report["latency_by_step_unavailable"]


def test_scenarios_run_on_several_connections(bench, server, images):
    server_options = ("--url", server.grpc_url, "--warmup", 0)
    status, report = bench(
        images, *server_options, "--scenario", "multi-stream", "--samples", 2,
        "--samples-per-query", 3,
    )  # fmt: skip
    assert (status, report["latency_ms"]["count"]) == (0, 2)
    status, report = bench(
        images, *server_options, "--scenario", "offline", "--samples", 6, "--concurrency", 3
    )
    figures = report["scenario_figures"]
    assert (status, len(report["latency_samples_ms"])) == (0, 6)
    assert figures["samples_per_s"] == pytest.approx(6 / figures["duration_s"])


def test_a_bound_that_no_server_keeps_is_held_at_no_rate(bench, server, images):
    status, report = bench(
        images, "--url", server.grpc_url, "--warmup", 0, "--scenario", "server",
        "--latency-bound-ms", 0.01, "--percentile", 50, "--samples", 7, "--concurrency", 1,
        "--rate", 1000,
    )  # fmt: skip
    assert status == 1
    assert report["scenario_figures"]["rate_per_s"] is None
    assert len(report["scenario_figures"]["tried"]) == 6


def test_the_model_without_work_leaves_the_server_as_it_was(server, images):
    encoded = [path.read_bytes() for path in sorted(images.iterdir())]
    with InspectionClient(server.grpc_url) as client, grpc_client(server.grpc_url) as triton:
        subject = find_subject(client, PRODUCT, "anomaly_dino", with_map=True)
        before = client.inspect(PRODUCT, encoded[0])
        times = measure_transport(
            client, server.grpc_url, ADMIN_KEY, subject, encoded, num_requests=3
        )
        assert times.count == 3
        assert min(times.server_ms, times.client_ms) > 0
        assert not triton.is_model_ready(ANSWER_MODEL)
        assert client.inspect(PRODUCT, encoded[0]).anomaly_score == before.anomaly_score
        with pytest.raises(StatisticsError, match="refuses a model without work"):
            measure_transport(client, server.grpc_url, "wrong", subject, encoded, num_requests=1)


def test_a_server_of_its_own_has_transport_measured_by_itself(bench, server, repository, images):
    server.stop()
    status, report = bench(images, "--serve", repository, "--samples", 12, "--warmup", 1)
    assert status == 0
    stages = report["stages_ms"]
    assert stages.keys() == STAGES | {"map"}
    without_work = report["transport_without_work_ms"]
    assert without_work["count"] == 12
    assert stages["transport"] == pytest.approx(
        without_work["client_ms"] - without_work["server_ms"]
    )
    assert report["transport"] == "measured"
    whole = report["latency_by_step_ms"]["client_mean"]
    assert report["stages_sum_share"] == pytest.approx(sum(stages.values()) / whole)
    assert report["stages_sum_share"] == pytest.approx(1, abs=0.15)
