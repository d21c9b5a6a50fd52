"""L2BT at the paper's size, through a server: where the time and the memory go.

What runs is the whole way of a product: a checkpoint is exported and served, students in the
official code's files are loaded, exported and published, an image is inspected. The weights alone
are random, for a ViT-B/14 and its students are not at hand and time does not depend on them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from dinspect_bench.datasets.elpv import load_elpv
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.latency.single_stream import SingleStreamRun, measure_single_stream
from dinspect_bench.latency.statistics import ServerTimes, StatisticsReader, StepTimes
from dinspect_bench.machine.operations import backbone_operations, students_operations
from dinspect_bench.machine.resident_memory import PeakMemory, model_process, server_processes
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import own_server, placed
from dinspect_bench.studies.l2bt_speed_table import format_l2bt_speed
from dinspect_client import wire
from dinspect_client.wire import Method, TrainingKey
from dinspect_export.geometry import grid_from_size
from dinspect_export.variants import BackboneVariant, variant_by_name

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.versions import StudentsVersion
    from dinspect_export.manifest import Artefact, BackboneManifest
    from dinspect_export.students import TrainedStudents
    from dinspect_server.embedded import EmbeddedTriton

PRODUCT = "random"
_TIMEOUT_S = 300.0  # of an inspection; a ViT-B/14 at 1036 px takes seconds on few cores
_MIB = 2**20


@dataclass(frozen=True)
class SpeedCase:
    """What is measured.

    Attributes:
        variant_name: Backbone; its default blocks are tapped.
        side_px: Edge of its input and of the image in pixels.
        num_samples: Inspections that are timed, after one that is not.
        precision: Of the server, as `assemble` takes it.
        seed: Of all weights.
    """

    variant_name: str
    side_px: int
    num_samples: int
    precision: str
    seed: int

    @property
    def variant(self) -> BackboneVariant:
        """The backbone's row in the table of variants."""
        return variant_by_name(self.variant_name)

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid ``(rows, columns)``."""
        return grid_from_size(str(self.side_px), self.variant.patch_size)


@dataclass(frozen=True)
class Watched:
    """Memory of a server while it inspected.

    Attributes:
        models: Of each model of the ensemble, by name.
        server: Of the server and all its models together.
    """

    models: Mapping[str, PeakMemory]
    server: PeakMemory


@dataclass(frozen=True, eq=False)
class ServedStudents:
    """A server of its own with one L2BT product.

    Attributes:
        server: It.
        client: Connected to it.
        version: The product's only version.
        expected_distances: What PyTorch in FP32 makes of the server's own patch tokens of the
            good image, ``(rows, columns)``.
        export: What exporting the backbone took: ``export_s`` and ``export_peak_mib``.
    """

    server: EmbeddedTriton
    client: InspectionClient
    version: StudentsVersion
    expected_distances: NDArray[np.float32]
    export: Record


def run_l2bt_speed_study(
    output: Path,
    *,
    variant_name: str = "dinov2_vitb14",
    side_px: int = 1036,
    num_samples: int = 5,
    precision: str = "auto",
    seed: int = 0,
) -> str:
    """Export, serve, publish, inspect, and write what was seen; measured anew each time.

    Args:
        output: The table; its record is added beside it, with the ending ``.jsonl``.
        variant_name: Backbone of Meta's with patches of 14 px.
        side_px: Edge of the input in pixels, a multiple of 14.
        num_samples: Inspections that are timed.
        precision: Of the server, as `assemble` takes it.
        seed: Of all weights.

    Returns:
        The table.

    Raises:
        BenchmarkError: If an inspection fails or the server does not show its times. Errors of the
            exporter, the server and the client pass through.
    """
    case = SpeedCase(variant_name, side_px, num_samples, precision, seed)
    with tempfile.TemporaryDirectory(prefix="dinspect-l2bt-speed-") as folder:
        record = placed(_measure(case, Path(folder)))
    RecordFile(output.with_suffix(".jsonl")).append(record)
    table = format_l2bt_speed(record)
    write_text_atomically(output, table)
    return table


def _measure(case: SpeedCase, folder: Path) -> Record:
    cell = min(cell.path for cell in load_elpv())
    image = enlarged_png(cell, case.side_px)
    with served_random_students(case, folder, image, cell) as served:
        client, server, version = served.client, served.server, served.version
        with _watching(server, version.ensemble) as watched:
            # Loads the students; its time does not count, its answer is checked.
            answer = client.inspect(PRODUCT, image, method=Method.L2BT)
            run = _run(client, server.grpc_url, version, image, case.num_samples)
    expected = served.expected_distances
    error = float(np.abs(answer.patch_distances - expected).max() / expected.max())
    return {
        **asdict(case),
        **served.export,
        **speed_record(case, run, watched),
        "layers": list(case.variant.default_layers),
        "backbone_runtime": f"{version.backbone.runtime} {version.backbone.precision}",
        "largest_distance_change": error,
    }


@contextlib.contextmanager
def served_random_students(
    case: SpeedCase, folder: Path, image: bytes, check_image: Path
) -> Iterator[ServedStudents]:
    """Export, serve and publish an L2BT product with random weights, called `PRODUCT`.

    Args:
        case: Backbone, size, precision and seed; its number of samples is not used.
        folder: Where weights and artefacts go.
        image: An encoded image of the input's size, the only good one of the product.
        check_image: What the exported graph and PyTorch are compared on.

    Raises:
        BenchmarkError: If nothing was exported. Errors of the exporter, the server and the client
            pass through.
    """
    from dinspect_client import InspectionClient

    artefact, export = _export_backbone(case, folder, check_image)
    students, graph = _export_students(case, folder)
    with (
        own_server(artefact.path.parent, case.precision) as server,
        InspectionClient(server.grpc_url, timeout_s=_TIMEOUT_S) as client,
    ):
        expected = _expected_distances(client, case, students, image)
        training = training_record(case, students, artefact.manifest.onnx_sha256, image)
        version = client.publish_students(PRODUCT, training, graph, _good_parts(expected))
        yield ServedStudents(server, client, version, expected, export)


def enlarged_png(path: Path, side_px: int) -> bytes:
    """A real image, made a square of another size, as an encoded PNG.

    Args:
        path: The image's file.
        side_px: Edge of the square in pixels.
    """
    from PIL import Image

    with Image.open(path) as image:
        square = image.convert("RGB").resize((side_px, side_px), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    square.save(encoded, "PNG")
    return encoded.getvalue()


def _export_backbone(
    case: SpeedCase, folder: Path, cell: Path
) -> tuple[Artefact[BackboneManifest], Record]:
    """The served graph, and what making it took, comparison with PyTorch included."""
    from dinspect_bench.studies.random_weights import export_random_backbone, write_random_backbone

    weights = folder / "random.pth"
    write_random_backbone(weights, case.variant_name, case.seed)
    started_s = time.monotonic()
    with PeakMemory([psutil.Process()]) as memory:
        artefact = export_random_backbone(
            weights, case.variant_name, case.grid, folder / "artefacts", cell, case.precision
        )
    export_s = time.monotonic() - started_s
    return artefact, {"export_s": export_s, "export_peak_mib": memory.peak_bytes / _MIB}


def _export_students(case: SpeedCase, folder: Path) -> tuple[TrainedStudents, Path]:
    """The students as read from the official code's files, and their graph."""
    from dinspect_bench.studies.random_weights import write_random_students
    from dinspect_export.student_files import load_students
    from dinspect_export.students import write_students_onnx

    forward, backward = write_random_students(folder, case.variant.dim, case.seed)
    students = load_students(
        forward, backward, variant_name=case.variant_name, layers=case.variant.default_layers
    )
    graph = folder / "students.onnx"
    write_students_onnx(students, graph, grid=case.grid)
    return students, graph


