"""A folder without references: how well mutual scoring ranks it, in which memory and time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dinspect_bench.accuracy.image_metrics import image_auroc
from dinspect_bench.datasets.elpv import load_elpv, split_cells
from dinspect_bench.files import write_text_atomically
from dinspect_bench.machine.resident_memory import PeakMemory, server_processes
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import own_server, placed

KINDS = ("mono", "poly")
NUM_IMAGES = 300
DEFECTIVE_SHARE = 0.2
_MIB = 2**20


def run_zero_shot_study(
    artefacts_dir: Path,
    output: Path,
    *,
    kinds: tuple[str, ...] = KINDS,
    num_images: int = NUM_IMAGES,
    precision: str = "auto",
    seed: int = 0,
) -> str:
    """Score folders of cells, a fifth of them defective, and write what was seen.

    A folder whose record is there already is not scored again.

    Args:
        artefacts_dir: Exported artefacts, one of them for 448 x 448.
        output: The table; its records go beside it, with the ending ``.jsonl``.
        kinds: Kinds of solar modules, each a folder of its own.
        num_images: Images of each.
        precision: Of the server's backbone; mutual scoring is in FP32.
        seed: Of the draw.

    Returns:
        The table.
    """
    records = RecordFile(output.with_suffix(".jsonl"))
    found = []
    for kind in tqdm(kinds, desc="folders", leave=False, disable=None):
        key = {"kind": kind, "images": num_images, "seed": seed}
        record = records.find(**key)
        if record is None:
            record = placed(key | _measure(artefacts_dir, kind, num_images, precision, seed))
            records.append(record)
        found.append(record)
    table = format_zero_shot(found)
    write_text_atomically(output, table)
    return table


def _measure(artefacts_dir: Path, kind: str, num_images: int, precision: str, seed: int) -> Record:
    from dinspect_client import InspectionClient

    num_defective = round(DEFECTIVE_SHARE * num_images)
    cells = load_elpv()
    split = split_cells(cells, kind, seed, 1, num_images - num_defective, num_defective)
    labels = [False] * len(split.functional) + [True] * len(split.defective)
    with (
        own_server(artefacts_dir, precision) as server,
        InspectionClient(server.grpc_url, timeout_s=600) as client,
    ):
        # A first pair, so that what is loaded on first use belongs to the model's own memory.
        (warm_up, _) = client.zero_shot(split.functional[:2])
        started, first_answer_s, scores = time.monotonic(), 0.0, []
        with PeakMemory(server_processes(server.process_id)) as memory:
            for answer in client.zero_shot(split.held_out):
                first_answer_s = first_answer_s or time.monotonic() - started
                scores.append(answer.anomaly_score)
        total_s = time.monotonic() - started
    return {
        "defective": num_defective,
        "auroc": image_auroc(labels, scores),
        "total_s": total_s,
        "first_answer_s": first_answer_s,
        "memory_before_mib": memory.before_bytes / _MIB,
        "memory_above_mib": (memory.peak_bytes - memory.before_bytes) / _MIB,
        "runtime": f"{warm_up.backbone.runtime} {warm_up.backbone.precision}",
    }


def format_zero_shot(records: Sequence[Record]) -> str:
    """The table, in Markdown."""
    rows = [
        [
            f"solar-{record['kind']}",
            f"{record['images']} ({record['defective']})",
            f"{record['auroc']:.3f}",
            f"{record['first_answer_s']:.0f}",
            f"{1e3 * record['total_s'] / record['images']:.0f}",
            f"{record['memory_before_mib']:.0f}",
            f"{record['memory_above_mib']:.0f}",
        ]
        for record in records
    ]
    head = [
        "folder",
        "images (defective)",
        "AUROC",
        "s until the first answer",
        "ms per image, all told",
        "server before, MiB",
        "at most above, MiB",
    ]
    return (
        "# Without references: batched zero-shot\n\n"
        "Each cell scored against all others of its folder (AnomalyDINO, Appendix D, alpha = 0.1 "
        "%), through gRPC, ViT-S/14 at 448; one image in five is defective, no label is used. "
        "Memory is resident memory of the server and all its models together, looked at every "
        f"20 ms; the backbone ran in {records[0]['runtime']}, scoring in FP32. The weights are the "
        "demo's.\n\n"
        + markdown_table(head, rows)
        + f"\nMeasured by `dinspect study zero-shot` on {measured_on(records)}\n"
    )
