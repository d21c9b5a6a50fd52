"""Image AUROC by the number of references, on the demo's data, through the served path.

The protocol of AnomalyDINO's few-shot tables: 1 to 16 shots over three seeds, mean and standard
deviation, here on solar cells. The cells of fewer shots are the first of those of more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from dinspect_bench.accuracy.image_metrics import counts_at_threshold, image_auroc
from dinspect_bench.datasets.elpv import DemoSplit, load_elpv, split_cells
from dinspect_bench.files import write_text_atomically
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import mean_std, own_server, placed, rise_remark
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.results import Inspection

KINDS = ("mono", "poly")
SHOTS = (1, 2, 4, 8, 16, 32)
SEEDS = (0, 1, 2)
PREPROCESSING = "informed"


def run_shots_study(
    artefacts_dir: Path,
    output: Path,
    *,
    precision: str = "auto",
    kinds: Sequence[str] = KINDS,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    num_held_out: int = 60,
    preprocessing: str = PREPROCESSING,
) -> str:
    """Measure what is not measured yet, and write the table.

    Args:
        artefacts_dir: Exported artefacts, one of them for 448 x 448.
        output: The table; its records go beside it, with the ending ``.jsonl``.
        precision: Of the server.
        kinds: Kinds of solar modules.
        shots: Numbers of references.
        seeds: Seeds of the draws.
        num_held_out: Cells to inspect of each class.
        preprocessing: Setting to enrol with; a cell is always upright, so ``informed``.

    Returns:
        The table.
    """
    records = RecordFile(output.with_suffix(".jsonl"))
    cells = load_elpv()
    with own_server(artefacts_dir, precision) as server:
        from dinspect_client import InspectionClient

        with InspectionClient(server.grpc_url) as client:
            for kind in kinds:
                for seed in seeds:
                    split = split_cells(cells, kind, seed, max(shots), num_held_out, num_held_out)
                    for count in shots:
                        key = {
                            "kind": kind,
                            "seed": seed,
                            "shots": count,
                            "held_out": num_held_out,
                            "preprocessing": preprocessing,
                        }
                        if records.find(**key) is None:
                            measured = _measure(client, split, count, preprocessing)
                            records.append(placed(key | measured))
    table = format_shots(_wanted(records.read(), kinds, shots, seeds, num_held_out, preprocessing))
    write_text_atomically(output, table)
    return table


def _measure(client: InspectionClient, split: DemoSplit, count: int, preprocessing: str) -> Record:
    """Enrol some of the split's references and inspect all it holds out."""
    product = f"solar-{split.kind}"
    version = client.enroll(product, split.enrolled[:count], preprocessing=preprocessing)
    answers = inspect_held_out(client, product, split, f"{count} shots")
    labels = held_out_labels(split)
    counts = counts_at_threshold(labels, [answer.verdict for answer in answers])
    return {
        "auroc": image_auroc(labels, [answer.anomaly_score for answer in answers]),
        "false_alarms": counts.num_false_alarms,
        "misses": counts.num_misses,
        "undecided": counts.num_undecided,
        "num_patches": version.num_patches,
        "runtime": f"{version.backbone.runtime} {version.backbone.precision}",
        "onnx_sha256": version.backbone.onnx_sha256,
    }


def inspect_held_out(
    client: InspectionClient,
    product: str,
    split: DemoSplit,
    what: str,
    method: str = Method.ANOMALY_DINO,
) -> list[Inspection]:
    """Inspect all cells that a split holds out, with progress.

    Args:
        client: Connected to a server that has the product.
        product: What they are inspected as.
        split: The cells.
        what: What the progress is called, beside product and seed.
        method: ``anomaly_dino`` or ``l2bt``.

    Returns:
        The answers, without maps, in the order of `DemoSplit.held_out`.

    Raises:
        InspectionError: If a cell cannot be inspected.
    """
    return [
        client.inspect(product, path, method=method, with_map=False)
        for path in tqdm(
            split.held_out,
            desc=f"{product}, seed {split.seed}, {what}",
            unit="cell",
            leave=False,
            disable=None,
        )
    ]


def held_out_labels(split: DemoSplit) -> list[bool]:
    """Whether each cell of `DemoSplit.held_out` is defective."""
    return [False] * len(split.functional) + [True] * len(split.defective)


def _wanted(
    records: Iterable[Record],
    kinds: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
    num_held_out: int,
    preprocessing: str,
) -> list[Record]:
    return [
        record
        for record in records
        if record["kind"] in kinds
        and record["shots"] in shots
        and record["seed"] in seeds
        and (record["held_out"], record["preprocessing"]) == (num_held_out, preprocessing)
    ]


def format_shots(records: Sequence[Record]) -> str:
    """The table with what it says, in Markdown."""
    kinds = sorted({record["kind"] for record in records})
    shots = sorted({record["shots"] for record in records})
    rows, remarks = [], []
    for kind in kinds:
        by_shots = {
            count: [r for r in records if (r["kind"], r["shots"]) == (kind, count)]
            for count in shots
        }
        means = [float(np.mean([r["auroc"] for r in by_shots[count]])) for count in shots]
        rows.append([f"solar-{kind}", "AUROC", *(mean_std(by_shots[c], "auroc") for c in shots)])
        for what, name in (
            ("false_alarms", "false alarms"),
            ("misses", "misses"),
            ("undecided", "undecided"),
        ):
            rows.append(["", name, *(mean_std(by_shots[c], what, 1) for c in shots)])
        remarks.append(rise_remark(f"solar-{kind}", shots, means, "shots"))
    seeds = sorted({record["seed"] for record in records})
    held_out = records[0]["held_out"]
    return (
        "# Accuracy by the number of references\n\n"
        f"Mean ± standard deviation (n - 1) over seeds {', '.join(map(str, seeds))}; "
        f"{held_out} functional and {held_out} defective cells inspected each time, through gRPC; "
        f"preprocessing `{records[0]['preprocessing']}`, {records[0]['runtime']}.\n"
        "The weights are the demo's, fine-tuned by their author: no figure of the paper can be "
        "expected of them.\n\n"
        + markdown_table(["product", "", *(f"{count}" for count in shots)], rows)
        + "\n"
        + "\n".join(remarks)
        + f"\n\nMeasured by `dinspect study shots` on {measured_on(records)}\n"
    )
