"""From good images to an L2BT product that answers: tokens, training, graph, publication, proof.

The tokens come from the server that will inspect, so students learn from exactly what they will
see: the same preparation, backbone, engine and precision. They are computed once; the epochs run on
the cache of them. Everything a killed run had reached is taken up again by the same command.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client.wire import Method, TrainingKey
from dinspect_export.cross_fit import cross_fit, measure_distances
from dinspect_export.students import DistanceOptions, StudentDistance, TrainedStudents
from dinspect_export.token_cache import TokenCache, TokenCacheKey
from dinspect_export.training import TrainingOptions, train_students
from dinspect_export.variants import variant_by_name
from dinspect_server.errors import PublicationError, TrainingInputError
from dinspect_server.served_backbones import ServedBackbone, choose_backbone, served_backbones

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.versions import StudentsVersion

DEFAULT_MAX_CACHE_BYTES = 32 << 30
NUM_FOLDS = 2
ASPECT_TOLERANCE = 0.01
TOLERANCE = {"fp16": 0.02, "bf16": 0.05}
"""Largest difference of a served distance to PyTorch's, relative to the largest, where students are
served in that precision by name."""
_FP32_TOLERANCE = 1e-3

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
"""Opens a display of a stage with so many steps; what it gives is told how many are done."""


@dataclass(frozen=True)
class TrainingPlan:
    """What is to be trained, and how.

    Attributes:
        product: Name of the product.
        images: Good images to train on; with ``students`` they only set the thresholds.
        good_images: Other good images, which set the thresholds. Without any, students trained on
            one half of the images measure the other half (cross-fit).
        resolution: Edge of the backbone's square input in pixels; None for the largest served.
        layers: Blocks ``(j, k)``; None for the first and last that the backbone puts out.
        options: Of the training.
        distance: How distances are computed.
        smoothing: ``gaussian`` or ``boxes``.
        sigma_px: Of the Gaussian, in pixels of the image.
        thresholds: ``threshold``, ``normal_below``, ``false_positive_rate``, ``undecided_rate``.
        students: Files of students that were trained elsewhere, instead of training: the official
            code's two, or one of ours.
        work_dir: Where the cache and the checkpoints are.
        max_cache_bytes: What the cache may take of the disk.
        keep: Whether cache and checkpoints stay after the publication.
        activate: Whether the version is in force once it has proved itself.
        operator: Who publishes.
        device: Where PyTorch trains.
    """

    product: str
    images: tuple[Path, ...]
    good_images: tuple[Path, ...] = ()
    resolution: int | None = None
    layers: tuple[int, int] | None = None
    options: TrainingOptions = field(default_factory=TrainingOptions)
    distance: DistanceOptions = field(default_factory=DistanceOptions)
    smoothing: str = "gaussian"
    sigma_px: float = 22**0.5
    thresholds: dict[str, float | None] = field(default_factory=dict)
    students: tuple[Path, ...] = ()
    work_dir: Path = Path("build/training")
    max_cache_bytes: int = DEFAULT_MAX_CACHE_BYTES
    keep: bool = False
    activate: bool = True
    operator: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class _Images:
    """The images of a plan, read once for their digests.

    Attributes:
        training: Paths of those to train on.
        calibrating: Paths of those for the thresholds only.
        records: ``name`` and ``sha256`` of each, training images first.
    """

    training: tuple[Path, ...]
    calibrating: tuple[Path, ...]
    records: list[dict[str, str]]

    @property
    def all(self) -> tuple[Path, ...]:
        """Training images, then the others: the order of the cache's indices."""
        return self.training + self.calibrating

    @property
    def training_indices(self) -> range:
        """Which of the cache's images are trained on."""
        return range(len(self.training))

    @property
    def calibrating_indices(self) -> range:
        """Which of the cache's images only set the thresholds."""
        return range(len(self.training), len(self.all))


