"""What the study ``peers`` compares: ours served, and the peers' model of the same weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_bench.datasets.elpv import load_elpv, split_cells
from dinspect_bench.peers.images import write_jpegs
from dinspect_bench.peers.served import ServedSystem
from dinspect_bench.peers.systems import (
    PeerSystem,
    anomaly_dino_model,
    anomaly_dino_systems,
    exported_systems,
    l2bt_model,
)
from dinspect_bench.studies.common import own_server
from dinspect_bench.studies.latency_backbones import exported_backbone
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_export.checkpoints import Checkpoint

PRODUCT = "solar-mono"
NUM_REFERENCES = 8
NUM_L2BT_IMAGES = 3
_SEED = 0


@dataclass(frozen=True)
class PeerCase:
    """What is compared.

    Attributes:
        name: In the records.
        method: ``anomaly_dino`` or ``l2bt``.
        backbone: Variant of the backbone.
        side_px: Edge of images and input in pixels.
        num_rounds: Samples of each system, unless told otherwise; a multiple of the number of
            orders that `balanced_orders` makes of them.
        num_warmup: Samples of each before those.
    """

    name: str
    method: str
    backbone: str
    side_px: int
    num_rounds: int
    num_warmup: int


CASES = {
    case.name: case
    for case in (
        PeerCase("anomaly_dino_448", Method.ANOMALY_DINO, "dinov2_vits14", 448, 56, 3),
        PeerCase("l2bt_1036", Method.L2BT, "dinov2_vitb14_reg", 1036, 8, 1),
    )
}


@dataclass(frozen=True)
class Labelled:
    """Images whose truth is known.

    Attributes:
        images: Their files.
        is_defective: The truth of each.
    """

    images: list[Path]
    is_defective: list[bool]


@dataclass(frozen=True)
class PreparedCase:
    """A case that is ready, but for the peers' processes.

    Attributes:
        ours: Our system.
        runtime: What its backbone runs in.
        precision: Of its backbone.
        peers: The peers' systems.
        model: The peers' model, as their process builds it.
        images: What is inspected in turn.
        bank_patches: Rows of the memory bank, ours and theirs; None without one.
        labelled: What scores are compared on; None where weights are random.
    """

    ours: ServedSystem
    runtime: str
    precision: str
    peers: list[PeerSystem]
    model: dict[str, Any]
    images: list[Path]
    bank_patches: int | None = None
    labelled: Labelled | None = None


@contextlib.contextmanager
def prepared_anomaly_dino(
    case: PeerCase, build_dir: Path, folder: Path, precision: str, num_inspected: int
) -> Iterator[PreparedCase]:
    """AnomalyDINO with the packaged weights, eight cells in the bank of ours and of theirs.

    Args:
        case: Backbone and size.
        build_dir: Where the backbone is exported to, unless it is there.
        folder: Where images and weights for the peers go.
        precision: Of the server, as `assemble` takes it.
        num_inspected: Cells of the demo's held-out ones, of each class.
    """
    from dinspect_client import InspectionClient
    from dinspect_export.checkpoints import load_checkpoint

    split = split_cells(load_elpv(), num_functional=num_inspected, num_defective=num_inspected)
    images = folder / "images"
    references = write_jpegs(split.enrolled[:NUM_REFERENCES], case.side_px, images)
    held_out = write_jpegs(split.held_out, case.side_px, images)
    is_defective = [False] * len(split.functional) + [True] * len(split.defective)
    checkpoint = load_checkpoint("packaged", case.backbone, folder)
    weights = _write_weights(checkpoint, folder / "backbone.pth")
    model = anomaly_dino_model(weights, references, case.side_px)
    artefacts = exported_backbone(case.backbone, case.side_px, build_dir, precision)
    with (
        own_server(artefacts, precision) as server,
        InspectionClient(server.grpc_url) as client,
    ):
        # anomalib has no rotations, and what it masks it cannot export.
        version = client.enroll(
            PRODUCT,
            references,
            resolution=case.side_px,
            preprocessing="no_mask_no_rotation",
        )
        backbone = version.backbone
        yield PreparedCase(
            ours=ServedSystem(client, server.process_id, PRODUCT, case.method),
            runtime=backbone.runtime,
            precision=backbone.precision,
            peers=anomaly_dino_systems(model, folder),
            model=model,
            images=held_out,
            bank_patches=version.num_patches,
            labelled=Labelled(held_out, is_defective),
        )


@contextlib.contextmanager
def prepared_l2bt(case: PeerCase, folder: Path, precision: str) -> Iterator[PreparedCase]:
    """L2BT with random weights, the same ones in ours and in theirs.

    Args:
        case: Backbone and size.
        folder: Where images, weights and artefacts go.
        precision: Of the server, as `assemble` takes it.
    """
    from dinspect_bench.studies.l2bt_speed import PRODUCT as RANDOM_PRODUCT
    from dinspect_bench.studies.l2bt_speed import SpeedCase, served_random_students
    from dinspect_bench.studies.random_weights import write_random_backbone, write_random_students

    cells = sorted(cell.path for cell in load_elpv())[:NUM_L2BT_IMAGES]
    images = write_jpegs(cells, case.side_px, folder / "images")
    speed_case = SpeedCase(case.backbone, case.side_px, case.num_rounds, precision, _SEED)
    weights = folder / "backbone.pth"
    write_random_backbone(weights, case.backbone, _SEED)
    students = write_random_students(folder, speed_case.variant.dim, _SEED)
    model = l2bt_model(weights, students, case.side_px)
    served_folder = folder / "served"
    served_folder.mkdir()
    with served_random_students(
        speed_case, served_folder, images[0].read_bytes(), cells[0]
    ) as served:
        backbone = served.version.backbone
        yield PreparedCase(
            ours=ServedSystem(served.client, served.server.process_id, RANDOM_PRODUCT, case.method),
            runtime=backbone.runtime,
            precision=backbone.precision,
            peers=exported_systems(case.side_px),
            model=model,
            images=images,
        )


def _write_weights(checkpoint: Checkpoint, path: Path) -> Path:
    import torch

    torch.save(dict(checkpoint.state_dict), path)
    return path
