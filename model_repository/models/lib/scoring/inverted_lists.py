"""Approximate nearest-neighbour search: only the lists of rows nearest to a query are compared.

The rows of a bank are put into lists by their nearest centroid (FAISS IVF, the inverted file of
Sivic and Zisserman 2003); a query visits the lists of the nearest `num_probes` centroids. A row
that is missed can only make a distance larger, so an approximate score errs towards the alarm.

It pays where a processor has no matrix units: with AVX512-BF16 it was four times as fast as the
exact search of `nearest_neighbours` in 204,800 rows, with AMX no faster. What comes from a file is
rows and centroids; FAISS's own format is not read, and the lists are made again whenever a bank is
loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearest_neighbours import check_bank
from refusals import InspectionRefused

_LEAST_ROWS_PER_LIST = 39
"""FAISS warns of a worse clustering below this."""
_SAMPLE_PER_LIST = 40
_ITERATIONS = 10
_BLOCK_ROWS = 16384
# Measured: FAISS keeps a row once, in lists that grow by doubling, with its number of 8 bytes.
_SPARE_ROOM = 1.4
_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_FAISS_BYTES = 8_000_000


def default_num_lists(num_rows: int) -> int:
    """Lists for a bank: the power of two nearest to ``4 sqrt(M)``, unless they were too short.

    Source: FAISS, "Guidelines to choose an index": between 4 and 16 sqrt(M).
    """
    power = 2 ** round(np.log2(4.0 * np.sqrt(num_rows)))
    return max(min(power, num_rows // _LEAST_ROWS_PER_LIST), 1)


def lists_size_bytes(num_rows: int, dim: int, precision: str, num_lists: int) -> int:
    """Memory that inverted lists will keep resident, estimated within a quarter."""
    rows = num_rows * (dim * _ITEM_BYTES[precision] + 8)
    return int(_SPARE_ROOM * rows) + num_lists * dim * 4 + _FAISS_BYTES


def train_centroids(bank: NDArray[np.float32], num_lists: int, seed: int) -> NDArray[np.float32]:
    """Centroids of a bank by spherical k-means over a sample of its rows.

    Args:
        bank: ``(M, D)`` float32 unit vectors; may be a memory map.
        num_lists: Centroids, L.
        seed: Of the sample and of the first centroids; the same seed gives the same centroids.

    Returns:
        ``(L, D)`` float32 unit vectors.

    Raises:
        ValueError: If L is not in 1..M.
        InspectionRefused: If FAISS is not installed.
    """
    if not 1 <= num_lists <= len(bank):
        raise ValueError(f"cannot make {num_lists} lists of {len(bank)} rows")
    faiss = _import_faiss()
    count = min(len(bank), num_lists * _SAMPLE_PER_LIST)
    rows = np.random.default_rng(seed).choice(len(bank), count, replace=False)
    kmeans = faiss.Kmeans(
        bank.shape[1],
        num_lists,
        niter=_ITERATIONS,
        seed=seed,
        spherical=True,
        # The sample is drawn above; FAISS shall neither thin it out nor warn that it is small.
        min_points_per_centroid=1,
        max_points_per_centroid=count,
    )
    kmeans.train(bank[np.sort(rows)])
    return np.array(kmeans.centroids, dtype=np.float32)


class InvertedLists:
    """Nearest neighbours in one memory bank, approximately.

    Args:
        bank: ``(M, D)`` float32 unit vectors, M >= k; may be a memory map, of which no more than a
            block is copied at a time.
        centroids: ``(L, D)`` float32 from `train_centroids`.
        num_probes: Lists that a query visits, 1..L; see `choose_probes`.
        num_neighbours: Rows whose distances are averaged, k.
        precision: ``fp32``, ``fp16`` or ``bf16``: of the rows held; products are in float32.

    Attributes:
        num_lists: L.
        num_probes: As given; may be changed.
        size_bytes: Estimate of the memory it keeps resident.

    Raises:
        ValueError: If bank, centroids and counts do not fit together.
        InspectionRefused: If FAISS is not installed.
    """

    def __init__(
        self,
        bank: NDArray[np.float32],
        centroids: NDArray[np.float32],
        num_probes: int,
        num_neighbours: int = 1,
        precision: str = "fp32",
    ) -> None:
        check_bank(bank, num_neighbours)
        if centroids.ndim != 2 or not len(centroids) or centroids.shape[1] != bank.shape[1]:
            raise ValueError(f"centroids are {centroids.shape}, expected (L, {bank.shape[1]})")
        self.num_lists = len(centroids)
        if not 1 <= num_probes <= self.num_lists:
            raise ValueError(f"cannot visit {num_probes} of {self.num_lists} lists")
        self.num_probes = num_probes
        self._num_neighbours = num_neighbours
        self.size_bytes = lists_size_bytes(len(bank), bank.shape[1], precision, self.num_lists)
        self._faiss = _import_faiss()
        self._index = _build(self._faiss, bank, centroids, precision)

    def distances(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean cosine distance to the k nearest rows of the lists visited.

        Args:
            queries: ``(N, D)`` float32 unit vectors, any number.

        Returns:
            ``(N,)`` float32 in [0, 2].
        """
        queries = np.ascontiguousarray(queries)
        cosines, rows = self._search(queries, self.num_probes)
        # Lists may hold fewer than k rows together.
        short = (rows < 0).any(axis=1)
        if short.any():
            cosines[short], _ = self._search(queries[short], self.num_lists)
        return np.clip(1.0 - cosines, 0.0, 2.0).mean(axis=1)

    def _search(
        self, queries: NDArray[np.float32], num_probes: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Largest cosines and their row numbers, ``(N, k)`` each; number -1 is no row."""
        options = self._faiss.SearchParametersIVF(nprobe=num_probes)
        cosines, rows = self._index.search(queries, self._num_neighbours, params=options)
        return cosines, rows


def choose_probes(
    index: InvertedLists,
    queries: NDArray[np.float32],
    exact_distances: NDArray[np.float32],
    tolerance: float,
) -> int:
    """Set how many lists an index visits: doubled until it is accurate enough.

    Queries of defective parts need more than those of good ones, whose rows are in the nearest
    lists; a tolerance kept by the one says nothing of the other.

    Args:
        index: Whose `num_probes` is set.
        queries: ``(Q, D)`` float32 unit vectors.
        exact_distances: ``(Q,)`` of the exact search with as many neighbours.
        tolerance: Largest error of a distance allowed; if rounding alone exceeds it, all lists are
            visited.

    Returns:
        The number chosen.
    """
    probes = 1
    while True:
        index.num_probes = min(probes, index.num_lists)
        error = np.abs(index.distances(queries) - exact_distances).max()
        if error <= tolerance or probes >= index.num_lists:
            return index.num_probes
        probes *= 2


def _build(
    faiss: Any, bank: NDArray[np.float32], centroids: NDArray[np.float32], precision: str
) -> Any:
    num_lists, dim = centroids.shape
    centroids = np.ascontiguousarray(centroids, dtype=np.float32)
    coarse = faiss.IndexFlatIP(dim)
    coarse.add(centroids)
    if precision == "fp32":
        index = faiss.IndexIVFFlat(coarse, dim, num_lists, faiss.METRIC_INNER_PRODUCT)
    else:
        kind = getattr(faiss.ScalarQuantizer, f"QT_{precision}")
        by_residual = False
        index = faiss.IndexIVFScalarQuantizer(
            coarse, dim, num_lists, kind, faiss.METRIC_INNER_PRODUCT, by_residual
        )
    index.train(centroids)  # Nothing to train, the centroids are there; FAISS asks for the call.
    for first in range(0, len(bank), _BLOCK_ROWS):
        index.add(np.ascontiguousarray(bank[first : first + _BLOCK_ROWS]))
    return index


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise InspectionRefused(
            f"the approximate search needs FAISS, which the server cannot import ({error}); there, "
            "run: pip install 'dinspect[serve]', or faiss-cpu alone, or choose the exact search"
        ) from error
    return faiss
