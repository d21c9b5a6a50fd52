"""What studies share: a server of their own, products on it, and what a table says of figures."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.environment import describe_environment
from dinspect_bench.records import Record
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client import InspectionClient
    from dinspect_client.products import Product
    from dinspect_server.embedded import EmbeddedTriton


def placed(record: Record) -> Record:
    """A record with the machine, the software and the commit it is measured by."""
    return record | {"environment": describe_environment()}


@contextlib.contextmanager
def own_server(
    artefacts_dir: Path, precision: str, max_bank_bytes: int | None = None
) -> Iterator[EmbeddedTriton]:
    """A real Triton with an empty store of products, gone afterwards.

    Args:
        artefacts_dir: Exported artefacts.
        precision: As `assemble` takes it.
        max_bank_bytes: Memory for loaded banks; None for the default.

    Raises:
        BenchmarkError: If the artefacts are not there.
    """
    from dinspect_server.assemble import DEFAULT_MAX_BANK_BYTES, ServingOptions, assemble
    from dinspect_server.embedded import EmbeddedTriton

    if not artefacts_dir.is_dir():
        raise BenchmarkError(
            f"there are no artefacts in {artefacts_dir}; run 'make demo', or name a folder that "
            "'dinspect export' wrote"
        )
    limit = max_bank_bytes or DEFAULT_MAX_BANK_BYTES
    with tempfile.TemporaryDirectory(prefix="dinspect-study-") as folder:
        options = ServingOptions(precision=precision, max_bank_bytes=limit)
        assemble(artefacts_dir, Path(folder), options)
        with EmbeddedTriton(Path(folder)) as server:
            yield server


def bank_of(client: InspectionClient, name: str) -> Product:
    """A product as AnomalyDINO inspects it; L2BT may inspect one of the same name.

    Raises:
        BenchmarkError: If AnomalyDINO does not inspect it.
        InspectionError: If the server has no such product.
    """
    for product in client.products(name):
        if product.method == Method.ANOMALY_DINO:
            return product
    raise BenchmarkError(f"product {name} has no memory bank; enrol it first")


def mean_std(records: Sequence[Record], key: str, digits: int = 3) -> str:
    """Mean ± standard deviation (n - 1) of a figure, for a table; a single one has no deviation."""
    values = np.array([record[key] for record in records], dtype=np.float64)
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def rise_remark(name: str, counts: Sequence[int], means: Sequence[float], unit: str) -> str:
    """One line on whether a mean AUROC rises from each number of images to the next.

    Args:
        name: What was inspected.
        counts: Numbers of images, ascending.
        means: Mean AUROC of each.
        unit: What is counted, ``shots``.
    """
    steps = list(zip(counts, counts[1:], means, means[1:], strict=False))
    flat = "; ".join(
        f"from {a} to {b} {unit} ({before:.3f} to {after:.3f})"
        for a, b, before, after in steps
        if after <= before
    )
    if not steps:
        return f"{name}: one number of {unit} does not show whether the mean AUROC rises."
    if not flat:
        return f"{name}: the mean AUROC rises with every step."
    elsewhere = ", and rises elsewhere" if any(b > a for *_, a, b in steps) else ""
    return f"{name}: the mean AUROC does not rise {flat}{elsewhere}."
