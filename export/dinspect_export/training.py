"""Training L2BT's students on the cached tokens of good images.

Everything random is a function of a seed and the number of an epoch, so a training that was killed
goes on from its checkpoint to the very weights it would have come to.

Source: Sections III-E and IV-B.2, Equation 2 and Algorithm 1 of the paper (see `students`); where
the official code's `A_train_VisA.py` differs, it decides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dinspect_export.artefact_store import replace_file
from dinspect_export.errors import CheckpointError, TrainingDivergedError, TrainingError
from dinspect_export.state_fit import misfit, not_finite, some_of
from dinspect_export.students import (
    StudentPair,
    TrainedStudents,
)
from dinspect_export.token_cache import TokenCache
from dinspect_export.variants import BackboneVariant

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16")
_BF16_UNITS = ("avx512_bf16", "amx_bf16")
CHECKPOINT_INTERVAL_S = 30.0
"""Within an epoch; one is written after each epoch in any case."""
RECORD_KEY = "dinspect_training"
FORMAT_VERSION = 1
SHORTEST_LENGTH = 1e-6
"""What shorter vectors are taken for in the loss (the official code's `CosineSimilarity`)."""
_PATCHES_AT_ONCE = 8192
"""A batch goes through the students in portions of about this size, which bounds the memory and
keeps tensors below 32 MiB: the C library hands larger ones back to the system after each use."""


@dataclass(frozen=True)
class TrainingOptions:
    """How students are trained. The defaults are the official code's.

    Attributes:
        epochs: Passes over the images.
        learning_rate: Adam's. Section IV-B.2 says 1e-3, the official code 1e-4.
        batch_images: Images per step; the last step of an epoch takes what is left.
        seed: Of the initial weights and of the order of the images.
        precision: ``fp32``, or ``bf16`` for the students' matrix products and GELUs alone: weights,
            loss and Adam stay in FP32.

    Raises:
        ValueError: If a value is impossible.
    """

    epochs: int = 50
    learning_rate: float = 1e-4
    batch_images: int = 4
    seed: int = 115
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_images": 1, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value < 2**63:
                raise ValueError(f"{name} is {value!r}, expected a whole number from {least}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate!r}, expected one above 0")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}, expected one of: {', '.join(PRECISIONS)}"
            )


def fastest_precision(device: str = "cpu") -> str:
    """The precision a device trains fastest in: ``bf16`` where it has units for it, else ``fp32``.

    Students come out alike: on real tokens the losses differed by 1e-5 after five epochs.
    """
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    units = torch.cpu.get_capabilities()
    return "bf16" if any(units.get(name) for name in _BF16_UNITS) else "fp32"


OnStep = Callable[[int, int, float], None]
"""Called after a step with its number from 1, how many there will be, and the loss of its batch."""


@dataclass(frozen=True)
class TrainingReport:
    """What a training came to; `dataclasses.asdict` of it is JSON.

    Attributes:
        epochs: Passes over the images.
        num_images: Images trained on.
        num_steps: Steps of Adam.
        first_loss: Loss of the first batch, before anything was learnt; about 2.
        final_loss: Mean over the images in the last epoch.
        duration_s: Time it took, without what a kill undid.
        precision: See `TrainingOptions`.
    """

    epochs: int
    num_images: int
    num_steps: int
    first_loss: float
    final_loss: float
    duration_s: float
    precision: str


