"""The demo: real solar cells through a real Triton server, from weights to report.

Every stage really happens, every time. A result is written only when all of it was computed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dinspect_bench.datasets.elpv import DemoSplit, load_elpv, relative_name, split_cells
from dinspect_bench.demo.gallery import Picture, choose_sections, colour_bar, files_of
from dinspect_bench.demo.inspected_split import inspect_split
from dinspect_bench.demo.report import render_report
from dinspect_bench.demo.result import (
    Enrolled,
    InspectedImage,
    Provenance,
    TrainedMethod,
    build_result,
)
from dinspect_bench.demo.training import train_demo
from dinspect_bench.errors import DemoError
from dinspect_bench.files import json_text, write_text_atomically
from dinspect_bench.latency.single_stream import SingleStreamRun, measure_single_stream
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.progress import Stages
from dinspect_bench.served import runtime_in_force
from dinspect_client.wire import Method

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dinspect_client import InspectionClient
    from dinspect_export.manifest import Artefact, BackboneManifest

PRODUCT = "solar-mono"
WEIGHTS = "packaged"
VARIANT = "dinov2_vits14"
GRID = (32, 32)  # 448 pixels in patches of 14
RESULT_FILE = "result.json"
REPORT_FILE = "report.html"
NUM_STAGES = 10


@dataclass(frozen=True)
class DemoSettings:
    """Where the demo writes and how long it measures.

    Attributes:
        output: Folder of the result, the report and the model repository.
        build: Folder of exported models and downloads.
        seed: Seed of the split.
        num_samples: Latency samples.
        num_warmup: Inspections before them.
    """

    output: Path
    build: Path
    seed: int = 0
    num_samples: int = 100
    num_warmup: int = 10


@dataclass(frozen=True)
class Served:
    """What was measured on the running server.

    Attributes:
        enrolled: The product.
        images: The server's answers, in the order of the split.
        anomaly_maps: File name to ``(H, W)`` float32 map.
        latency: Milliseconds per sample.
        server_version: Version the server gave.
        runtime: ``runtime`` and ``precision`` the backbone runs in.
        l2bt: The same cells by students trained on the same references.
    """

    enrolled: Enrolled
    images: tuple[InspectedImage, ...]
    anomaly_maps: dict[str, NDArray[np.float32]]
    latency: SingleStreamRun
    server_version: str
    runtime: dict[str, str]
    l2bt: TrainedMethod


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Do the whole demo and write ``result.json`` and ``report.html``.

    Returns:
        The result, as written.

    Raises:
        BenchmarkError: If the data, an answer or a measurement is not what it must be. Errors of
            the exporter, the server and the client pass through.
    """
    # A result from an earlier run must not survive a run that fails.
    for name in (RESULT_FILE, REPORT_FILE):
        (settings.output / name).unlink(missing_ok=True)
    stages = Stages(NUM_STAGES)
    with stages.stage("data", "finding the solar cells and drawing the split"):
        split = split_cells(load_elpv(), seed=settings.seed)
    artefact = _prepare(settings, split, stages)
    served = _measure(settings, split, stages)
    with stages.stage("report", f"writing {RESULT_FILE} and {REPORT_FILE}"):
        provenance = _provenance(artefact, served, stages)
        result = build_result(
            split, served.enrolled, served.images, served.latency, served.l2bt, provenance
        )
        html = _render(result, split, served)
        write_text_atomically(settings.output / RESULT_FILE, json_text(result))
        write_text_atomically(settings.output / REPORT_FILE, html)
    return result


def repository_of(settings: DemoSettings) -> Path:
    """The model repository the demo serves; it can be served again afterwards."""
    return settings.output / "model_repository"


def _prepare(
    settings: DemoSettings, split: DemoSplit, stages: Stages
) -> Artefact[BackboneManifest]:
    from dinspect_export.check_images import CheckImages
    from dinspect_export.onnx_export import export_backbones
    from dinspect_export.weights_location import Weights
    from dinspect_server.assemble import assemble

    artefacts_dir = settings.build / "demo"
    with stages.stage("export", f"exporting {VARIANT} to ONNX and comparing it with PyTorch"):
        artefacts = export_backbones(
            Weights(WEIGHTS, VARIANT, settings.build / "weights"),
            [GRID],
            artefacts_dir,
            check=CheckImages(images=(split.enrolled[0],)),
        )
    with stages.stage("assemble", "assembling the model repository"):
        assemble(artefacts_dir, repository_of(settings))
    return artefacts[0]


