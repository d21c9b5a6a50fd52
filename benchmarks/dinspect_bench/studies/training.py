"""How long training takes with the teacher in every step, and with its tokens computed once.

The same machine, network and images, both ways in turn: the official code's loop in PyTorch FP32,
and patch tokens by a served backbone, once per image into an FP16 cache, with all epochs on that.
The weights are random, for time does not depend on them.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from dinspect_bench.datasets.elpv import FUNCTIONAL_PROBABILITY, load_elpv
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import own_server, placed
from dinspect_bench.studies.l2bt_speed import enlarged_png
from dinspect_bench.studies.official_loop import OfficialLoop
from dinspect_bench.studies.random_weights import export_random_backbone, write_random_backbone
from dinspect_bench.studies.training_table import format_training
from dinspect_client import wire
from dinspect_export.backbone import ExportableBackbone
from dinspect_export.check_images import check_pixels
from dinspect_export.checkpoints import load_checkpoint, network_from_checkpoint
from dinspect_export.geometry import grid_from_size
from dinspect_export.token_cache import TokenCache, TokenCacheKey
from dinspect_export.training import (
    TrainingOptions,
    TrainingReport,
    fastest_precision,
    initial_students,
    train_students,
)
from dinspect_export.variants import BackboneVariant, variant_by_name

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

BATCH_IMAGES = TrainingOptions().batch_images
_STUDENT_STEPS = 3  # on the cache, each round: one alone is too short to time
_TIMEOUT_S = 300.0  # of an image; a ViT-B/14 at 1036 px takes seconds on few cores
_MAX_CACHE_BYTES = 4 << 30
_LARGEST_TOKEN_DIFFERENCE = 0.1  # BF16 stays well below it, other weights are far above
_SEED = 0


@dataclass(frozen=True)
class TrainingCase:
    """What would be trained, and how much of it is measured.

    Attributes:
        name: What the case is called in the page.
        variant_name: Backbone; its default blocks are tapped.
        side_px: Edge of its input in pixels.
        num_images: Images of the whole training.
        epochs: Of the whole training.
        num_rounds: How often both ways do one batch, after a round that does not count.
        is_measured_whole: Whether our way is also measured from the first image to the last epoch.
    """

    name: str
    variant_name: str
    side_px: int
    num_images: int
    epochs: int
    num_rounds: int
    is_measured_whole: bool

    @property
    def variant(self) -> BackboneVariant:
        """The backbone's row in the table of variants."""
        return variant_by_name(self.variant_name)

    @property
    def grid(self) -> tuple[int, int]:
        """Patch grid ``(rows, columns)``."""
        return grid_from_size(str(self.side_px), self.variant.patch_size)

    @property
    def num_measured_images(self) -> int:
        """Images whose tokens are computed at all."""
        return self.num_images if self.is_measured_whole else BATCH_IMAGES


CASES = {
    "visa": TrainingCase("A class of VisA's size", "dinov2_vitb14", 1036, 722, 50, 3, False),
    "demo": TrainingCase("The demo's product", "dinov2_vits14", 448, 32, 50, 10, True),
    "quick": TrainingCase("A trial", "dinov2_vits14", 448, 4, 10, 1, True),
}
"""Cases by name. VisA's official split has 8,659 images to train on and 12 classes, 722 each."""


@dataclass(frozen=True)
class _Ours:
    """Our way: a served backbone, and a cache of what it computed.

    Attributes:
        client: Connected to the server.
        case: What is measured.
        cache: Where the tokens go.
        images: Files of images, in the order of the cache.
    """

    client: InspectionClient
    case: TrainingCase
    cache: TokenCache
    images: Sequence[Path]

    def fill(self, indices: Sequence[int]) -> float:
        """Compute the tokens of some images, one at a time; returns seconds."""
        case, started_s = self.case, time.perf_counter()
        label = wire.grid_label(case.grid, case.variant.patch_size)
        for index in indices:
            found = self.client.patch_tokens(self.images[index], label, self.cache.key.layers)
            tokens = (torch.tensor(found.tokens[layer]) for layer in self.cache.key.layers)
            self.cache.put(index, *tokens)
        return time.perf_counter() - started_s

    def train(
        self, indices: Sequence[int], epochs: int, checkpoint: Path | None = None
    ) -> TrainingReport:
        """Train new students on some of the images."""
        options = TrainingOptions(epochs, precision=fastest_precision())
        variant, layers = self.case.variant, self.cache.key.layers
        _, report = train_students(
            self.cache, indices, variant, layers, options, checkpoint=checkpoint
        )
        return report


def run_training_study(output: Path, *, cases: Sequence[str] = ("visa", "demo")) -> str:
    """Measure the cases that are not measured yet, and write the table.

    Args:
        output: The table; its records go beside it, with the ending ``.jsonl``.
        cases: Keys of `CASES`.

    Returns:
        The table.

    Raises:
        BenchmarkError: If the two ways do not compute the same tokens. Errors of the exporter, the
            server and the client pass through.
    """
    records = RecordFile(output.with_suffix(".jsonl"))
    found = []
    for case in (CASES[name] for name in cases):
        key = asdict(case)
        record = records.find(**key)
        if record is None:
            with tempfile.TemporaryDirectory(prefix="dinspect-training-") as folder:
                record = placed(key | _measure(case, Path(folder)))
            records.append(record)
        found.append(record)
    table = format_training(found)
    write_text_atomically(output, table)
    return table


