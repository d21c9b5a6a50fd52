"""Students as an artefact: their graph, held against PyTorch, and its record."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dinspect_export.artefact_store import staged_folder
from dinspect_export.errors import CheckpointError
from dinspect_export.manifest import (
    MODEL_FILE,
    Artefact,
    StudentsManifest,
    sha256_of_file,
    write_manifest,
)
from dinspect_export.proof import Proof
from dinspect_export.recipes import DEFAULT_BATCH, StudentsRecipe, patch_tokens_name
from dinspect_export.runtimes import Inputs, OnnxRuntimeRunner, Runner
from dinspect_export.student_files import load_students, load_students_safetensors
from dinspect_export.students import (
    PATCH_DISTANCES,
    Combination,
    DistanceOptions,
    Metric,
    Normalisation,
    StudentDistance,
    TrainedStudents,
    write_students_onnx,
)

TOP_FRACTION = 0.001
"""Share of largest values in the image score (Section IV-B.2), at least one patch here."""
_NOISE = 0.1  # of what is predicted: a distance of about 0.1 between normalised tokens


@dataclass(frozen=True)
class StudentsTolerances:
    """What a run of students must keep to, compared with PyTorch in FP32 on the same tokens.

    Attributes:
        max_distance_change: Largest change of a patch distance, relative to the largest distance.
        max_score_change: Largest relative change of an image score.
    """

    max_distance_change: float
    max_score_change: float


TOLERANCES = {
    "fp32": StudentsTolerances(max_distance_change=1e-4, max_score_change=1e-4),
    "fp16": StudentsTolerances(max_distance_change=0.01, max_score_change=0.01),
}


@dataclass(frozen=True)
class StudentsAgreement:
    """How close a run came to PyTorch in FP32 on the same tokens.

    The tokens are drawn, not taken from images, so a backbone need not be at hand to build its
    students. In each drawing one student is nearly right, as both are on a good part: it is small
    distances that show a wrong graph.

    Attributes:
        runtime: What ran.
        max_distance_change: See `StudentsTolerances`.
        max_score_change: See `StudentsTolerances`.
    """

    runtime: str
    max_distance_change: float
    max_score_change: float

    def failures(self, tolerances: StudentsTolerances) -> list[str]:
        """In words, each tolerance that is not kept; empty when all are."""
        figures = {
            "a patch distance": (self.max_distance_change, tolerances.max_distance_change),
            "an image score": (self.max_score_change, tolerances.max_score_change),
        }
        return [
            f"{what} changes by {found:.4%}, allowed is {allowed:.4%}"
            for what, (found, allowed) in figures.items()
            if not found <= allowed
        ]


class StudentsReference:
    """PyTorch's distances for drawn tokens.

    Args:
        students: The networks.
        recipe: Gives grid and distance.
    """

    def __init__(self, students: TrainedStudents, recipe: StudentsRecipe) -> None:
        model = StudentDistance(students.pair, recipe.grid, _distance_options(recipe))
        tokens = _drawn_tokens(students, recipe.grid[0] * recipe.grid[1])
        names = [patch_tokens_name(layer) for layer in recipe.layers]
        self._inputs: list[Inputs] = [dict(zip(names, pair, strict=True)) for pair in tokens]
        with torch.inference_mode():
            self._distances = [model(*map(torch.from_numpy, pair)).numpy() for pair in tokens]

    def prove(self, runner: Runner, tolerances: StudentsTolerances) -> Proof:
        """Run the same tokens elsewhere, close the runner, and tell whether it is close enough."""
        with contextlib.closing(runner):
            agreement = self.compare(runner)
        return Proof(runner.name, asdict(agreement), agreement.failures(tolerances))

    def compare(self, runner: Runner) -> StudentsAgreement:
        """Run the same tokens elsewhere and tell how far it is off."""
        distance_change, score_change = 0.0, 0.0
        for inputs, expected in zip(self._inputs, self._distances, strict=True):
            found = runner.run(inputs)[PATCH_DISTANCES]
            change = float(np.abs(found - expected).max()) / float(expected.max())
            distance_change = _worse(distance_change, change)
            score_change = _worse(score_change, abs(_score(found) / _score(expected) - 1.0))
        return StudentsAgreement(runner.name, distance_change, score_change)


def read_students(
    files: Sequence[Path], variant_name: str, layers: tuple[int, int]
) -> TrainedStudents:
    """Read students from one safetensors file of ours or the official code's two.

    Args:
        files: One ``.safetensors``, or ``forward_net_*.pth`` and ``backward_net_*.pth``.
        variant_name: Backbone they must belong to.
        layers: Blocks ``(j, k)`` they must translate.

    Raises:
        CheckpointError: If a file cannot be used or says it belongs elsewhere.
    """
    if len(files) == 2:
        return load_students(*files, variant_name=variant_name, layers=layers)
    students = load_students_safetensors(files[0])
    if (students.variant.name, students.layers) != (variant_name, layers):
        raise CheckpointError(
            f"{files[0]} holds students of {students.variant.name}, blocks "
            f"{list(students.layers)}, but {variant_name}, blocks {list(layers)}, is described"
        )
    return students


def export_students(
    students: TrainedStudents, source: str, recipe: StudentsRecipe, output_dir: Path
) -> Artefact[StudentsManifest]:
    """Write the students' graph, hold it against PyTorch, and give it its name.

    Args:
        students: The networks.
        source: Where they came from, for a person.
        recipe: What the artefact is made from.
        output_dir: Folder of artefacts; an artefact of the same name is replaced whole.

    Raises:
        CheckpointError: If a weight is beyond what the precision holds.
        ParityError: If the graph disagrees with PyTorch; nothing is written.
        StorageError: If it cannot be written; nothing of it stays.
    """
    target = output_dir / recipe.name
    tolerances = TOLERANCES[recipe.precision]
    with staged_folder(target) as folder:
        model = folder / MODEL_FILE
        options = _distance_options(recipe)
        half = recipe.precision == "fp16"
        write_students_onnx(students, model, grid=recipe.grid, options=options, half=half)
        reference = StudentsReference(students, recipe)
        proof = reference.prove(OnnxRuntimeRunner(model), tolerances).demanded_of(recipe.name)
        manifest = StudentsManifest(
            name=recipe.name,
            recipe=recipe.to_dict(),
            files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
            versions=recipe.versions,
            weights_source=source,
            weights_sha256=recipe.weights_sha256,
            precision=recipe.precision,
            opset=recipe.opset,
            batch=list(DEFAULT_BATCH),
            grid=list(recipe.grid),
            layers=list(recipe.layers),
            dim=students.variant.dim,
            variant=recipe.variant,
            proof=[proof.figures],
            tolerances=asdict(tolerances),
            product=recipe.product,
            distance=recipe.distance,
        )
        write_manifest(folder, manifest)
    return Artefact(target, manifest)


def _distance_options(recipe: StudentsRecipe) -> DistanceOptions:
    words = recipe.distance
    return DistanceOptions(
        Normalisation(words["normalisation"]),
        Metric(words["metric"]),
        Combination(words["combination"]),
    )


def _drawn_tokens(students: TrainedStudents, num_patches: int) -> list[list[NDArray[np.float32]]]:
    """Pairs of ``(1, N, D)`` tokens of blocks j and k, always the same.

    One of a pair has unit variance, as a LayerNorm leaves it; the other is what the student makes
    of it, but for some noise.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_patches, students.variant.dim)
    pairs = []
    for student in (students.pair.forward_student, students.pair.backward_student):
        given = torch.randn(shape, generator=generator)
        with torch.inference_mode():
            predicted = student(given)
        noise = torch.randn(shape, generator=generator) * predicted.std() * _NOISE
        pair = [given.numpy(), (predicted + noise).numpy()]
        pairs.append(pair if student is students.pair.forward_student else pair[::-1])
    return pairs


def _score(distances: NDArray[np.float32]) -> float:
    flat = np.sort(distances.reshape(-1).astype(np.float64))
    return float(flat[-max(int(TOP_FRACTION * flat.size), 1) :].mean())


def _worse(first: float, second: float) -> float:
    """The larger; a figure that is not a number is worse than any."""
    return float("inf") if np.isnan(first) or np.isnan(second) else max(first, second)