def _expected_distances(
    client: InspectionClient, case: SpeedCase, students: TrainedStudents, image: bytes
) -> NDArray[np.float32]:
    """What PyTorch in FP32 makes of the server's own patch tokens, ``(rows, columns)``."""
    import torch

    from dinspect_export.students import StudentDistance

    label = wire.grid_label(case.grid, case.variant.patch_size)
    tokens = client.patch_tokens(image, label, students.layers).tokens
    with torch.inference_mode():
        model = StudentDistance(students.pair, case.grid)
        distances = model(*(torch.tensor(tokens[layer])[None] for layer in students.layers))
    found: NDArray[np.float32] = distances[0].numpy()
    return found


def _good_parts(distances: NDArray[np.float32]) -> bytes:
    from safetensors.numpy import save

    return save({"patch_distances": distances[None]})


def training_record(
    case: SpeedCase, students: TrainedStudents, backbone_sha256: str, image: bytes
) -> dict[str, Any]:
    """What is published with the students: that nothing trained them, and one good image."""
    from dinspect_export.students import known_answer

    good_image = {"name": "enlarged.png", "sha256": hashlib.sha256(image).hexdigest()}
    distance = {"normalisation": "l2", "metric": "euclidean", "combination": "product"}
    step, width = wire.KNOWN_TOKENS
    return {
        TrainingKey.IMAGE_SIZE: [case.side_px, case.side_px],
        TrainingKey.GRID: list(case.grid),
        TrainingKey.LAYERS: list(case.variant.default_layers),
        TrainingKey.DIM: case.variant.dim,
        TrainingKey.BACKBONE_SHA256: backbone_sha256,
        TrainingKey.DISTANCE: distance,
        TrainingKey.SMOOTHING: "gaussian",
        TrainingKey.SIGMA_PX: wire.L2BT_SIGMA_PX,
        TrainingKey.KNOWN_ANSWER: known_answer(students, case.grid, step=step, width=width),
        TrainingKey.TRAINING: {"epochs": 0, "seed": case.seed},
        TrainingKey.REFERENCES: [],
        TrainingKey.GOOD_IMAGES: [good_image],
        TrainingKey.CALIBRATION: "good_images",
        TrainingKey.FALSE_POSITIVE_RATE: None,
        TrainingKey.UNDECIDED_RATE: None,
        TrainingKey.THRESHOLD: None,
        TrainingKey.NORMAL_BELOW: None,
    }