def _measure(case: TrainingCase, folder: Path) -> Record:
    from dinspect_client import InspectionClient

    images = _write_images(case, folder)
    weights = folder / "random.pth"
    write_random_backbone(weights, case.variant_name, _SEED)
    artefact = export_random_backbone(
        weights, case.variant_name, case.grid, folder / "artefacts", images[0]
    )
    official = _official_loop(case, weights)
    cache = _empty_cache(case, images, artefact.manifest.onnx_sha256, folder / "tokens")
    with (
        own_server(artefact.path.parent, "auto") as server,
        InspectionClient(
            server.grpc_url, timeout_s=_TIMEOUT_S, enroll_timeout_s=_TIMEOUT_S
        ) as client,
    ):
        # Enrolled only because a product's record tells what runs the backbone.
        backbone = client.enroll("probe", images[:2], preprocessing="informed").backbone
        ours = _Ours(client, case, cache, images)
        measured = _both_ways(official, ours, folder)
    return {
        **measured,
        "layers": list(case.variant.default_layers),
        "batch_images": BATCH_IMAGES,
        "student_steps": _STUDENT_STEPS,
        "runtime": f"{backbone.runtime} {backbone.precision}",
        "training_precision": fastest_precision(),
        "pytorch": torch.__version__,
    }


def _write_images(case: TrainingCase, folder: Path) -> list[Path]:
    """Good solar cells, each made as large as the backbone's input: both ways see their pixels."""
    cells = sorted(cell.path for cell in load_elpv() if cell.probability == FUNCTIONAL_PROBABILITY)
    images = []
    for cell in cells[: case.num_measured_images]:
        image = folder / cell.name
        image.write_bytes(enlarged_png(cell, case.side_px))
        images.append(image)
    return images


def _official_loop(case: TrainingCase, weights: Path) -> OfficialLoop:
    layers = case.variant.default_layers
    checkpoint = load_checkpoint(str(weights), case.variant_name, weights.parent)
    teacher = ExportableBackbone(
        network_from_checkpoint(checkpoint, max(layers)), case.grid, layers
    )
    return OfficialLoop(teacher, initial_students(case.variant.dim, _SEED))


def _empty_cache(
    case: TrainingCase, images: Sequence[Path], onnx_sha256: str, folder: Path
) -> TokenCache:
    digests = tuple(hashlib.sha256(image.read_bytes()).hexdigest() for image in images)
    rows, columns = case.grid
    layers, dim = case.variant.default_layers, case.variant.dim
    key = TokenCacheKey(digests, onnx_sha256, layers, rows * columns, dim)
    return TokenCache.open(folder, key, _MAX_CACHE_BYTES)


def _both_ways(official: OfficialLoop, ours: _Ours, folder: Path) -> Record:
    """A batch by one way and by the other, round after round; ours whole in their midst."""
    case = ours.case
    size = (case.side_px, case.side_px)
    batch = [torch.from_numpy(check_pixels(image, size)) for image in ours.images[:BATCH_IMAGES]]
    pixels = torch.stack(batch)
    _round(official, pixels, ours)  # what is done once only does not count
    difference = _token_difference(official, pixels[:1], ours.cache)
    rounds: list[Record] = []
    whole: Record | None = None
    for number in tqdm(range(case.num_rounds), desc=case.name, leave=False, disable=None):
        if case.is_measured_whole and number == case.num_rounds // 2:
            whole = _whole(ours, folder)
        rounds.append(_round(official, pixels, ours))
    return {"rounds": rounds, "whole": whole, "token_difference": difference}


def _round(official: OfficialLoop, pixels: torch.Tensor, ours: _Ours) -> Record:
    """Seconds per image of each part of both ways."""
    batch = range(len(pixels))
    step = official.step(pixels)
    served_s = ours.fill(batch)
    trained = ours.train(batch, _STUDENT_STEPS)
    return {
        "official_teacher_s": step.teacher_s / len(batch),
        "official_students_s": step.students_s / len(batch),
        "served_teacher_s": served_s / len(batch),
        "cached_students_s": trained.duration_s / trained.num_steps / len(batch),
    }


def _whole(ours: _Ours, folder: Path) -> Record:
    """Our way from the first image to the last epoch, its checkpoints included."""
    images = range(ours.case.num_images)
    tokens_s = ours.fill(images)
    started_s = time.perf_counter()
    report = ours.train(images, ours.case.epochs, folder / "students.safetensors")
    training_s = time.perf_counter() - started_s
    return {"tokens_s": tokens_s, "training_s": training_s, "num_steps": report.num_steps}


def _token_difference(official: OfficialLoop, pixels: torch.Tensor, cache: TokenCache) -> float:
    """How far the first image's tokens are apart by the two ways, as a share of their length.

    Raises:
        BenchmarkError: If they are not the same tokens.
    """
    pairs = zip(official.tokens(pixels), cache.read([0]), strict=True)
    difference = max(((ours - theirs).norm() / theirs.norm()).item() for theirs, ours in pairs)
    if not difference <= _LARGEST_TOKEN_DIFFERENCE:
        raise BenchmarkError(
            f"the served backbone's patch tokens are {difference:.2g} of their length away from "
            f"PyTorch's, allowed is {_LARGEST_TOKEN_DIFFERENCE}: the two ways would not train the "
            "same; run `dinspect verify` on a backbone served on this machine"
        )
    return difference
