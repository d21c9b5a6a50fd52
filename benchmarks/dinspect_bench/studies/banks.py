"""How a request's time and accuracy depend on the memory bank: few-shot against full-shot.

All banks are enrolled on one server and measured in turn, round after round, so that what the
machine does meanwhile hits all of them alike. Times of steps are Triton's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dinspect_bench.accuracy.image_metrics import image_auroc
from dinspect_bench.datasets.elpv import load_elpv, split_cells
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.latency.single_stream import SingleStreamRun, measure_single_stream
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import bank_of, own_server, placed

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.results import Inspection

SMALL, LARGE = 8, 200


@dataclass(frozen=True)
class BankCase:
    """One way to enrol.

    Attributes:
        product: Name it is enrolled under.
        label: Name in the table.
        num_references: Cells enrolled.
        options: Of `InspectionClient.enroll`.
    """

    product: str
    label: str
    num_references: int
    options: dict[str, Any]


def bank_cases(num_large: int) -> tuple[BankCase, ...]:
    """What is compared: few images, and many with every kind of search."""
    large = f"{num_large} images"
    return (
        BankCase("small", f"{SMALL} images", SMALL, {}),
        BankCase("exact", f"{large}, exact", num_large, {}),
        BankCase("ivf", f"{large}, inverted lists", num_large, {"search": "ivf"}),
        BankCase("coreset25", f"{large}, coreset 25 %", num_large, {"coreset_fraction": 0.25}),
        BankCase("coreset10", f"{large}, coreset 10 %", num_large, {"coreset_fraction": 0.1}),
    )


def run_bank_study(
    artefacts_dir: Path,
    output: Path,
    *,
    precisions: Sequence[str] = ("auto", "fp32"),
    num_large: int = LARGE,
    num_rounds: int = 5,
    num_samples: int = 20,
    num_held_out: int = 60,
) -> str:
    """Enrol, measure and write the table; each precision gets a server of its own.

    A precision whose records are all there is not measured again.

    Args:
        artefacts_dir: Exported artefacts, one of them for 448 x 448.
        output: The table; its records go beside it, with the ending ``.jsonl``.
        precisions: As `assemble` takes them.
        num_large: Images of the large banks.
        num_rounds: How often every bank is measured.
        num_samples: Requests per bank and round.
        num_held_out: Cells to inspect of each class.

    Returns:
        The table.
    """
    records = RecordFile(output.with_suffix(".jsonl"))
    cases = bank_cases(num_large)
    measured: list[Record] = []
    for precision in precisions:
        settings = {
            "requested_precision": precision,
            "num_large": num_large,
            "num_rounds": num_rounds,
            "num_samples_each": num_samples,
            "num_held_out": num_held_out,
        }
        found = [records.find(product=case.product, **settings) for case in cases]
        known = [record for record in found if record is not None]
        if len(known) < len(cases):
            fresh = _measure_precision(artefacts_dir, precision, cases, settings)
            known = [placed(settings | record) for record in fresh]
            for record in known:
                records.append(record)
        measured += known
    table = format_banks(measured)
    write_text_atomically(output, table)
    return table


def _measure_precision(
    artefacts_dir: Path,
    precision: str,
    cases: Sequence[BankCase],
    settings: Record,
) -> list[Record]:
    from dinspect_client import InspectionClient

    max_references = max(case.num_references for case in cases)
    num_held_out, num_samples = settings["num_held_out"], settings["num_samples_each"]
    split = split_cells(load_elpv(), "mono", 0, max_references, num_held_out, num_held_out)
    labels = [False] * num_held_out + [True] * num_held_out
    images = [path.read_bytes() for path in split.held_out]
    found = []
    with (
        own_server(artefacts_dir, precision) as server,
        InspectionClient(server.grpc_url, enroll_timeout_s=1800) as client,
    ):
        answers: dict[str, list[Inspection]] = {}
        versions = {}
        for case in tqdm(cases, desc=f"enrolling, {precision}", leave=False, disable=None):
            references = split.enrolled[: case.num_references]
            versions[case.product] = client.enroll(
                case.product, references, preprocessing="informed", **case.options
            )
            answers[case.product] = [
                client.inspect(case.product, image, with_map=False) for image in images
            ]
        runs: dict[str, list[SingleStreamRun]] = {case.product: [] for case in cases}
        for _ in tqdm(
            range(settings["num_rounds"]), desc=f"rounds, {precision}", leave=False, disable=None
        ):
            for case in cases:
                runs[case.product].append(
                    _run(client, server.grpc_url, case.product, images, num_samples)
                )
        for case in cases:
            version = versions[case.product]
            found.append(
                {
                    "case": case.label,
                    "product": case.product,
                    "precision": version.backbone.precision,
                    "search_precision": version.backbone.search_precision,
                    "num_patches": version.num_patches,
                    "auroc": image_auroc(labels, [a.anomaly_score for a in answers[case.product]]),
                    "score_error": _score_error(answers[case.product], answers["exact"]),
                    "measured_loss": version.to_dict()["scoring"]["measured_loss"],
                    **_times(runs[case.product]),
                }
            )
    return found


def _run(
    client: InspectionClient, url: str, product: str, images: list[bytes], num_samples: int
) -> SingleStreamRun:
    run = measure_single_stream(
        client,
        url,
        product,
        images,
        ensemble=bank_of(client, product).ensemble,
        num_samples=num_samples,
        num_warmup=2,
    )
    if run.server is None or run.samples.failures:
        raise BenchmarkError(
            f"product {product} could not be measured: {run.server_unavailable} "
            f"{run.samples.failures[:1]}"
        )
    return run


def _times(runs: Sequence[SingleStreamRun]) -> Record:
    """Medians over all rounds' samples, and over the rounds for what Triton tells of each."""
    samples_ms = np.concatenate([run.samples.succeeded_ns for run in runs]) / 1e6
    computes, searches = [], []
    for run in runs:
        if run.server is None:
            raise BenchmarkError("a run without the server's times cannot be used")
        steps = {step.name: step.compute_ms for step in run.server.steps}
        (search,) = (ms for name, ms in steps.items() if name.startswith("cosine_knn"))
        searches.append(search)
        computes.append(sum(steps.values()))
    return {
        "p50_ms": float(np.median(samples_ms)),
        "p90_ms": float(np.quantile(samples_ms, 0.9)),
        "search_ms": float(np.median(searches)),
        "compute_ms": float(np.median(computes)),
        "search_share": float(np.median(np.array(searches) / np.array(computes))),
        "num_samples": len(samples_ms),
    }


