"""The search over a memory bank, exact or approximate, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle import Bundle, Scoring
from inverted_lists import InvertedLists, lists_size_bytes
from memory_bank import MemoryBank
from nearest_neighbours import CosineSearch, search_size_bytes
from refusals import InspectionRefused


class Search(Protocol):
    """Finds the rows of one bank that are nearest to patch tokens."""

    @property
    def size_bytes(self) -> int:
        """Estimate of the memory it keeps resident."""

    def distances(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean cosine distance to the k nearest rows: ``(N, D)`` to ``(N,)``, in [0, 2]."""


def open_bank(bank: MemoryBank, scoring: Scoring, num_queries: int, precision: str) -> Search:
    """Make a bank ready to search, as its version says.

    Args:
        bank: The bank.
        scoring: Kind of search, neighbours and lists.
        num_queries: Patch tokens per image, N.
        precision: ``fp32``, ``fp16`` or ``bf16``.

    Raises:
        ValueError: If bank and scoring do not fit together, or the search is unknown.
        InspectionRefused: If FAISS is needed and not installed.
    """
    if scoring.search == "exact":
        return CosineSearch(bank.tokens, num_queries, precision, scoring.num_neighbours)
    if scoring.search != "ivf":
        raise ValueError(f"'{scoring.search}' is no search, choose exact or ivf")
    if bank.centroids is None:
        raise ValueError("the ivf search needs centroids")
    return InvertedLists(
        bank.tokens, bank.centroids, scoring.num_probes, scoring.num_neighbours, precision
    )


@dataclass(frozen=True)
class ServerLimits:
    """What decides whether a version can answer on this server.

    Attributes:
        onnx_sha256: Digests of the backbones it runs.
        precision: Of its search.
        max_bytes: Memory for loaded banks.
    """

    onnx_sha256: frozenset[str]
    precision: str
    max_bytes: int

    def needed_bytes(self, bundle: Bundle) -> int:
        """Memory that a version's bank takes when loaded.

        Raises:
            InspectionRefused: If the limit is lower, or no such backbone runs here.
        """
        needed = bank_size_bytes(
            bundle.num_patches, bundle.dim, self.precision, bundle.scoring.num_lists
        )
        what = f"version {bundle.version} of product '{bundle.product}'"
        if bundle.backbone["onnx_sha256"] not in self.onnx_sha256:
            raise InspectionRefused(
                f"{what} was enrolled with backbone {bundle.backbone['onnx_sha256'][:12]}, this "
                f"server has {', '.join(sorted(one[:12] for one in self.onnx_sha256))}; export and "
                "assemble that backbone, or enrol the product here"
            )
        if needed > self.max_bytes:
            raise InspectionRefused(
                f"the memory bank of {what} has {bundle.num_patches} patches and needs {needed} "
                f"bytes when loaded, the server allows {self.max_bytes}; enrol fewer references, a "
                "smaller 'coreset_fraction', or assemble with a larger --max-bank-bytes"
            )
        return needed


def bank_size_bytes(num_rows: int, dim: int, precision: str, num_lists: int = 0) -> int:
    """Memory that `open_bank` will keep resident, estimated within a quarter.

    Args:
        num_rows: Rows of the bank, M.
        dim: Length of a row, D.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        num_lists: Centroids of the ``ivf`` search, 0 for the exact one.
    """
    if num_lists:
        return lists_size_bytes(num_rows, dim, precision, num_lists)
    return search_size_bytes(num_rows, dim, precision)
