"""Many products on one server: memory stays under its limit, and what a bank not loaded costs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dinspect_bench.datasets.elpv import load_elpv
from dinspect_bench.errors import BenchmarkError
from dinspect_bench.files import write_text_atomically
from dinspect_bench.machine.resident_memory import PeakMemory, model_process
from dinspect_bench.markdown import markdown_table, measured_on
from dinspect_bench.records import Record, RecordFile
from dinspect_bench.studies.common import bank_of, own_server, placed

IMAGES_EACH = 8
PREPROCESSING = "informed"
SEARCH_MODEL = "cosine_knn_448"
_MIB = 2**20
_WARMUP = 5


def run_products_study(
    artefacts_dir: Path,
    output: Path,
    *,
    num_products: int = 200,
    num_loaded: int = 20,
    num_requests: int = 1000,
    precision: str = "auto",
    seed: int = 0,
) -> str:
    """Enrol many products, inspect them at random, and write what was seen.

    Args:
        artefacts_dir: Exported artefacts, one of them for 448 x 448.
        output: The table; its record goes beside it, with the ending ``.jsonl``.
        num_products: Products of eight cells each.
        num_loaded: Banks that the memory limit holds.
        num_requests: Inspections, each of a product drawn evenly.
        precision: Of the server.
        seed: Of cells and order.

    Returns:
        The table.

    Raises:
        BenchmarkError: If no request found its bank in memory, or all did.
    """
    from dinspect_client import InspectionClient

    generator = np.random.default_rng(seed)
    good = sorted(cell.path for cell in load_elpv() if cell.probability == 0.0)
    limit = _limit_bytes(artefacts_dir, precision, good[:IMAGES_EACH], num_loaded)
    with (
        own_server(artefacts_dir, precision, limit) as server,
        InspectionClient(server.grpc_url) as client,
    ):
        names = [f"product-{index:03d}" for index in range(num_products)]
        for name in tqdm(names, desc="enrolling", unit="product", disable=None):
            chosen = generator.choice(len(good), IMAGES_EACH, replace=False)
            client.enroll(name, [good[i] for i in chosen], preprocessing=PREPROCESSING)
        images = [good[i].read_bytes() for i in generator.choice(len(good), 32, replace=False)]
        order = [names[i] for i in generator.integers(0, num_products, _WARMUP + num_requests)]
        with PeakMemory([model_process(server.process_id, SEARCH_MODEL)]) as memory:
            times, hits = _inspect(
                lambda name, index: client.inspect(name, images[index % len(images)]).latency_ms,
                order,
                num_loaded,
            )
    record = _record(times[_WARMUP:], hits[_WARMUP:], memory, limit)
    record |= {"products": num_products, "banks_in_limit": num_loaded, "requests": num_requests}
    record = placed(record)
    RecordFile(output.with_suffix(".jsonl")).append(record)
    table = format_products(record)
    write_text_atomically(output, table)
    return table


def _limit_bytes(
    artefacts_dir: Path, precision: str, references: Sequence[Path], num_loaded: int
) -> int:
    """Room for a number of banks, as a server itself reckons it."""
    from dinspect_client import InspectionClient

    with (
        own_server(artefacts_dir, precision) as server,
        InspectionClient(server.grpc_url) as client,
    ):
        client.enroll("probe", references, preprocessing=PREPROCESSING)
        return num_loaded * bank_of(client, "probe").loaded_bytes


def _inspect(
    inspect: Callable[[str, int], float],
    order: Sequence[str],
    num_loaded: int,
) -> tuple[list[float], list[bool]]:
    """Latency of each request, and whether its bank was loaded."""
    loaded: OrderedDict[str, None] = OrderedDict()
    times, hits = [], []
    for index, name in enumerate(tqdm(order, desc="inspecting", unit="image", disable=None)):
        hits.append(name in loaded)
        loaded[name] = None
        loaded.move_to_end(name)
        if len(loaded) > num_loaded:
            loaded.popitem(last=False)
        times.append(inspect(name, index))
    return times, hits


def _record(times: Sequence[float], hits: Sequence[bool], memory: PeakMemory, limit: int) -> Record:
    ms, was_loaded = np.array(times), np.array(hits)
    if not was_loaded.any() or was_loaded.all():
        raise BenchmarkError("there were no hits or no misses; ask for more requests")
    summary: Record = {}
    for name, chosen in (("hit", ms[was_loaded]), ("miss", ms[~was_loaded])):
        p50, p90, p99 = np.percentile(chosen, [50, 90, 99])
        summary |= {
            f"{name}_count": len(chosen),
            f"{name}_p50_ms": float(p50),
            f"{name}_p90_ms": float(p90),
            f"{name}_p99_ms": float(p99),
        }
    return {
        **summary,
        "limit_mib": limit / _MIB,
        "resident_before_mib": memory.before_bytes / _MIB,
        "resident_peak_mib": memory.peak_bytes / _MIB,
    }


def format_products(record: Record) -> str:
    """What was seen, in Markdown."""
    rows = [
        [
            what,
            f"{record[f'{name}_count']}",
            *(f"{record[f'{name}_{p}_ms']:.0f}" for p in ("p50", "p90", "p99")),
        ]
        for name, what in (("hit", "bank in memory"), ("miss", "bank loaded first"))
    ]
    grown = record["resident_peak_mib"] - record["resident_before_mib"]
    return (
        "# Many products on one server\n\n"
        f"{record['products']} products of {IMAGES_EACH} solar cells each (8,192 patches), "
        f"{record['requests']} inspections of products drawn evenly, under a memory limit that "
        f"holds {record['banks_in_limit']} banks ({record['limit_mib']:.0f} MiB). "
        "No request failed.\n\n"
        + markdown_table(["request", "count", "p50 ms", "p90 ms", "p99 ms"], rows)
        + f"\nThe process that searches took {record['resident_before_mib']:.0f} MiB before the "
        f"first inspection and {record['resident_peak_mib']:.0f} MiB at most, "
        f"{grown:.0f} MiB more.\n\n"
        f"Measured by `dinspect study products` on {measured_on([record])}\n"
    )
