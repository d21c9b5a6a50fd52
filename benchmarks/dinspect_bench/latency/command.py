"""The ``bench-latency`` program: milliseconds per sample of a served product."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_bench.errors import BenchmarkError, LatencyError
from dinspect_bench.latency.single_stream import (
    LatencySummary,
    SingleStreamRun,
    measure_single_stream,
)
from dinspect_bench.latency.stages import latency_by_step
from dinspect_bench.latency.statistics import PHASES
from dinspect_client import wire

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

EXIT_OK = 0
EXIT_USE = 2
EXIT_SERVER = 3
DEFAULT_URL = "localhost:8001"
_SUMMARY_COLUMNS = ("p50", "p90", "p99", "mean", "std", "min", "max")
_OVERLAP_NOTE = (
    "Below zero: Triton counts a step until its tensors are released, when the next is running."
)
_NAME_WIDTH = 24
_NUMBER_WIDTH = 10


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        0 when every sample was answered, 2 for wrong use or bad input, 3 when the server cannot
        be reached or refused a sample.
    """
    args = build_parser().parse_args(argv)
    try:
        report = run_benchmark(args)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"bench-latency: {error}; run: pip install '.[bench]'\n")
        return EXIT_USE
    except Exception as error:
        status = getattr(error, "exit_status", None)
        if not isinstance(status, int):
            raise
        sys.stderr.write(f"bench-latency: {error}\n")
        return status
    text = json.dumps(report, indent=2, allow_nan=False) if args.json else format_report(report)
    sys.stdout.write(text + "\n")
    return EXIT_SERVER if report["latency_ms"]["num_failed"] else EXIT_OK


def build_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(
        prog="bench-latency",
        description="Measure ms/sample of a served product, one request at a time through gRPC.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, help="images, or folders of images, to send in turn"
    )
    parser.add_argument("--product", required=True, help="enrolled product, e.g. screw or screw@3")
    parser.add_argument(
        "--method",
        choices=wire.METHODS,
        default=wire.Method.ANOMALY_DINO,
        help="what it is inspected by (default %(default)s)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=DEFAULT_URL, help=f"gRPC address (default {DEFAULT_URL})")
    where.add_argument(
        "--serve", type=Path, metavar="REPOSITORY", help="start this repository for the measurement"
    )
    parser.add_argument("--samples", type=int, default=100, help="samples to time (default 100)")
    parser.add_argument("--warmup", type=int, default=10, help="untimed samples (default 10)")
    parser.add_argument("--no-map", action="store_true", help="do not ask for the anomaly map")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and put the report together.

    Returns:
        ``run`` (what was measured), ``latency_ms``, ``latency_samples_ms``, ``failures``,
        ``latency_by_step_ms`` (None with ``latency_by_step_unavailable`` when the server's times
        are not of this run alone) and ``environment``.

    Raises:
        BenchmarkError: If an image cannot be read or nothing succeeded. Errors of the client pass
            through.
    """
    if args.serve is None:
        return _measure(args, args.url)
    from dinspect_server.embedded import EmbeddedTriton

    with EmbeddedTriton(args.serve) as server:
        return _measure(args, server.grpc_url)


def _measure(args: argparse.Namespace, url: str) -> dict[str, Any]:
    from dinspect_bench.machine.environment import describe_environment
    from dinspect_client import InspectionClient
    from dinspect_client.images import expand_paths

    images = [_read(path) for path in expand_paths(args.images)]
    try:
        client = InspectionClient(url)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    with client:
        ensemble = _ensemble_of(client, args.product, args.method)
        run = measure_single_stream(
            client,
            url,
            args.product,
            images,
            ensemble=ensemble,
            method=args.method,
            num_samples=args.samples,
            num_warmup=args.warmup,
            with_map=not args.no_map,
        )
        version = client.server_version()
    return {
        "run": {
            "scenario": "single stream",
            "product": args.product,
            "method": args.method,
            "ensemble": ensemble,
            "with_map": not args.no_map,
            "num_images": len(images),
            "image_bytes": [len(image) for image in images],
            "num_warmup": args.warmup,
            "server_version": version,
        },
        **_figures(run),
        "environment": describe_environment(),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as two tables for a terminal."""
    run, summary = report["run"], report["latency_ms"]
    title = (
        f"{run['product']} on {run['ensemble']}, Triton {run['server_version']}: "
        f"{summary['count']} samples, {run['num_images']} images, "
        f"{'with' if run['with_map'] else 'without'} anomaly map, one at a time"
    )
    lines = [title, "", _row("", _SUMMARY_COLUMNS)]
    lines.append(_row("ms/sample", [f"{summary[name]:.1f}" for name in _SUMMARY_COLUMNS]))
    if report["failures"]:
        lines += ["", f"{len(report['failures'])} failed, first: {report['failures'][0]}"]
    lines.append("")
    if report["latency_by_step_ms"] is None:
        lines.append(f"no times by step: {report['latency_by_step_unavailable']}")
    else:
        lines += _step_lines(report["latency_by_step_ms"])
    return "\n".join(lines)


def _step_lines(by_step: dict[str, Any]) -> list[str]:
    header = [phase.removeprefix("compute_") for phase in PHASES]
    lines = [_row("mean ms per request", [*header, "total", "share"])]
    mean = by_step["client_mean"]
    for name, times in by_step["steps"].items():
        cells = [f"{times[phase]:.1f}" for phase in PHASES]
        lines.append(_row(name, [*cells, *_total_cells(times["total"], mean)]))
    blank = [""] * len(PHASES)
    for name, key in (
        ("between the steps", "between_steps"),
        ("transport and client", "transport_and_client"),
        ("client's mean", "client_mean"),
    ):
        lines.append(_row(name, [*blank, *_total_cells(by_step[key], mean)]))
    if any(line[_NAME_WIDTH:].lstrip().startswith("-") for line in lines):
        lines += ["", _OVERLAP_NOTE]
    return lines


def _total_cells(total_ms: float, mean_ms: float) -> list[str]:
    # Adding zero turns the -0.0 of a tiny negative into 0.0.
    share = round(100 * total_ms / mean_ms, 1) + 0.0
    return [f"{round(total_ms, 1) + 0.0:.1f}", f"{share:.1f} %"]


def _row(name: str, cells: Sequence[str]) -> str:
    columns = "".join(f"{cell:>{_NUMBER_WIDTH}}" for cell in cells)
    return f"{name:<{_NAME_WIDTH}}{columns}".rstrip()


def _figures(run: SingleStreamRun) -> dict[str, Any]:
    summary: LatencySummary = run.summary
    return {
        "latency_ms": asdict(summary),
        "latency_samples_ms": [round(ns / 1e6, 3) for ns in run.samples.succeeded_ns],
        "failures": list(run.samples.failures),
        "latency_by_step_ms": run.server and latency_by_step(summary, run.server),
        "latency_by_step_unavailable": run.server_unavailable,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LatencyError(f"cannot read {path}: {error.strerror}") from error


def _ensemble_of(client: InspectionClient, reference: str, method: str) -> str:
    """The ensemble that inspects a product by a method, as the server's list of products says.

    Raises:
        BenchmarkError: If the reference is malformed, or there is no such product by the method.
    """
    try:
        name, _ = wire.parse_product(reference)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    listed = client.products()
    products = {product.name: product.ensemble for product in listed if product.method == method}
    if name not in products:
        known = ", ".join(sorted(products)) or "none"
        raise BenchmarkError(
            f"no product {name!r} is inspected by {method}; those that are: {known}"
        )
    return products[name]
