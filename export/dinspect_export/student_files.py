"""Students from files and into files.

Two formats: the pair of ``.pth`` files that the official L2BT code writes, and one safetensors file
of ours that also says which backbone and blocks the students belong to. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dinspect_export.artefact_store import replace_file
from dinspect_export.errors import CheckpointError, InvalidGeometryError
from dinspect_export.state_fit import misfit, not_finite, some_of
from dinspect_export.students import Student, StudentPair, TrainedStudents
from dinspect_export.tensor_files import read_tensors
from dinspect_export.variants import VARIANTS, BackboneVariant, variant_by_name

OFFICIAL_VARIANT = "dinov2_vitb14_reg"
OFFICIAL_LAYERS = (8, 12)
"""Blocks the official code trains on; it counts them from zero, as 7 and 11."""

RECORD_KEY = "dinspect_students"
FORMAT_VERSION = 1
_DIRECTIONS = ("forward", "backward")


def load_students(
    forward: Path,
    backward: Path,
    *,
    variant_name: str = OFFICIAL_VARIANT,
    layers: tuple[int, int] = OFFICIAL_LAYERS,
) -> TrainedStudents:
    """Load the two files the official code writes.

    They do not say what they were trained on, and inside the two look the same: only the caller,
    and for the direction the file's name, can tell.

    Args:
        forward: ``forward_net_*.pth``, block j to k.
        backward: ``backward_net_*.pth``, block k to j.
        variant_name: Backbone they were trained on.
        layers: Its one-based blocks ``(j, k)``.

    Returns:
        The students, in evaluation mode and without gradients.

    Raises:
        CheckpointError: If a file is missing, unreadable, incomplete, of another width, not finite,
            or by its name the other direction's.
        InvalidGeometryError: If the blocks are not two of the backbone's, ascending.
        UnknownVariantError: If there is no such backbone.

    Source: `A_train_VisA.py`, `models/students.py`.
    """
    if forward.name.startswith("backward_net") or backward.name.startswith("forward_net"):
        raise CheckpointError(
            f"{forward.name} was given as the forward student and {backward.name} as the backward "
            "one; by their names it is the other way round, so swap them"
        )
    variant = variant_by_name(variant_name)
    pair = StudentPair(variant.dim)
    _load_student(pair.forward_student, read_tensors([forward]), str(forward), variant)
    _load_student(pair.backward_student, read_tensors([backward]), str(backward), variant)
    return TrainedStudents(pair.eval().requires_grad_(False), variant, layers)


def load_students_safetensors(path: Path) -> TrainedStudents:
    """Load the one file that `save_students` writes.

    Returns:
        The students, in evaluation mode and without gradients.

    Raises:
        CheckpointError: If the file is missing, unreadable, incomplete, of another width, not
            finite, or does not say which backbone and blocks it belongs to.
    """
    metadata, state = _read_safetensors(path)
    variant, layers = _read_record(metadata, path)
    by_direction: dict[str, dict[str, Tensor]] = {direction: {} for direction in _DIRECTIONS}
    for name, tensor in state.items():
        direction, _, parameter = name.partition(".")
        if direction not in by_direction:
            raise CheckpointError(
                f"{path} has {name} left over, which belongs to neither the forward nor the "
                "backward student; give a file that dinspect wrote"
            )
        by_direction[direction][parameter] = tensor
    pair = StudentPair(variant.dim)
    for direction, student in _students_by_direction(pair).items():
        _load_student(student, by_direction[direction], f"{path} ({direction})", variant)
    try:
        return TrainedStudents(pair.eval().requires_grad_(False), variant, layers)
    except InvalidGeometryError as error:
        raise CheckpointError(f"{path}: {error}") from error


def save_students(students: TrainedStudents, path: Path) -> None:
    """Write students as one safetensors file, which appears whole or not at all.

    The parameters are ``forward.input.weight`` and so on, float32, under the official code's names.
    The metadata holds the backbone, its width and the blocks as one JSON record: safetensors writes
    several entries in no fixed order, and the same students are to give the same bytes.

    Args:
        students: What to write.
        path: Target file; an earlier one is replaced.

    Raises:
        CheckpointError: If a weight is not finite; an earlier file then stays.
        StorageError: If the file cannot be written; an earlier file then stays.
    """
    state = {
        f"{direction}.{name}": tensor.detach().float().cpu().contiguous()
        for direction, student in _students_by_direction(students.pair).items()
        for name, tensor in student.state_dict().items()
    }
    _require_finite(state, f"not writing {path}")
    record = json.dumps(_record(students.variant, students.layers), sort_keys=True)
    content = save(state, metadata={RECORD_KEY: record})
    replace_file(path, content)


def _students_by_direction(pair: StudentPair) -> dict[str, Student]:
    return dict(zip(_DIRECTIONS, (pair.forward_student, pair.backward_student), strict=True))


def _load_student(
    student: Student, state: Mapping[str, Tensor], source: str, variant: BackboneVariant
) -> None:
    """Load weights whose names and shapes are exactly the student's and whose values are finite."""
    expected = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}
    wrong = misfit(state, expected)
    if wrong:
        raise CheckpointError(
            f"{source} is not a student of {variant.name}{_guess_variants(state, variant)}: {wrong}"
        )
    _require_finite(state, source)
    student.load_state_dict(dict(state), strict=True)


def _guess_variants(state: Mapping[str, Tensor], variant: BackboneVariant) -> str:
    """Name the backbones of a student's width, where it is another, as a clause for a message."""
    widths = {size for name in state if name == "input.bias" for size in state[name].shape[:1]}
    names = [other.name for other in VARIANTS.values() if {other.dim} == widths - {variant.dim}]
    return f" (it is as wide as the tokens of {', '.join(names)})" if names else ""


def _require_finite(state: Mapping[str, Tensor], subject: str) -> None:
    broken = not_finite(state)
    if broken:
        raise CheckpointError(
            f"{subject}: NaN or infinity in {some_of(broken)}; the training diverged or the file "
            "is damaged, so take other weights"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read {path} as students in safetensors "
            f"(missing, truncated, or another format?): {error}"
        ) from error


def _record(variant: BackboneVariant, layers: tuple[int, int]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "variant": variant.name,
        "dim": variant.dim,
        "layers": list(layers),
    }


def _read_record(
    metadata: Mapping[str, str], path: Path
) -> tuple[BackboneVariant, tuple[int, int]]:
    text = metadata.get(RECORD_KEY, "nothing")
    with contextlib.suppress(KeyError, TypeError, ValueError):
        record = json.loads(text)
        variant = VARIANTS[record["variant"]]
        j, k = (int(layer) for layer in record["layers"])
        if record == _record(variant, (j, k)):
            return variant, (j, k)
    raise CheckpointError(
        f"{path} says of its students {text}, expected a record of format {FORMAT_VERSION} under "
        f"{RECORD_KEY!r} with a published backbone, its width and two blocks; give a file that "
        "dinspect wrote"
    )