def _measure(settings: DemoSettings, split: DemoSplit, stages: Stages) -> Served:
    from dinspect_client import InspectionClient
    from dinspect_server.embedded import EmbeddedTriton

    with contextlib.ExitStack() as running:
        with stages.stage("start", "starting Triton"):
            server = running.enter_context(EmbeddedTriton(repository_of(settings)))
            client = running.enter_context(InspectionClient(server.grpc_url))
        with stages.stage("enroll", f"enrolling {len(split.enrolled)} cells as {PRODUCT}"):
            enrolled = _enroll(client, split)
        with stages.stage("inspect", f"inspecting {len(split.held_out)} other cells"):
            images, anomaly_maps = inspect_split(
                client, PRODUCT, split, enrolled, Method.ANOMALY_DINO
            )
        with stages.stage("latency", f"measuring {settings.num_samples} samples, one at a time"):
            latency = _measure_latency(client, server.grpc_url, settings, split, enrolled)
        with stages.stage("train", f"training students for {PRODUCT} on the enrolled cells"):
            trained, training = train_demo(client, server.grpc_url, PRODUCT, split, settings.build)
        with stages.stage("inspect_l2bt", f"inspecting the {len(split.held_out)} cells by L2BT"):
            by_l2bt, _ = inspect_split(client, PRODUCT, split, trained, Method.L2BT)
        return Served(
            enrolled=enrolled,
            images=images,
            anomaly_maps=anomaly_maps,
            latency=latency,
            server_version=client.server_version(),
            runtime=_runtime(server.grpc_url, latency),
            l2bt=TrainedMethod(trained, by_l2bt, training),
        )


def _enroll(client: InspectionClient, split: DemoSplit) -> Enrolled:
    """Enrol the good cells; every patch of every one of them must be in the memory bank."""
    with tqdm(total=len(split.enrolled), unit="cell", leave=False, disable=None) as bar:

        def show(num_done: int, _: int) -> None:
            bar.update(num_done - bar.n)

        # A cell lies in its module one way up and fills its image: what an engineer would say.
        answer = client.enroll(
            PRODUCT,
            list(split.enrolled),
            preprocessing="informed",
            texture=True,
            operator="demo",
            on_progress=show,
        )
    enrolled = Enrolled(
        product=answer.product,
        bundle_version=int(answer.version),
        ensemble=answer.ensemble,
        threshold=float(answer.threshold),
        num_references=int(answer.num_references),
        num_patches=int(answer.num_patches),
    )
    expected = len(split.enrolled) * GRID[0] * GRID[1]
    if (enrolled.num_references, enrolled.num_patches) != (len(split.enrolled), expected):
        raise DemoError(
            f"the bank holds {enrolled.num_patches} patches of {enrolled.num_references} "
            f"references, expected {expected} of {len(split.enrolled)}"
        )
    return enrolled


def _measure_latency(
    client: InspectionClient,
    grpc_url: str,
    settings: DemoSettings,
    split: DemoSplit,
    enrolled: Enrolled,
) -> SingleStreamRun:
    with tqdm(total=settings.num_samples, unit="sample", leave=False, disable=None) as bar:
        run = measure_single_stream(
            client,
            grpc_url,
            PRODUCT,
            [path.read_bytes() for path in split.held_out],
            ensemble=enrolled.ensemble,
            num_samples=settings.num_samples,
            num_warmup=settings.num_warmup,
            on_sample=bar.update,
        )
    if run.samples.failures:
        raise DemoError(
            f"{len(run.samples.failures)} of {settings.num_samples} samples failed, "
            f"the first with: {run.samples.failures[0]}"
        )
    return run


def _runtime(grpc_url: str, latency: SingleStreamRun) -> dict[str, str]:
    if latency.server is None:
        raise DemoError(f"no times by step: {latency.server_unavailable}")
    return runtime_in_force(grpc_url, latency.server.backbone().name)


def _provenance(artefact: Artefact[BackboneManifest], served: Served, stages: Stages) -> Provenance:
    manifest = artefact.manifest
    return Provenance(
        created=datetime.now(timezone.utc),
        server_version=served.server_version,
        runtime=served.runtime["runtime"],
        precision=served.runtime["precision"],
        variant=manifest.variant,
        weights=manifest.weights_source,
        weights_sha256=manifest.weights_sha256,
        fine_tuned=manifest.fine_tuned,
        onnx_sha256=manifest.onnx_sha256,
        export_max_cosine_distance=manifest.max_cosine_distance,
        environment=describe_environment(),
        seconds=dict(stages.seconds),
    )


def _render(result: dict[str, Any], split: DemoSplit, served: Served) -> str:
    """Paint the pictures the report shows and render it."""
    from dinspect_client.overlay import map_peak, overlay_image, read_rgb

    method = result["methods"]["anomaly_dino"]
    shown = files_of(choose_sections(method["images"], method["threshold"]))
    paths = {relative_name(path): path for path in split.held_out}
    peak = map_peak(served.enrolled.threshold)  # the scale of the client's own pictures
    pictures = {}
    for name in shown:
        original = read_rgb(paths[name])
        overlay = overlay_image(original, served.anomaly_maps[name], peak=peak)
        pictures[name] = Picture(original, overlay)
    bar = colour_bar(overlay_image, peak)
    return render_report(result, pictures, colour_bar=bar, peak=peak)