def train_product(
    client: InspectionClient, url: str, plan: TrainingPlan, progress: Progress
) -> StudentsVersion:
    """Train a product's students, publish them, and see them answer as PyTorch does.

    Args:
        client: Connected to the server that will inspect.
        url: ``host:port`` of its gRPC endpoint.
        plan: What to do.
        progress: Shows how far it is.

    Returns:
        The version that was made.

    Raises:
        TrainingInputError: If images or sizes do not fit together.
        PublicationError: If what is served does not compute what PyTorch computes; the version is
            not put in force, and a new product is deleted again.
        ExportError, InspectionError: From training, export and the server.
    """
    images = _read_images(plan)
    backbone = choose_backbone(served_backbones(url), plan.resolution, plan.layers)
    key = TokenCacheKey(
        tuple(record["sha256"] for record in images.records),
        backbone.onnx_sha256,
        backbone.pair,
        backbone.grid[0] * backbone.grid[1],
        backbone.dim,
    )
    folder = plan.work_dir / f"{plan.product}-{key.sha256[:16]}"
    cache = TokenCache.open(folder / "tokens", key, plan.max_cache_bytes)
    image_size = _fill(client, cache, images.all, backbone, progress)
    students, training = _students(plan, cache, images, backbone, folder, progress)
    calibration, distances = _good_parts(plan, cache, images, students, backbone, folder, progress)
    graph = _export(plan, students, backbone, folder)
    record = _record(plan, backbone, images, image_size, training, calibration)
    version = _publish_proven(client, plan, students, backbone, images, (record, graph, distances))
    if not plan.keep:
        shutil.rmtree(folder)
    return version


def _read_images(plan: TrainingPlan) -> _Images:
    training, calibrating = plan.images, plan.good_images
    if plan.students:  # nobody knows what they were trained on
        training, calibrating = (), plan.images + plan.good_images
    if not training + calibrating:
        raise TrainingInputError(f"no good image of '{plan.product}', expected at least one")
    if training and not calibrating and len(training) < NUM_FOLDS:
        raise TrainingInputError(
            "a single image cannot both train students and show how good parts score; give more "
            "images, or others with --good"
        )
    records: list[dict[str, str]] = []
    names: dict[str, str] = {}
    for path in training + calibrating:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise TrainingInputError(f"cannot read {path}: {error.strerror}") from error
        if digest in names:
            raise TrainingInputError(
                f"{path} is the same file as {names[digest]}; give each image once"
            )
        names[digest] = str(path)
        records.append({"name": path.name, "sha256": digest})
    return _Images(training, calibrating, records)


def _fill(
    client: InspectionClient,
    cache: TokenCache,
    paths: Sequence[Path],
    backbone: ServedBackbone,
    progress: Progress,
) -> tuple[int, int]:
    """Have the tokens that are missing computed; returns the images' size in pixels."""
    import torch

    missing = cache.missing()
    # The first image is always asked for: its size is that of the product.
    first = client.patch_tokens(paths[0], backbone.label, backbone.pair)
    height, width = first.image_size
    with progress("patch tokens", len(paths)) as done:
        for number, index in enumerate(missing, start=len(paths) - len(missing) + 1):
            found = (
                first
                if index == 0
                else client.patch_tokens(paths[index], backbone.label, backbone.pair)
            )
            other_height, other_width = found.image_size
            ratio = (other_width / other_height) / (width / height)
            if abs(ratio - 1) > ASPECT_TOLERANCE:
                raise TrainingInputError(
                    f"{paths[index]} is {other_width} x {other_height} px, {paths[0]} is {width} x "
                    f"{height} px; a product has one camera geometry"
                )
            cache.put(index, *(torch.tensor(found.tokens[layer]) for layer in backbone.pair))
            done(number)
    return height, width


def _students(
    plan: TrainingPlan,
    cache: TokenCache,
    images: _Images,
    backbone: ServedBackbone,
    folder: Path,
    progress: Progress,
) -> tuple[TrainedStudents, dict[str, Any]]:
    """The students, trained or read, and what is recorded of how."""
    if plan.students:
        from dinspect_export.students_export import read_students

        students = read_students(plan.students, backbone.name, backbone.pair)
        return students, {"students": [path.name for path in plan.students]}
    with progress("students", 0) as done:
        students, report = train_students(
            cache,
            images.training_indices,
            variant_by_name(backbone.name),
            backbone.pair,
            plan.options,
            checkpoint=folder / "students.safetensors",
            device=plan.device,
            on_step=_telling(done),
        )
    return students, asdict(plan.options) | asdict(report)


def _good_parts(
    plan: TrainingPlan,
    cache: TokenCache,
    images: _Images,
    students: TrainedStudents,
    backbone: ServedBackbone,
    folder: Path,
    progress: Progress,
) -> tuple[str, NDArray[np.float32]]:
    """How good parts were measured, and their patch distances ``(images, rows, columns)``."""
    if images.calibrating:
        indices = images.calibrating_indices
        return "good_images", measure_distances(
            students, cache, indices, backbone.grid, plan.distance
        )
    with progress("cross-fit", 0) as done:
        return "cross_fit", cross_fit(
            cache,
            variant_by_name(backbone.name),
            backbone.pair,
            backbone.grid,
            plan.options,
            plan.distance,
            NUM_FOLDS,
            checkpoint_dir=folder,
            device=plan.device,
            on_step=_telling(done),
        )


