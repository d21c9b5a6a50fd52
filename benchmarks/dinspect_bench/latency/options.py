"""The options of ``bench-latency``."""

from __future__ import annotations

import argparse
from pathlib import Path

from dinspect_bench.latency.server_rate import ServerSettings
from dinspect_bench.latency.settings import (
    CONCURRENCY,
    NUM_SAMPLES,
    SAMPLES_PER_QUERY,
    SCENARIOS,
    LoadSettings,
    Scenario,
)
from dinspect_client import wire
from dinspect_client.commands.arguments import add_url

_EPILOG = (
    "Exit status: 0 every sample was answered; 1 no rate was held; 2 wrong use; 3 the server "
    "cannot be reached or refused a sample."
)
_DEFAULT_SAMPLES = ", ".join(f"{NUM_SAMPLES[one]} in {one.replace('_', '-')}" for one in SCENARIOS)


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="bench-latency",
        description="Measure how long inspections of a served product take, and where the time "
        "goes: images in, score and map out, through gRPC.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "images", nargs="*", type=Path, help="images, or folders of images, to send in turn"
    )
    parser.add_argument("--product", help="enrolled product, e.g. screw or screw@3")
    parser.add_argument(
        "--method",
        choices=wire.METHODS,
        default=wire.Method.ANOMALY_DINO,
        help="what it is inspected by (default %(default)s)",
    )
    parser.add_argument("--no-map", action="store_true", help="do not ask for the anomaly map")
    _add_server(parser)
    _add_load(parser)
    parser.add_argument(
        "--null",
        action="store_true",
        help="measure the harness alone, on a system in this process that answers at once",
    )
    parser.add_argument(
        "--floor",
        action="store_true",
        help="measure this machine's peak too, ten seconds long, and tell how long each step must "
        "take at least; in single-stream, of a server on this machine",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.jsonl", help="add a record of the result to this file"
    )
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    where = group.add_mutually_exclusive_group()
    add_url(where)
    where.add_argument(
        "--serve",
        type=Path,
        metavar="REPOSITORY",
        help="start this repository for the measurement; transport is then measured by itself",
    )
    group.add_argument(
        "--metrics-url",
        metavar="URL",
        help="with --url: its metrics, such as http://localhost:8002/metrics, to tell decoding "
        "from resizing",
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("load, as MLPerf's scenarios have it")
    group.add_argument(
        "--scenario",
        choices=[one.replace("_", "-") for one in SCENARIOS],
        default=Scenario.SINGLE_STREAM.replace("_", "-"),
        help="one sample after the other; queries of several samples; arrivals by chance, with "
        "the highest rate that keeps a latency bound; all samples at once (default %(default)s)",
    )
    group.add_argument(
        "--samples",
        type=int,
        help="samples to time; queries in multi-stream, samples at each rate in server (default "
        f"{_DEFAULT_SAMPLES})",
    )
    group.add_argument("--warmup", type=int, default=10, help="untimed samples (default 10)")
    group.add_argument(
        "--samples-per-query",
        type=int,
        default=SAMPLES_PER_QUERY,
        help="in multi-stream (default %(default)s)",
    )
    group.add_argument(
        "--latency-bound-ms", type=float, metavar="MS", help="in server: latency to be kept"
    )
    group.add_argument(
        "--percentile",
        type=float,
        default=99.0,
        help="in server: of all samples that must keep it (default %(default)s)",
    )
    group.add_argument(
        "--rate",
        type=float,
        metavar="PER_S",
        help="in server: rate to begin with (default: half of what one after the other reaches)",
    )
    group.add_argument(
        "--concurrency",
        type=int,
        default=CONCURRENCY,
        help="in server and offline: most samples in flight (default %(default)s; the server's "
        "queue takes 256)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="in server: of the arrivals (default %(default)s)"
    )


def load_settings(args: argparse.Namespace) -> LoadSettings:
    """How the scenario is to be run.

    Raises:
        LatencyError: If a number makes no sense, or the scenario server lacks its bound.
    """
    scenario = args.scenario.replace("-", "_")
    num_samples = NUM_SAMPLES[scenario] if args.samples is None else args.samples
    server = None
    if scenario == Scenario.SERVER and args.latency_bound_ms is not None:
        server = ServerSettings(
            args.latency_bound_ms, args.percentile / 100, num_samples, args.seed
        )
    return LoadSettings(
        scenario=scenario,
        num_samples=num_samples,
        num_warmup=args.warmup,
        samples_per_query=args.samples_per_query,
        concurrency=args.concurrency,
        server=server,
        first_rate_per_s=args.rate,
    )