def train_students(
    cache: TokenCache,
    indices: Sequence[int],
    variant: BackboneVariant,
    layers: tuple[int, int],
    options: TrainingOptions,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> tuple[TrainedStudents, TrainingReport]:
    """Train both students jointly, from the beginning or from where a checkpoint left off.

    The same call gives the same weights, bit for bit, on one machine with one number of threads,
    however often it was killed in between. It neither reads nor changes the global random state.

    Args:
        cache: Tokens.
        indices: Which of its images to train on; all must be good ones.
        variant: Backbone the tokens are of.
        layers: One-based blocks ``(j, k)`` the tokens are of.
        options: How to train.
        checkpoint: File that keeps the state of the training; written whole, after each epoch and
            within long ones, and left at the end, when it holds the result. One of another training
            is ignored with a warning, and replaced.
        device: Where PyTorch computes, ``cpu`` or ``cuda``.
        on_step: Called after each step and its checkpoint.

    Returns:
        The students, on the CPU, in evaluation mode and without gradients; and the report.

    Raises:
        TrainingError: If there are no indices, an image is not in the cache, or the cache holds
            tokens of other blocks or width.
        TrainingDivergedError: If the loss or a weight is no number; the last checkpoint stays.
        CheckpointError: If the checkpoint's file is there and is none.
        InvalidGeometryError: If the blocks are not two of the backbone's, ascending.
        StorageError: If the checkpoint cannot be written.
    """
    cache.require_blocks(variant, layers)
    cache.require(indices)
    if not indices:
        raise TrainingError("there are no images to train on; give at least one good one")
    students = TrainedStudents(initial_students(variant.dim, options.seed), variant, layers)
    training = _Training(students.pair.to(device), cache, indices, options)
    if checkpoint is not None:
        training.resume(checkpoint)
    saved_s = time.monotonic()
    while training.progress.num_steps < training.num_steps:
        loss = training.step()
        if training.is_between_epochs or time.monotonic() - saved_s >= CHECKPOINT_INTERVAL_S:
            training.require_numbers()
            if checkpoint is not None:
                training.save(checkpoint)
            saved_s = time.monotonic()
        if on_step is not None:
            on_step(training.progress.num_steps, training.num_steps, loss)
    students.pair.to("cpu").eval().requires_grad_(False)
    return students, training.report()


def initial_students(dim: int, seed: int) -> StudentPair:
    """Students that have learnt nothing, as PyTorch initialises linear layers by default.

    Args:
        dim: Width of a patch token.
        seed: Of a generator of their own.

    Returns:
        The students, on the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # or the layers would draw from the global generator
        pair = StudentPair(dim)
    pair.to_empty(device="cpu")
    bound = 1 / math.sqrt(dim)
    for parameter in pair.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return pair


def epoch_batches(
    indices: Sequence[int], options: TrainingOptions, epoch: int
) -> list[tuple[int, ...]]:
    """The images of each step of an epoch.

    Args:
        indices: Images to train on.
        options: Seed and size of a batch.
        epoch: Number of the epoch, from 0.

    Returns:
        Batches in which each index occurs once; the last may be smaller.
    """
    order = np.random.default_rng([options.seed, epoch]).permutation(len(indices))
    shuffled = [indices[place] for place in order]
    return [
        tuple(shuffled[start : start + options.batch_images])
        for start in range(0, len(shuffled), options.batch_images)
    ]


def cosine_loss(predicted: Tensor, actual: Tensor) -> Tensor:
    """Mean over all patches of ``1 - cos`` (Equation 2).

    Args:
        predicted: ``(..., D)`` float32.
        actual: The same shape; needs no gradient.

    Returns:
        A scalar within [0, 2].
    """
    actual = actual / torch.linalg.vector_norm(actual, dim=-1, keepdim=True).clamp_min(
        SHORTEST_LENGTH
    )
    lengths = torch.linalg.vector_norm(predicted, dim=-1).clamp_min(SHORTEST_LENGTH)
    return 1 - ((predicted * actual).sum(-1) / lengths).mean()


def _read_checkpoint(path: Path) -> tuple[str, _Progress, dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            record = json.loads((file.metadata() or {})[RECORD_KEY])
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return record["digest"], _Progress(**record["progress"]), saved
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training (or damaged): {error!r}; delete it to train "
            "anew, or give another path"
        ) from error


@dataclass
class _Progress:
    """Of a training, but for its tensors.

    Attributes:
        num_steps: Steps done; with the options they give the epoch and the place in it.
        first_loss: See `TrainingReport`.
        epoch_loss: Sum over the images so far of the epoch that runs, or ran last.
        duration_s: Time spent on these steps.
    """

    num_steps: int = 0
    first_loss: float = math.nan
    epoch_loss: float = 0.0
    duration_s: float = 0.0


class _Training:
    """Students, Adam and progress: what changes from step to step, and is in a checkpoint."""

    def __init__(
        self,
        pair: StudentPair,
        cache: TokenCache,
        indices: Sequence[int],
        options: TrainingOptions,
    ) -> None:
        self.progress = _Progress()
        self._steps_per_epoch = math.ceil(len(indices) / options.batch_images)
        self.num_steps = options.epochs * self._steps_per_epoch
        self._pair = pair
        self._cache = cache
        self._indices = indices
        self._options = options
        self._adam = torch.optim.Adam(pair.parameters(), lr=options.learning_rate, fused=True)
        for parameter in pair.parameters():  # as Adam itself does in its first step
            self._adam.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @property
    def is_between_epochs(self) -> bool:
        return self.progress.num_steps % self._steps_per_epoch == 0

    def step(self) -> float:
        """Learn from the next batch; returns its loss, which if it is no number changes nothing."""
        started_s = time.monotonic()
        epoch, place = divmod(self.progress.num_steps, self._steps_per_epoch)
        batch = epoch_batches(self._indices, self._options, epoch)[place]
        portion = max(1, _PATCHES_AT_ONCE // self._cache.key.num_patches)
        self._adam.zero_grad()
        loss = sum(
            self._add_gradients(batch[start : start + portion], len(batch))
            for start in range(0, len(batch), portion)
        )
        if not math.isfinite(loss):
            raise self._diverged(self.progress.num_steps, f"the loss is {loss}")
        self._adam.step()
        if place == 0:
            self.progress.epoch_loss = 0.0
        if self.progress.num_steps == 0:
            self.progress.first_loss = loss
        self.progress.epoch_loss += loss * len(batch)
        self.progress.num_steps += 1
        self.progress.duration_s += time.monotonic() - started_s
        return loss

    def _add_gradients(self, images: Sequence[int], batch_images: int) -> float:
        """Add a portion's share of the batch's gradients; returns its share of the loss."""
        device = next(self._pair.parameters()).device
        tokens_j, tokens_k = (tokens.to(device) for tokens in self._cache.read(images))
        forward, backward = self._pair.forward_student, self._pair.backward_student
        loss = 0.0
        # One student after the other takes half the memory; they share no gradients.
        for student, given, wanted in (
            (forward, tokens_j, tokens_k),
            (backward, tokens_k, tokens_j),
        ):
            with torch.autocast(
                device.type, torch.bfloat16, enabled=self._options.precision == "bf16"
            ):
                predicted = student(given)
            share = cosine_loss(predicted, wanted) * (len(images) / batch_images)
            share.backward()
            loss += share.item()
        return loss

    def require_numbers(self) -> None:
        """Stop where a weight or moment is none: a loss that was one can have such gradients."""
        broken = not_finite(self._state())
        if broken:
            raise self._diverged(
                self.progress.num_steps - 1, f"there is NaN or infinity in {some_of(broken)}"
            )

    def _diverged(self, step: int, what: str) -> TrainingDivergedError:
        epoch, place = divmod(step, self._steps_per_epoch)
        return TrainingDivergedError(
            f"training diverged in epoch {epoch + 1}, step {place + 1} of {self._steps_per_epoch}: "
            f"{what}, expected are numbers; give a learning rate below "
            f"{self._options.learning_rate:g}"
        )

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {name: tensor.detach().cpu() for name, tensor in self._state().items()}
        record = {"digest": self._digest(), "progress": asdict(self.progress)}
        replace_file(path, save(state, metadata={RECORD_KEY: json.dumps(record, sort_keys=True)}))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one and it is of this very training."""
        if not path.exists():
            return
        digest, progress, saved = _read_checkpoint(path)
        if digest != self._digest():
            logger.warning("%s is of another training; it is not used, and replaced", path)
            return
        state = self._state()
        wrong = misfit(saved, {name: tuple(tensor.shape) for name, tensor in state.items()})
        if wrong:
            raise CheckpointError(f"{path} is damaged: {wrong}; delete it to train anew")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        for moments in self._adam.state.values():
            moments["step"].fill_(progress.num_steps)
        self.progress = progress

    def report(self) -> TrainingReport:
        return TrainingReport(
            epochs=self._options.epochs,
            num_images=len(self._indices),
            num_steps=self.progress.num_steps,
            first_loss=self.progress.first_loss,
            final_loss=self.progress.epoch_loss / len(self._indices),
            duration_s=self.progress.duration_s,
            precision=self._options.precision,
        )

    def _digest(self) -> str:
        """Of all that decides what weights the training comes to."""
        record = {
            "format_version": FORMAT_VERSION,
            "cache": self._cache.key.sha256,
            "indices": list(self._indices),
            "options": asdict(self._options),
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()

    def _state(self) -> dict[str, Tensor]:
        """Weights and Adam's moments themselves, not copies."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._pair.named_parameters():
            state[name] = parameter
            for moment in ("exp_avg", "exp_avg_sq"):
                state[f"{name}.{moment}"] = self._adam.state[parameter][moment]
        return state
