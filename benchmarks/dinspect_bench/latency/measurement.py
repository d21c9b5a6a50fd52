"""One run of ``bench-latency`` against a server, from the images to the report."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dinspect_bench.errors import LatencyError, StatisticsError
from dinspect_bench.latency.floor import floor_report
from dinspect_bench.latency.load import Send
from dinspect_bench.latency.null_system import measure_null_system
from dinspect_bench.latency.report import scenario_report, single_stream_report
from dinspect_bench.latency.scenarios import measure_scenario
from dinspect_bench.latency.settings import LoadSettings, Scenario
from dinspect_bench.latency.single_stream import SingleStreamRun, measure_single_stream
from dinspect_bench.latency.subject import (
    Subject,
    find_subject,
    response_cache_state,
    runtime_settings,
)
from dinspect_bench.latency.transport import MAX_REQUESTS, TransportTimes, measure_transport
from dinspect_client import InspectionClient, InspectionError
from dinspect_client.images import expand_paths

TIMEOUT_S = 120.0
"""Of one inspection; in a pile it waits for those before it."""


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        grpc_url: ``host:port``.
        metrics_url: Its Prometheus metrics; empty if unknown.
        admin_key: Allows to load models; empty if it is not ours to load any.
    """

    grpc_url: str
    metrics_url: str = ""
    admin_key: str = ""


def measure(args: argparse.Namespace, settings: LoadSettings, address: Address) -> dict[str, Any]:
    """Measure a scenario and put the report together.

    Args:
        args: The program's options; what is inspected, and by which images.
        settings: How the scenario is run.
        address: The server.

    Returns:
        ``run`` (what was measured), what `single_stream_report` or `scenario_report` gives,
        what `floor_report` gives if it is asked for, ``null_system`` and ``environment``.

    Raises:
        BenchmarkError: If an image cannot be read, there is no such product, the server answers
            from a cache or nothing succeeded. Errors of the client pass through.
    """
    from dinspect_bench.machine.environment import describe_environment

    images = [_read(path) for path in expand_paths(args.images)]
    null_system = measure_null_system(settings)
    with InspectionClient(address.grpc_url, timeout_s=TIMEOUT_S) as client:
        subject = find_subject(client, args.product, args.method, with_map=not args.no_map)
        about = {
            "scenario": settings.scenario,
            **subject.settings(),
            **runtime_settings(address.grpc_url, subject),
            "response_cache": response_cache_state(address.grpc_url, subject.ensemble),
            "num_images": len(images),
            "image_bytes": [len(image) for image in images],
            "num_warmup": settings.num_warmup,
            "server_version": client.server_version(),
        }
        if settings.scenario == Scenario.SINGLE_STREAM:
            result = _measure_single_stream(client, address, subject, images, settings)
        else:
            connect = _connections(address.grpc_url, subject, images)
            result = scenario_report(measure_scenario(settings, connect, (InspectionError,), _bar))
    floor = floor_report(result, about["precision"], subject, images) if args.floor else {}
    return {
        "run": about,
        **result,
        **floor,
        "null_system": null_system,
        "environment": describe_environment(),
    }


def _measure_single_stream(
    client: InspectionClient,
    address: Address,
    subject: Subject,
    images: Sequence[bytes],
    settings: LoadSettings,
) -> dict[str, Any]:
    with _bar("samples", settings.num_samples) as advance:
        run = measure_single_stream(
            client,
            address.grpc_url,
            subject.product,
            images,
            ensemble=subject.ensemble,
            method=subject.method,
            num_samples=settings.num_samples,
            num_warmup=settings.num_warmup,
            with_map=subject.with_map,
            metrics_url=address.metrics_url,
            on_sample=advance,
        )
    transport = _transport(client, address, subject, images, run)
    return single_stream_report(run, transport)


def _transport(
    client: InspectionClient,
    address: Address,
    subject: Subject,
    images: Sequence[bytes],
    run: SingleStreamRun,
) -> TransportTimes | str:
    """Transport by itself, or why it was not measured."""
    if not address.admin_key:
        return "a model is added to a server's only with --serve"
    num_requests = min(MAX_REQUESTS, run.summary.count)
    try:
        with _bar("transport", num_requests) as advance:
            return measure_transport(
                client,
                address.grpc_url,
                address.admin_key,
                subject,
                images,
                num_requests=num_requests,
                on_request=advance,
            )
    except (StatisticsError, InspectionError) as error:
        return str(error)


def _connections(
    grpc_url: str, subject: Subject, images: Sequence[bytes]
) -> Callable[[], contextlib.AbstractContextManager[Send]]:
    """Makes connections that inspect, each with a client of its own."""

    @contextlib.contextmanager
    def connect() -> Iterator[Send]:
        with InspectionClient(grpc_url, timeout_s=TIMEOUT_S) as client:
            yield lambda index: client.inspect(
                subject.product,
                images[index % len(images)],
                method=subject.method,
                with_map=subject.with_map,
            )

    return connect


@contextlib.contextmanager
def _bar(what: str, num_samples: int) -> Iterator[Callable[[], object]]:
    with tqdm(total=num_samples, desc=what, leave=False, disable=None) as bar:
        yield bar.update


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LatencyError(f"cannot read {path}: {error.strerror}") from error
