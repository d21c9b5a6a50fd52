"""From good images to an L2BT product that answers: tokens, training, graph, publication.

The tokens come from the server that will inspect, so students learn from exactly what they will
see: the same preparation, backbone, engine and precision. They are computed once; the epochs run on
the cache of them. Everything a killed run had reached is taken up again by the same command.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from dinspect_client.wire import KNOWN_TOKENS, L2BT_SIGMA_PX, TrainingKey, is_product_name
from dinspect_export.artefact_store import LOCK_FILE, exclusive
from dinspect_export.cross_fit import cross_fit, measure_distances
from dinspect_export.manifest import sha256_of_file
from dinspect_export.student_files import OFFICIAL_LAYERS, OFFICIAL_VARIANT
from dinspect_export.students import DistanceOptions, TrainedStudents, known_answer
from dinspect_export.token_cache import TokenCache, TokenCacheKey
from dinspect_export.training import TrainingOptions, train_students
from dinspect_export.variants import variant_by_name
from dinspect_server.errors import TrainingInputError
from dinspect_server.served_backbones import ServedBackbone, choose_backbone, served_backbones
from dinspect_server.training_images import TrainingImages, read_images

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.versions import StudentsVersion

DEFAULT_MAX_CACHE_BYTES = 32 << 30
NUM_FOLDS = 2
ASPECT_TOLERANCE = 0.01

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
        layers: Blocks ``(j, k)``; None for the paper's, 8 and 12 of 12.
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
        activate: Whether the version is in force at once; a product's first always is.
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
    sigma_px: float = L2BT_SIGMA_PX
    thresholds: dict[str, float | None] = field(default_factory=dict)
    students: tuple[Path, ...] = ()
    work_dir: Path = Path("build/training")
    max_cache_bytes: int = DEFAULT_MAX_CACHE_BYTES
    keep: bool = False
    activate: bool = True
    operator: str | None = None
    device: str = "cpu"


def train_product(
    client: InspectionClient, url: str, plan: TrainingPlan, progress: Progress
) -> StudentsVersion:
    """Train a product's students and publish them.

    The server takes them only if its own runtime computes by them what PyTorch computed.

    Args:
        client: Connected to the server that will inspect.
        url: ``host:port`` of its gRPC endpoint.
        plan: What to do.
        progress: Shows how far it is.

    Returns:
        The version that was made.

    Raises:
        TrainingInputError: If images, sizes or names do not fit together.
        ExportError, InspectionError: From training, export and the server; nothing is published.
    """
    _check(plan)
    images = _images_of(plan)
    backbone = choose_backbone(served_backbones(url), plan.resolution, plan.layers)
    key = _cache_key(images, backbone)
    folder = plan.work_dir / f"{plan.product}-{key.sha256[:16]}"
    with exclusive(folder):  # another run of the same training goes on when this one is done
        cache = TokenCache.open(folder / "tokens", key, plan.max_cache_bytes)
        image_size = _fill(client, cache, images, backbone, progress)
        students, training = _students(plan, cache, images, backbone, folder, progress)
        calibration, distances = _good_parts(
            plan, cache, images, students, backbone, folder, progress
        )
        record = _record(plan, backbone, images, image_size, students)
        record |= {TrainingKey.TRAINING: training, TrainingKey.CALIBRATION: calibration}
        version = client.publish_students(
            plan.product,
            record,
            _export(plan, students, backbone, folder),
            save({"patch_distances": np.ascontiguousarray(distances)}),
            activate=plan.activate,
            operator=plan.operator,
        )
        if not plan.keep:
            _clear(folder, cache)
    return version


def _clear(folder: Path, cache: TokenCache) -> None:
    """Remove what a training left, but for the lock, which another run may be waiting for."""
    cache.remove()
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_FILE:
            path.unlink()


def _images_of(plan: TrainingPlan) -> TrainingImages:
    if plan.students:  # nobody knows what they were trained on
        return read_images((), plan.images + plan.good_images, min_training=NUM_FOLDS)
    return read_images(plan.images, plan.good_images, min_training=NUM_FOLDS)


def _check(plan: TrainingPlan) -> None:
    """Refuse at once what would be refused in the end."""
    if not is_product_name(plan.product):
        raise TrainingInputError(
            f"{plan.product!r} is no product name: 1-64 letters, digits, '_', '.', '-', beginning "
            "with a letter or digit"
        )
    if plan.device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingInputError(
            f"device {plan.device!r} is asked for, but this PyTorch sees no GPU; say --device cpu"
        )
    if len(plan.students) > 2:
        raise TrainingInputError(
            f"{len(plan.students)} files of students are given, expected the official code's two "
            "or one of ours"
        )


def _cache_key(images: TrainingImages, backbone: ServedBackbone) -> TokenCacheKey:
    """What the tokens depend on: whatever computes them, too."""
    computed_by = f"{backbone.onnx_sha256} {backbone.computed_by}"
    return TokenCacheKey(
        tuple(record["sha256"] for record in images.records),
        hashlib.sha256(computed_by.encode()).hexdigest(),
        backbone.pair,
        backbone.grid[0] * backbone.grid[1],
        backbone.dim,
    )


def _fill(
    client: InspectionClient,
    cache: TokenCache,
    images: TrainingImages,
    backbone: ServedBackbone,
    progress: Progress,
) -> tuple[int, int]:
    """Have the tokens that are missing computed; returns the images' size in pixels."""
    missing = cache.missing()
    # The first image is always asked for: its size is that of the product.
    first = client.patch_tokens(images.read(0), backbone.label, backbone.pair)
    height, width = first.image_size
    with progress("patch tokens", len(images.all)) as done:
        for number, index in enumerate(missing, start=len(images.all) - len(missing) + 1):
            found = first
            if index:
                found = client.patch_tokens(images.read(index), backbone.label, backbone.pair)
            _check_size(images.all[index], found.image_size, images.all[0], (height, width))
            cache.put(index, *(torch.tensor(found.tokens[layer]) for layer in backbone.pair))
            done(number)
    return height, width


