"""L2BT's students and the distance they stand for, as one graph: patch tokens in, distances out.

Two small networks learn on good images how a transformer turns the patch tokens of block j into
those of block k, and back. Where they fail, the part is unlike what they have seen.

Source: Costanzino et al., "Learning to Be a Transformer to Pinpoint Anomalies" (the paper), whose
Sections, Equations and Tables are cited below, and the authors' alex-costanzino/L2BT (the official
code), which decides where the two differ and says so here.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinspect_export.errors import CheckpointError, InvalidGeometryError
from dinspect_export.onnx_graph import write_graph
from dinspect_export.recipes import patch_tokens_name
from dinspect_export.variants import BackboneVariant

PATCH_DISTANCES = "patch_distances"
SHORTEST_LENGTH = 1e-12
"""What shorter vectors are divided by: a zero token stays zero, as in the official code."""


class Student(nn.Module):
    """Three linear layers of the backbone's width, exact (erf) GELU after the first two.

    It looks at one patch at a time. Its parameters have the official code's names.

    Args:
        dim: Width of a patch token.

    Source: Section IV-B.2 and Figure 5; `models/students.py`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.input = nn.Linear(dim, dim)
        self.projection = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the tokens of the other block.

        Args:
            tokens: ``(..., D)`` float32.

        Returns:
            The same shape, float32, not L2-normalised. Between the two casts everything runs in
            the precision of the weights.
        """
        x = tokens.to(self.input.weight.dtype)
        x = F.gelu(self.input(x))
        x = F.gelu(self.projection(x))
        return self.output(x).float()


class StudentPair(nn.Module):
    """The forward student (block j to k) and the backward student (k to j), Equation 1.

    Args:
        dim: Width of a patch token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.forward_student = Student(dim)
        self.backward_student = Student(dim)


@dataclass(frozen=True)
class TrainedStudents:
    """Students with what they were trained on; wrong combinations cannot be built.

    Attributes:
        pair: The two networks.
        variant: Backbone whose tokens they translate.
        layers: One-based blocks ``(j, k)``; 8 and 12 of a ViT-B in the paper.

    Raises:
        InvalidGeometryError: If the blocks are not two of the backbone's, ascending, or the
            networks are not as wide as its tokens.
    """

    pair: StudentPair
    variant: BackboneVariant
    layers: tuple[int, int]

    def __post_init__(self) -> None:
        j, k = self.layers
        if not 1 <= j < k <= self.variant.depth:
            raise InvalidGeometryError(
                f"layers {j} and {k} must be two ascending block numbers of {self.variant.name}, "
                f"within 1..{self.variant.depth}"
            )
        if self.pair.dim != self.variant.dim:
            raise InvalidGeometryError(
                f"students are {self.pair.dim} wide, {self.variant.name}'s tokens "
                f"{self.variant.dim}; use the backbone they were trained on"
            )


class Normalisation(Enum):
    """What happens to predicted and actual tokens before they are compared.

    `L2` scales both to length 1, as the official code does. `NONE` leaves them, as Equation 3 says.
    """

    L2 = "l2"
    NONE = "none"


class Metric(Enum):
    """Distance between a predicted and an actual token (Table 8).

    `COSINE` is ``1 - cos`` and does not depend on the normalisation.
    """

    EUCLIDEAN = "euclidean"
    COSINE = "cosine"


class Combination(Enum):
    """How the distances of a patch at blocks j and k become one (Section III-F, Table 9).

    `FORWARD` is the distance at k alone, which the forward student predicts, and `BACKWARD` the one
    at j; the other student is then not run. (Tables 7 and 9 of the paper contradict each other on
    which of the two is the better one.)
    """

    PRODUCT = "product"
    SUM = "sum"
    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True)
class DistanceOptions:
    """How patch distances are computed. The defaults are what the official code runs.

    Normalising first is the default although Equation 3 has none of it: the students are trained
    with the cosine loss of Equation 2, which does not see lengths, so the length of a prediction is
    arbitrary and must not enter the distance. With it the Euclidean distance is
    ``sqrt(2 - 2 cos)``, within [0, 2].

    Attributes:
        normalisation: Of both tokens, before the distance.
        metric: Distance of one patch at one block.
        combination: Of the two blocks' distances.

    Each may be given by its word (``"l2"``), as a file has it.

    Raises:
        ValueError: If a word is none of those; lists those that are.
    """

    normalisation: Normalisation = Normalisation.L2
    metric: Metric = Metric.EUCLIDEAN
    combination: Combination = Combination.PRODUCT

    def __post_init__(self) -> None:
        kinds = {"normalisation": Normalisation, "metric": Metric, "combination": Combination}
        for name, kind in kinds.items():
            given, words = getattr(self, name), [choice.value for choice in kind]
            if given not in (*kind, *words):
                raise ValueError(f"{name} is {given!r}, expected one of: {', '.join(words)}")
            object.__setattr__(self, name, kind(given))


DEFAULT_OPTIONS = DistanceOptions()


