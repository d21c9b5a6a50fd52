"""The ``bench-latency`` program: milliseconds per sample of a served product."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from dinspect_bench.latency.options import build_parser, load_settings

__all__ = ["build_parser", "main", "run_benchmark"]

EXIT_OK = 0
EXIT_NOT_HELD = 1
EXIT_USE = 2
EXIT_SERVER = 3
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        0 when every sample was answered, 1 when no rate was held, 2 for wrong use or bad input, 3
        when the server cannot be reached or refused a sample, 130 when interrupted.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if not args.null and not (args.product and args.images):
        parser.error("--product and images are needed, unless --null")
    try:
        report = run_benchmark(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        sys.stderr.write(f"bench-latency: {error}; run: pip install '.[bench]'\n")
        return EXIT_USE
    except Exception as error:
        status = getattr(error, "exit_status", None)
        if not isinstance(status, int):
            raise
        sys.stderr.write(f"bench-latency: {error}\n")
        return status
    _write(report, args)
    return exit_status(report)


def run_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and put the report together; see `report` for what is in it.

    Raises:
        BenchmarkError: If an image cannot be read, the settings make no sense or nothing
            succeeded. Errors of the client and the server pass through.
    """
    from dinspect_bench.latency.measurement import Address, measure
    from dinspect_bench.latency.report import null_report

    settings = load_settings(args)
    if args.null:
        return null_report(settings)
    if args.serve is None:
        return measure(args, settings, Address(args.url, args.metrics_url or ""))
    from dinspect_server.embedded import EmbeddedTriton

    admin_key = secrets.token_hex(16)
    with EmbeddedTriton(args.serve, admin_key=admin_key) as server:
        return measure(args, settings, Address(server.grpc_url, server.metrics_url, admin_key))


def exit_status(report: dict[str, Any]) -> int:
    """The program's status after a report."""
    if report.get("failures"):
        return EXIT_SERVER
    tried = report.get("scenario_figures", {}).get("tried")
    if tried and not any(one["is_held"] for one in tried):
        return EXIT_NOT_HELD
    return EXIT_OK


def _write(report: dict[str, Any], args: argparse.Namespace) -> None:
    from dinspect_bench.latency.report import record_from_report
    from dinspect_bench.latency.text import format_report
    from dinspect_bench.records import RecordFile

    if args.output is not None:
        records = RecordFile(args.output)
        records.append(record_from_report(report))
        if report.get("peak"):
            records.append(report["peak"])
    text = json.dumps(report, indent=2, allow_nan=False) if args.json else format_report(report)
    sys.stdout.write(text + "\n")
