"""L2BT's image AUROC by the number of images it is trained on, through the served path.

The few-shot setting of the paper's Table 3 (5, 10 and 50 images of each class), here on solar cells
and over three seeds. Students are trained and published as `dinspect train` does it, and every
held-out cell is inspected through the product's ensemble.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dinspect_bench.accuracy.image_metrics import image_auroc
from dinspect_bench.datasets.elpv import Cell, DemoSplit, load_elpv, split_cells
from dinspect_bench.files import write_text_atomically
from dinspect_bench.progress import stage_bar
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies import shots as shots_study
from dinspect_bench.studies.common import own_server, placed
from dinspect_bench.studies.l2bt_shots_table import format_l2bt_shots
from dinspect_bench.studies.shots import held_out_labels, inspect_held_out
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client import InspectionClient

KINDS = ("mono", "poly")
SHOTS = (5, 10, 32, 50)
"""The paper's, and 32, as many as the demo trains on."""
SEEDS = (0, 1, 2)
RESOLUTION_PX = 448
NUM_CALIBRATING = 8
"""Good cells that only set the thresholds, so that no students are trained for a cross-fit."""
FIRST_DRAWN = max(shots_study.SHOTS)
"""Cells drawn before those held out: as many as `studies.shots` draws, so both inspect the same."""


@dataclass(frozen=True)
class TrainingDraw:
    """Cells of one kind and seed, none of them in two roles.

    Attributes:
        split: Cells to train on, in the order of the draw, and those held out.
        calibrating: Good cells for the thresholds.
    """

    split: DemoSplit
    calibrating: tuple[Path, ...]


def draw_cells(
    cells: Iterable[Cell], kind: str, seed: int, num_training: int, num_held_out: int
) -> TrainingDraw:
    """Draw cells so that what is held out does not depend on how many are trained on.

    Args:
        cells: All cells.
        kind: Kind of solar modules.
        seed: Of the draw.
        num_training: Good cells to train on; fewer are the first of more.
        num_held_out: Cells held out of each class, those of `studies.shots`.

    Raises:
        DatasetError: If the data set holds fewer cells than asked for.
    """
    cells = list(cells)
    first = split_cells(cells, kind, seed, FIRST_DRAWN, num_held_out, num_held_out)
    num_further = max(0, num_training - FIRST_DRAWN)
    num_before = FIRST_DRAWN + num_held_out
    good = split_cells(cells, kind, seed, num_before + num_further + NUM_CALIBRATING, 0, 0).enrolled
    further, calibrating = good[num_before:-NUM_CALIBRATING], good[-NUM_CALIBRATING:]
    training = (first.enrolled + further)[:num_training]
    return TrainingDraw(replace(first, enrolled=training), calibrating)


def run_l2bt_shots_study(
    artefacts_dir: Path,
    output: Path,
    *,
    precision: str = "auto",
    kinds: Sequence[str] = KINDS,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    num_held_out: int = 60,
) -> str:
    """Train and measure what is not measured yet, and write the table.

    Args:
        artefacts_dir: Exported artefacts, one of them for 448 x 448.
        output: The table; its records go beside it, with the ending ``.jsonl``. Records of
            AnomalyDINO on the same cells are looked for beside it, in ``shots.jsonl``.
        precision: Of the server.
        kinds: Kinds of solar modules.
        shots: Numbers of images to train on.
        seeds: Seeds of the draws; students always begin with the same one.
        num_held_out: Cells to inspect of each class.

    Returns:
        The table.

    Raises:
        DatasetError: If there are not enough cells. Errors of the exporter, the server and the
            client pass through.
    """
    records = RecordFile(output.with_suffix(".jsonl"))
    keys = [
        {"kind": kind, "seed": seed, "shots": count, "held_out": num_held_out}
        for kind in kinds
        for seed in seeds
        for count in shots
    ]
    missing = [key for key in keys if records.find(**key) is None]
    if missing:
        _measure_missing(artefacts_dir, precision, missing, max(shots), records)
    found = [record for key in keys if (record := records.find(**key)) is not None]
    anomaly_dino = records_on_same_cells(output.with_name("shots.jsonl"), found)
    table = format_l2bt_shots(found, anomaly_dino)
    write_text_atomically(output, table)
    return table


def _measure_missing(
    artefacts_dir: Path,
    precision: str,
    keys: Sequence[Record],
    num_training: int,
    records: RecordFile,
) -> None:
    """Append a record for each key, all of them by one server."""
    from dinspect_client import InspectionClient

    cells = load_elpv()
    with (
        own_server(artefacts_dir, precision) as server,
        InspectionClient(server.grpc_url) as client,
    ):
        for key in tqdm(keys, desc="trainings", leave=False, disable=None):
            draw = draw_cells(cells, key["kind"], key["seed"], num_training, key["held_out"])
            measured = _measure(client, server.grpc_url, draw, key["shots"])
            records.append(placed(key | measured))


def _measure(client: InspectionClient, url: str, draw: TrainingDraw, count: int) -> Record:
    """Train students on the draw's first cells and inspect all it holds out."""
    from dinspect_export.training import TrainingOptions, fastest_precision
    from dinspect_server.student_training import TrainingPlan, train_product

    split = draw.split
    product = f"solar-{split.kind}"
    with tempfile.TemporaryDirectory(prefix="dinspect-l2bt-shots-") as folder:
        plan = TrainingPlan(
            product,
            split.enrolled[:count],
            good_images=draw.calibrating,
            resolution=RESOLUTION_PX,
            options=TrainingOptions(precision=fastest_precision()),
            work_dir=Path(folder),
            operator="study l2bt-shots",
        )
        version = train_product(client, url, plan, stage_bar)
    answers = inspect_held_out(client, product, split, f"{count} images", Method.L2BT)
    training = version.training
    return {
        "auroc": image_auroc(held_out_labels(split), [answer.anomaly_score for answer in answers]),
        "ensemble": version.ensemble,
        "num_calibrating": len(draw.calibrating),
        **{name: training[name] for name in ("epochs", "batch_images", "learning_rate")},
        **{name: training[name] for name in ("num_steps", "final_loss", "duration_s")},
        "training_precision": training["precision"],
        "runtime": f"{version.backbone.runtime} {version.backbone.precision}",
        "onnx_sha256": version.backbone.onnx_sha256,
    }


def records_on_same_cells(path: Path, found: Sequence[Record]) -> list[Record]:
    """AnomalyDINO's records that can be held against L2BT's, one by one.

    Those whose references are the images trained on, whose held-out cells are the same, and whose
    patch tokens come of the same graph.

    Args:
        path: Records of `studies.shots`; there need not be any.
        found: L2BT's.
    """
    if not path.exists():
        return []
    others = RecordFile(path).read()
    matching = []
    for record in found:
        same_draw = [
            other
            for other in others
            if all(other[name] == record[name] for name in ("kind", "seed", "held_out"))
            and other["preprocessing"] == shots_study.PREPROCESSING
        ]
        # What `studies.shots` holds out begins after the largest number of references of its run.
        if max((other["shots"] for other in same_draw), default=0) == FIRST_DRAWN:
            matching += [
                other
                for other in same_draw
                if other["shots"] == record["shots"]
                and other["onnx_sha256"] == record["onnx_sha256"]
            ][-1:]
    return matching
