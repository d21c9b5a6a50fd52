"""From the command line to the settings of a load."""

from __future__ import annotations

import pytest

from dinspect_bench.errors import LatencyError
from dinspect_bench.latency.options import build_parser, load_settings
from dinspect_bench.latency.server_rate import ServerSettings
from dinspect_bench.latency.settings import LoadSettings, Scenario


def parsed(*options):
    return build_parser().parse_args(["--product", "screw", "part.png", *options])


def settings(*options):
    return load_settings(parsed(*options))


def test_defaults_are_a_hundred_samples_one_after_the_other_with_map():
    args = parsed()
    assert (args.warmup, args.no_map, args.json, args.null) == (10, False, False, False)
    assert args.method == "anomaly_dino"
    assert (args.output, args.serve, args.metrics_url) == (None, None, None)
    assert load_settings(args) == LoadSettings(Scenario.SINGLE_STREAM, 100, 10)


def test_scenarios_have_the_samples_that_mlperfs_figures_need():
    assert settings("--scenario", "multi-stream").num_samples == 662
    assert settings("--scenario", "offline").num_samples == 256
    server = settings("--scenario", "server", "--latency-bound-ms", "250")
    assert server.num_samples == 662
    assert server.server == ServerSettings(250.0, 0.99, 662, 0)


def test_everything_of_a_load_can_be_said():
    found = settings(
        "--scenario", "server", "--latency-bound-ms", "250", "--percentile", "90",
        "--samples", "80", "--seed", "4", "--rate", "3.5", "--concurrency", "16", "--warmup", "2",
    )  # fmt: skip
    assert found == LoadSettings(
        scenario=Scenario.SERVER,
        num_samples=80,
        num_warmup=2,
        concurrency=16,
        server=ServerSettings(250.0, 0.9, 80, 4),
        first_rate_per_s=3.5,
    )
    query = settings("--scenario", "multi-stream", "--samples-per-query", "4")
    assert (query.samples_per_query, query.num_connections) == (4, 4)


@pytest.mark.parametrize(
    ("scenario", "connections"), [("single-stream", 1), ("multi-stream", 8), ("offline", 64)]
)
def test_connections_are_the_scenarios(scenario, connections):
    assert settings("--scenario", scenario).num_connections == connections


def test_server_needs_its_bound():
    with pytest.raises(LatencyError, match="--latency-bound-ms 500"):
        settings("--scenario", "server")


def test_too_few_samples_for_the_percentile_are_refused():
    with pytest.raises(LatencyError, match="takes 459, or a lower percentile"):
        settings("--scenario", "server", "--latency-bound-ms", "9", "--samples", "100")


def test_the_address_is_the_clients(monkeypatch):
    assert parsed().url == "localhost:8001"
    monkeypatch.setenv("DINSPECT_URL", "line4:9001")
    assert parsed().url == "line4:9001"
    assert parsed("--url", "line5:9001").url == "line5:9001"


def test_a_server_is_either_started_or_called(capsys):
    with pytest.raises(SystemExit) as caught:
        parsed("--url", "line4:9001", "--serve", "repository")
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
