"""Exact nearest-neighbour search by cosine distance, compiled for one memory bank.

The search is one OpenVINO graph per bank: the bank is cut into chunks that stay in cache, each
chunk is a matrix product whose bias is 1 and whose matrix is the negated bank, so the product
itself puts out ``1 - cosine``. That is more than a trick for speed: what is rounded to FP16 or BF16
at the end is then the small distance and not a cosine near 1, which keeps the error of a distance
near 1e-4 in FP16, without computing the winners again.

Source: AnomalyDINO's patch distance, the mean of ``1 - cos`` over the k nearest rows of the bank,
k = 1 in the paper (Equation 3); the authors use FAISS on unit vectors (`src/detection.py`), whose
halved squared L2 distance is the same number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 1024
_FOLD = 16
"""Columns that a top-k is first taken over side by side, so that it uses vector units."""
_ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
# Measured: OpenVINO keeps a chunk's rows twice, as given and as packed for its kernels.
_COPIES = 2
_CHUNK_BYTES = 150_000
_GRAPH_BYTES = 12_000_000


def offered_precisions() -> tuple[str, ...]:
    """Precisions that this processor has units for, the fastest first.

    FP16 comes last: on a processor with units for all of them OpenVINO searched in it at 1.5 times
    the time of FP32 and 4 times that of BF16 (docs/precision.md).

    Without FP16 units OpenVINO computes in BF16 where FP16 is asked for, eight times coarser and
    without a word; so what is not offered is not used.
    """
    import openvino

    units = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name in ("bf16", "fp32", "fp16") if name.upper() in units)


def search_precision(requested: str) -> str:
    """The precision to search in.

    Args:
        requested: ``fp32``, ``fp16`` or ``bf16``, which is taken where this processor has units
            for it and else is ``fp32``; or ``auto`` for the fastest there is.
    """
    offered = offered_precisions()
    if requested == "auto":
        return offered[0]
    return requested if requested in offered else "fp32"


def search_size_bytes(num_rows: int, dim: int, precision: str) -> int:
    """Memory that a compiled search will keep resident, estimated within a quarter.

    Args:
        num_rows: Rows of the bank, M.
        dim: Length of a row, D.
        precision: ``fp32``, ``fp16`` or ``bf16``.
    """
    return _size_bytes(num_rows, dim, precision, -(-num_rows // CHUNK_ROWS))


def _size_bytes(num_rows: int, dim: int, precision: str, num_chunks: int) -> int:
    rows = num_rows * dim * _ITEM_BYTES[precision]
    return _COPIES * rows + num_chunks * _CHUNK_BYTES + _GRAPH_BYTES


def unit_vectors(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale tokens to length 1.

    Args:
        tokens: ``(..., D)`` float32.

    Raises:
        ValueError: If a token is zero or not finite, and so has no direction.
    """
    length = np.linalg.norm(tokens, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise ValueError("a patch token is zero or not finite; the backbone is broken")
    return tokens / length


def unit_tokens(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale an image's patch tokens to length 1.

    Args:
        tokens: ``(N, D)`` float32 as the backbone puts them out.

    Raises:
        ValueError: If a token is zero or not finite, or all are the same: a backbone knows where
            its patches are, so they differ even in an empty image. One that is broken in this way
            would fill the bank with a token that it then finds in every image.
    """
    if len(tokens) > 1 and (tokens == tokens[0]).all():
        raise ValueError("all patch tokens of an image are the same; the backbone is broken")
    return unit_vectors(tokens)


class CosineSearch:
    """Nearest neighbours in one memory bank.

    Args:
        bank: ``(M, D)`` float32 unit vectors, M >= k; may be a memory map, of which no more than a
            chunk is copied at a time.
        num_queries: Patch tokens per image, N; fixed, as the product's grid is.
        precision: One of `offered_precisions`: of the products and of the rows held for them.
        num_neighbours: Rows whose distances are averaged, k.
        groups: ``(M,)`` integers that never decrease: the reference image that a row came from.
            None makes the bank one group, 0.

    Attributes:
        size_bytes: Estimate of the memory it keeps resident.

    Raises:
        ValueError: If the bank is no matrix or has fewer than k rows, the groups are not one
            ascending label per row, or this processor has no units for the precision.
    """

    def __init__(
        self,
        bank: NDArray[np.float32],
        num_queries: int,
        precision: str = "fp32",
        num_neighbours: int = 1,
        groups: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        check_bank(bank, num_neighbours)
        if precision not in offered_precisions():
            raise ValueError(
                f"precision is {precision!r}, this processor has {', '.join(offered_precisions())}"
            )
        self._num_neighbours = num_neighbours
        starts = _group_starts(len(bank), groups)
        labels = np.zeros(1, np.int64)
        if groups is not None:
            labels = np.asarray(groups)[starts].astype(np.int64)
        chunks = _chunks(len(bank), starts)
        self.size_bytes = _size_bytes(len(bank), bank.shape[1], precision, len(chunks))
        self._request = _compile(bank, chunks, num_queries, precision, num_neighbours)
        # A chunk puts out one column per neighbour, or per row where it has fewer.
        widths = [min(num_neighbours, end - first) for first, end in chunks]
        chunk_groups = np.searchsorted(starts, [first for first, _ in chunks], side="right") - 1
        self._column_group = np.repeat(labels[chunk_groups], widths)  # (columns,)

    def distances(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean cosine distance to the k nearest rows.

        Args:
            queries: ``(N, D)`` float32 unit vectors.

        Returns:
            ``(N,)`` float32 in [0, 2].
        """
        return _smallest(self._columns(queries), self._num_neighbours).mean(axis=1)

    def distances_without(self, queries: NDArray[np.float32], group: int) -> NDArray[np.float32]:
        """As `distances`, leaving out the rows of one group; one that has none is no error.

        Raises:
            ValueError: If fewer than k rows remain.
        """
        others = self._columns(queries)[:, self._column_group != group]
        if others.shape[1] < self._num_neighbours:
            raise ValueError(
                f"{others.shape[1]} rows remain without group {group}, fewer than the "
                f"{self._num_neighbours} nearest to average"
            )
        return _smallest(others, self._num_neighbours).mean(axis=1)

    def _columns(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """The smallest distances to each chunk, ``(N, columns)``."""
        result = self._request.infer(np.ascontiguousarray(queries), share_inputs=True)
        # Rounding may put a perfect match below 0.
        return np.clip(result[0], 0.0, 2.0)


def check_bank(bank: NDArray[np.float32], num_neighbours: int) -> None:
    """Refuse a bank that cannot be searched.

    Raises:
        ValueError: If it is no matrix or has fewer rows than neighbours are asked for, or none are.
    """
    if num_neighbours < 1:
        raise ValueError(f"{num_neighbours} nearest rows cannot be averaged, ask for 1 or more")
    if bank.ndim != 2 or len(bank) < num_neighbours:
        raise ValueError(
            f"the bank is {bank.shape}, expected (M, D) with M at least {num_neighbours}"
        )


def _smallest(columns: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The smallest of each row in any order, ``(N, min(count, columns))``."""
    if columns.shape[1] <= count:
        return columns
    if count == 1:
        return columns.min(axis=1, keepdims=True)
    return np.partition(columns, count - 1, axis=1)[:, :count]


def _group_starts(num_rows: int, groups: NDArray[np.integer[Any]] | None) -> NDArray[np.int64]:
    """First row of each group."""
    if groups is None:
        return np.zeros(1, np.int64)
    labels = np.asarray(groups).astype(np.int64)
    if labels.shape != (num_rows,) or (np.diff(labels) < 0).any():
        raise ValueError(f"expected one group label for each of {num_rows} rows, ascending")
    return np.flatnonzero(np.r_[True, np.diff(labels) > 0])


def _chunks(num_rows: int, starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and past-last row of each chunk; no chunk has rows of two groups."""
    ends = [*starts[1:].tolist(), num_rows]
    return [
        (first, min(first + CHUNK_ROWS, end))
        for start, end in zip(starts.tolist(), ends, strict=True)
        for first in range(start, end, CHUNK_ROWS)
    ]


def _compile(
    bank: NDArray[np.float32],
    chunks: list[tuple[int, int]],
    num_queries: int,
    precision: str,
    num_neighbours: int,
) -> Any:
    import openvino
    from openvino import opset13 as ops

    # The whole graph is of the precision's own type: with FP32 constants, and even with constants
    # converted to FP32, OpenVINO would hold the bank in FP32 too, and BF16 would be slower.
    dtype = getattr(openvino.Type, _HINTS[precision])
    queries = ops.parameter([num_queries, bank.shape[1]], np.float32)
    typed = queries if precision == "fp32" else ops.convert(queries, dtype)
    nearest = []
    for first, end in chunks:
        rows = ops.constant(_rounded(-bank[first:end], precision))
        product = ops.matmul(typed, rows, False, True)  # (N, rows)
        ones = ops.constant(_rounded(np.ones((1, end - first), np.float32), precision))
        nearest.append(_nearest(ops, ops.add(product, ones), num_neighbours))
    result = ops.concat(nearest, 1) if len(nearest) > 1 else nearest[0]
    if precision != "fp32":
        result = ops.convert(result, np.float32)
    compiled = openvino.Core().compile_model(
        openvino.Model([result], [queries], "cosine_search"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"},
    )
    return compiled.create_infer_request()


def _nearest(ops: Any, distances: Any, count: int) -> Any:
    """Node of the smallest of each row: ``(N, rows)`` to ``(N, min(count, rows))``."""
    if count == 1:
        return ops.reduce_min(distances, np.array([1]), keep_dims=True)
    num_queries, num_rows = distances.get_output_shape(0)
    if num_rows % _FOLD == 0 and num_rows > count * _FOLD:
        # The k smallest are among the k smallest of each column of the folded row; 3 x as fast.
        folded = ops.reshape(distances, np.array([num_queries, -1, _FOLD]), False)
        partial = ops.topk(folded, np.int32(count), 1, "min", "none").output(0)
        distances = ops.reshape(partial, np.array([num_queries, -1]), False)
    return ops.topk(distances, np.int32(min(count, num_rows)), 1, "min", "none").output(0)


def _rounded(values: NDArray[np.float32], precision: str) -> Any:
    """Values as OpenVINO holds them, rounded to nearest."""
    if precision == "fp32":
        return np.ascontiguousarray(values)
    if precision == "fp16":
        return values.astype(np.float16)
    import openvino

    # By hand: OpenVINO's own conversion of constants to BF16 cuts half of them off.
    bits = np.ascontiguousarray(values).view(np.uint32)
    half = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    tensor = openvino.Tensor(openvino.Type.bf16, list(values.shape))
    tensor.data.view(np.uint16)[:] = half
    return tensor