def _score_error(answers: Sequence[Inspection], exact: Sequence[Inspection]) -> float | None:
    """Largest change of a score, as a share of the exact one; None where references differ."""
    if answers[0].product == "small":
        return None
    return max(
        abs(a.anomaly_score / e.anomaly_score - 1) for a, e in zip(answers, exact, strict=True)
    )


def format_banks(records: Sequence[Record]) -> str:
    """The table, in Markdown."""
    num_held_out = records[0]["num_held_out"]
    rows = []
    for record in records:
        same = [r for r in records if r["requested_precision"] == record["requested_precision"]]
        small = next(r for r in same if r["product"] == "small")
        exact = next(r for r in same if r["product"] == "exact")
        error = record["score_error"]
        rows.append(
            [
                record["case"],
                f"{record['precision']} / {record['search_precision']}",
                f"{record['num_patches']:,}",
                f"{record['p50_ms']:.0f}",
                f"{record['p50_ms'] / small['p50_ms']:.2f}",
                f"{record['search_ms']:.1f}",
                f"{100 * record['search_share']:.0f} %",
                f"{record['auroc']:.4f}",
                "" if error is None else f"{record['auroc'] - exact['auroc']:+.4f}",
                "" if error is None else f"{100 * error:.2f} %",
            ]
        )
    head = [
        "memory bank",
        "backbone / search",
        "patches",
        "request p50 ms",
        f"times {SMALL} images",
        "search step ms",
        "of compute",
        "AUROC",
        "against exact",
        "largest score change",
    ]
    return (
        "# Memory banks, few-shot to full-shot\n\n"
        "A 300 x 300 PNG in, score and map out, through gRPC, ViT-S/14 at 448, one request at a "
        f"time; {records[0]['num_samples']} samples per bank, all in turn. The search step is "
        "the whole `cosine_knn` model and its share that of all steps' compute time, as Triton "
        f"counts them. AUROC of {num_held_out} functional and {num_held_out} defective "
        "monocrystalline cells, seed 0, with the demo's weights.\n\n"
        + markdown_table(head, rows)
        + f"\nMeasured by `dinspect study banks` on {measured_on(records)}\n"
    )