class StudentDistance(nn.Module):
    """Distance of every patch to what the students expect of it, for one patch grid.

    Args:
        pair: The two students; in whatever precision they are, the distance is float32.
        grid: Patch grid ``(rows, columns)``.
        options: How the distance is computed.

    Raises:
        InvalidGeometryError: If the grid is empty.

    Source: Equations 1 and 3, Algorithm 2 steps 3 to 5.
    """

    def __init__(
        self,
        pair: StudentPair,
        grid: tuple[int, int],
        options: DistanceOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__()
        if min(grid) < 1:
            raise InvalidGeometryError(f"patch grid {grid} is empty")
        self.pair = pair
        self.grid = grid
        self.options = options

    def forward(self, tokens_j: Tensor, tokens_k: Tensor) -> Tensor:
        """Compute patch distances.

        Args:
            tokens_j: ``(B, rows * columns, D)`` float32 patch tokens of block j, row-major, final
                LayerNorm applied, not L2-normalised.
            tokens_k: The same of block k.

        Returns:
            ``(B, rows, columns)`` float32, at least 0, larger is more anomalous; NaN for a token
            that is not finite. A zero vector has no direction and is compared as it is: its
            Euclidean distance to a unit vector is 1.

        Raises:
            InvalidGeometryError: If the tokens are of another grid or width.
        """
        self._require_shape(tokens_j)
        self._require_shape(tokens_k)
        combination = self.options.combination
        distances = []
        if combination is not Combination.FORWARD:
            predicted_j = self.pair.backward_student(tokens_k)
            distances.append(token_distance(predicted_j, tokens_j, self.options))
        if combination is not Combination.BACKWARD:
            predicted_k = self.pair.forward_student(tokens_j)
            distances.append(token_distance(predicted_k, tokens_k, self.options))
        combine = torch.add if combination is Combination.SUM else torch.mul
        return functools.reduce(combine, distances).unflatten(1, self.grid)

    def _require_shape(self, tokens: Tensor) -> None:
        rows, columns = self.grid
        expected = (rows * columns, self.pair.dim)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != expected:
            raise InvalidGeometryError(
                f"patch tokens are {tuple(tokens.shape)}, expected (batch, {expected[0]}, "
                f"{expected[1]}) for a grid of {rows} x {columns} patches; give the tokens of the "
                "backbone and input size the students are for"
            )


def token_distance(predicted: Tensor, actual: Tensor, options: DistanceOptions) -> Tensor:
    """Distance of corresponding tokens, by elementwise operations and sums in float32 alone.

    A matrix product would be left to the runtime's own idea of FP32 (TF32 on a GPU).

    Args:
        predicted: ``(..., D)`` float32.
        actual: The same shape.
        options: Normalisation and metric; the combination is not used.

    Returns:
        ``(...)`` float32, at least 0.

    Source: Equation 3 and Table 8; `B_infer_VisA.py`.
    """
    if options.normalisation is Normalisation.L2 or options.metric is Metric.COSINE:
        predicted, actual = _unit(predicted), _unit(actual)
    difference = predicted - actual
    squared = (difference * difference).sum(-1)
    if options.metric is Metric.COSINE:
        # |a - b|^2 / 2 of unit vectors is 1 - cos, without its cancellation and never below 0.
        return squared / 2
    return squared.sqrt()


def _unit(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(SHORTEST_LENGTH)


def known_answer(
    students: TrainedStudents,
    grid: tuple[int, int],
    options: DistanceOptions = DEFAULT_OPTIONS,
    *,
    step: float,
    width: float,
) -> list[list[float]]:
    """PyTorch's distances of tokens that can be made anew anywhere, to prove a runtime on.

    Args:
        students: The networks.
        grid: Patch grid ``(rows, columns)``.
        options: How the distance is computed.
        step: Number n of block j's tokens, and then block k's, row by row, is
            ``(n * step % 1 - 0.5) * width`` in double precision, rounded to float32.
        width: See there.

    Returns:
        The distances, row by row.
    """
    num_patches = grid[0] * grid[1]
    numbers = torch.arange(2 * num_patches * students.variant.dim, dtype=torch.float64)
    spread = (torch.remainder(numbers * step, 1.0) - 0.5) * width
    tokens_j, tokens_k = spread.float().reshape(2, 1, num_patches, students.variant.dim)
    with torch.inference_mode():
        distances = StudentDistance(students.pair, grid, options)(tokens_j, tokens_k)[0]
    answer: list[list[float]] = distances.tolist()
    return answer


def write_students_onnx(
    students: TrainedStudents,
    path: Path,
    *,
    grid: tuple[int, int],
    options: DistanceOptions = DEFAULT_OPTIONS,
    half: bool = False,
) -> None:
    """Write the graph: ``patch_tokens_<j>``, ``patch_tokens_<k>`` in, ``patch_distances`` out.

    Inputs and output are those of `StudentDistance`, float32 in either precision, batch 1..8.

    Args:
        students: The networks and the blocks whose tokens they take.
        path: Target file.
        grid: Patch grid ``(rows, columns)`` of the backbone's input.
        options: How the distance is computed.
        half: Whether the students store their weights and run in FP16. The casts are in the graph,
            and lengths and distances stay FP32, so a strongly typed runtime (TensorRT) keeps them.

    Raises:
        InvalidGeometryError: If the grid is empty.
        CheckpointError: If a weight is not finite, or beyond what FP16 holds.
    """
    pair = _copy_to_export(students.pair, torch.float16 if half else torch.float32)
    model = StudentDistance(pair, grid, options)
    rows, columns = grid
    example = torch.zeros(1, rows * columns, pair.dim)
    write_graph(
        model.eval(),
        [example, example],
        path,
        input_names=[patch_tokens_name(layer) for layer in students.layers],
        output_names=[PATCH_DISTANCES],
    )


def _copy_to_export(pair: StudentPair, dtype: torch.dtype) -> StudentPair:
    """The students on the CPU in another precision; the ones given may still be in training."""
    copied = copy.deepcopy(pair).to("cpu", dtype)
    beyond = [name for name, weight in copied.named_parameters() if not weight.isfinite().all()]
    if beyond:
        raise CheckpointError(
            f"{', '.join(beyond)}: NaN or beyond {torch.finfo(dtype).max:.6g}, the largest number "
            f"of {dtype}; write these students in FP32, or train them again if they hold NaN"
        )
    return copied