def _check_size(
    path: Path, size: tuple[int, int], first: Path, first_size: tuple[int, int]
) -> None:
    ratio = (size[1] / size[0]) / (first_size[1] / first_size[0])
    if abs(ratio - 1) > ASPECT_TOLERANCE:
        raise TrainingInputError(
            f"{path} is {size[1]} x {size[0]} px, {first} is {first_size[1]} x {first_size[0]} px; "
            "a product has one camera geometry"
        )


def _students(
    plan: TrainingPlan,
    cache: TokenCache,
    images: TrainingImages,
    backbone: ServedBackbone,
    folder: Path,
    progress: Progress,
) -> tuple[TrainedStudents, dict[str, Any]]:
    """The students, trained or read, and what is recorded of how."""
    if plan.students:
        from dinspect_export.students_export import read_students

        _check_official(plan, backbone)
        students = read_students(plan.students, backbone.name, backbone.pair)
        files = {path.name: sha256_of_file(path) for path in plan.students}
        return students, {"students": files}
    with progress("training students", 0) as done:
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


def _check_official(plan: TrainingPlan, backbone: ServedBackbone) -> None:
    """The official files do not say what they belong to, and on other tokens find nothing."""
    known = (OFFICIAL_VARIANT, OFFICIAL_LAYERS)
    if len(plan.students) == 2 and plan.layers is None and (backbone.name, backbone.pair) != known:
        raise TrainingInputError(
            f"the official code trains on blocks {OFFICIAL_LAYERS[0]} and {OFFICIAL_LAYERS[1]} of "
            f"{OFFICIAL_VARIANT}, served is {backbone.name}; serve that backbone, or name the "
            "blocks with --layers if these students were trained on this one"
        )


def _good_parts(
    plan: TrainingPlan,
    cache: TokenCache,
    images: TrainingImages,
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
    with progress("cross-fit: students of each half measure the other", 0) as done:
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
    from dinspect_export.manifest import MODEL_FILE
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
    images: TrainingImages,
    image_size: tuple[int, int],
    students: TrainedStudents,
) -> dict[str, Any]:
    """What ``training.json`` says, but for training and calibration."""
    num_training = len(images.training)
    step, width = KNOWN_TOKENS
    thresholds = (
        TrainingKey.FALSE_POSITIVE_RATE,
        TrainingKey.UNDECIDED_RATE,
        TrainingKey.THRESHOLD,
        TrainingKey.NORMAL_BELOW,
    )
    return {
        TrainingKey.IMAGE_SIZE: list(image_size),
        TrainingKey.GRID: list(backbone.grid),
        TrainingKey.LAYERS: list(backbone.pair),
        TrainingKey.DIM: backbone.dim,
        TrainingKey.BACKBONE_SHA256: backbone.onnx_sha256,
        TrainingKey.DISTANCE: {key: value.value for key, value in asdict(plan.distance).items()},
        TrainingKey.SMOOTHING: plan.smoothing,
        TrainingKey.SIGMA_PX: plan.sigma_px,
        TrainingKey.KNOWN_ANSWER: known_answer(
            students, backbone.grid, plan.distance, step=step, width=width
        ),
        TrainingKey.REFERENCES: images.records[:num_training],
        TrainingKey.GOOD_IMAGES: images.records[num_training:],
        **{key: plan.thresholds.get(key) for key in thresholds},
    }