def _telling(done: Callable[[int], object]) -> Callable[[int, int, float], None]:
    """Tells a display of percent how far the steps are."""

    def tell(step: int, num_steps: int, loss: float) -> None:
        done(100 * step // num_steps)

    return tell


def _export(
    plan: TrainingPlan, students: TrainedStudents, backbone: ServedBackbone, folder: Path
) -> Path:
    """The students' graph, held against PyTorch by ONNX Runtime."""
    from dinspect_export.manifest import MODEL_FILE, sha256_of_file
    from dinspect_export.recipes import students_recipe
    from dinspect_export.student_files import save_students
    from dinspect_export.students_export import export_students

    weights = folder / "weights.safetensors"
    save_students(students, weights)
    distance = {key: value.value for key, value in asdict(plan.distance).items()}
    recipe = students_recipe(
        plan.product,
        backbone.name,
        sha256_of_file(weights),
        backbone.grid,
        layers=backbone.pair,
        precision="fp32",
        distance=distance,
    )
    return export_students(students, "dinspect train", recipe, folder).path / MODEL_FILE


def _record(
    plan: TrainingPlan,
    backbone: ServedBackbone,
    images: _Images,
    image_size: tuple[int, int],
    training: dict[str, Any],
    calibration: str,
) -> dict[str, Any]:
    """What ``training.json`` says."""
    num_training = len(images.training)
    record: dict[str, Any] = {
        TrainingKey.IMAGE_SIZE: list(image_size),
        TrainingKey.GRID: list(backbone.grid),
        TrainingKey.LAYERS: list(backbone.pair),
        TrainingKey.DIM: backbone.dim,
        TrainingKey.BACKBONE_SHA256: backbone.onnx_sha256,
        TrainingKey.DISTANCE: {key: value.value for key, value in asdict(plan.distance).items()},
        TrainingKey.SMOOTHING: plan.smoothing,
        TrainingKey.SIGMA_PX: plan.sigma_px,
        TrainingKey.TRAINING: training,
        TrainingKey.REFERENCES: images.records[:num_training],
        TrainingKey.GOOD_IMAGES: images.records[num_training:],
        TrainingKey.CALIBRATION: calibration,
    }
    for name in (
        TrainingKey.FALSE_POSITIVE_RATE,
        TrainingKey.UNDECIDED_RATE,
        TrainingKey.THRESHOLD,
        TrainingKey.NORMAL_BELOW,
    ):
        record[name] = plan.thresholds.get(name)
    return record


def _publish_proven(
    client: InspectionClient,
    plan: TrainingPlan,
    students: TrainedStudents,
    backbone: ServedBackbone,
    images: _Images,
    made: tuple[dict[str, Any], Path, NDArray[np.float32]],
) -> StudentsVersion:
    """Publish, and put in force only what answers one of the images as PyTorch does."""
    from safetensors.numpy import save

    record, graph, distances = made
    version = client.publish_students(
        plan.product,
        record,
        graph,
        save({"patch_distances": np.ascontiguousarray(distances)}),
        activate=False,
        operator=plan.operator,
    )
    is_new = version.version == 1
    try:
        _prove(client, version, plan, students, backbone, images.all[0])
    except BaseException:
        if is_new:  # the first version of a product is in force from the beginning
            client.delete(plan.product, operator=plan.operator, method=Method.L2BT)
        raise
    if plan.activate and not is_new:
        client.activate(plan.product, version.version, operator=plan.operator, method=Method.L2BT)
    return version


def _prove(
    client: InspectionClient,
    version: StudentsVersion,
    plan: TrainingPlan,
    students: TrainedStudents,
    backbone: ServedBackbone,
    image: Path,
) -> None:
    """Hold the served distances of one image against PyTorch's on the very tokens served."""
    import torch

    tokens = client.patch_tokens(image, backbone.label, backbone.pair).tokens
    model = StudentDistance(students.pair, backbone.grid, plan.distance)
    with torch.inference_mode():
        pair = (torch.tensor(tokens[layer])[None] for layer in backbone.pair)
        expected = model(*pair)[0].numpy()
    answer = client.inspect(version.reference, image, method=Method.L2BT, with_map=False)
    worst = float(np.abs(answer.patch_distances - expected).max()) / float(expected.max())
    allowed = TOLERANCE.get(backbone.students_precision, _FP32_TOLERANCE)
    if not worst <= allowed:
        raise PublicationError(
            f"{version.reference} answers {image.name} with patch distances up to {worst:.2%} of "
            f"the largest away from PyTorch's, allowed are {allowed:.2%}; it was not put in force. "
            "The server's runtime is at fault: assemble with another --runtime or --precision"
        )