@contextlib.contextmanager
def _watching(server: EmbeddedTriton, ensemble: str) -> Iterator[Watched]:
    """Watch a server's memory as long as the block runs."""
    with StatisticsReader(server.grpc_url, ensemble) as statistics:
        steps = statistics.read().steps
    with contextlib.ExitStack() as stack:
        models = {
            name: stack.enter_context(PeakMemory([model_process(server.process_id, name)]))
            for name in steps
        }
        whole = stack.enter_context(PeakMemory(server_processes(server.process_id)))
        yield Watched(models, whole)


def _run(
    client: InspectionClient, url: str, version: StudentsVersion, image: bytes, num_samples: int
) -> SingleStreamRun:
    with tqdm(total=num_samples, unit="image", leave=False, disable=None) as bar:
        run = measure_single_stream(
            client,
            url,
            PRODUCT,
            [image],
            ensemble=version.ensemble,
            method=Method.L2BT,
            num_samples=num_samples,
            num_warmup=0,
            on_sample=bar.update,
        )
    if run.samples.failures:
        raise BenchmarkError(
            f"{len(run.samples.failures)} of {num_samples} inspections failed, the first with: "
            f"{run.samples.failures[0]}"
        )
    return run


def speed_record(case: SpeedCase, run: SingleStreamRun, watched: Watched) -> Record:
    """Times, operations and memory, step by step and of the whole.

    Args:
        case: What was measured.
        run: The inspections, in a server of their own.
        watched: The server's memory meanwhile.

    Raises:
        BenchmarkError: If the server did not show its times.
    """
    if run.server is None:
        raise BenchmarkError(f"there are no times by step: {run.server_unavailable}")
    depth = max(case.variant.default_layers)
    operations = {
        "backbone": backbone_operations(case.variant, case.grid, depth).parts,
        "students": students_operations(case.variant.dim, case.grid).parts,
    }
    return {
        "operations": {name: dict(parts) for name, parts in operations.items()},
        "steps": {
            name: {
                "model": step.name,
                "compute_ms": step.compute_ms,
                "peak_mib": watched.models[step.name].peak_bytes / _MIB,
            }
            for name, step in _steps(run.server).items()
        },
        "server_ms": run.server.total_ms,
        "client_p50_ms": run.summary.p50,
        "client_min_ms": run.summary.min,
        "client_max_ms": run.summary.max,
        "server_peak_mib": watched.server.peak_bytes / _MIB,
    }


def _steps(times: ServerTimes) -> dict[str, StepTimes]:
    return {
        "preprocess": times.step("preprocess"),
        "backbone": times.backbone(),
        "students": times.step("students"),
        "map": times.step("anomaly_map"),
    }
