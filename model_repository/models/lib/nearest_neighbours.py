"""Exact nearest-neighbour search by cosine distance, compiled for one memory bank.

The search is one OpenVINO graph per bank: the bank is cut into chunks that stay in cache, each
chunk is a matrix product whose bias is 1 and whose matrix is the negated bank, so the product
itself puts out ``1 - cosine``. That is more than a trick for speed: what is rounded to FP16 or BF16
at the end is then the small distance and not a cosine near 1, which keeps the error of a distance
near 1e-4 in FP16, without computing the winners again.

Source: AnomalyDINO's patch distance ``min over the bank of 1 - cos``; the authors use FAISS on unit
vectors (`src/detection.py`), whose halved squared L2 distance is the same number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_ROWS = 1024
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def search_precision(requested: str) -> str:
    """The precision to search in.

    Args:
        requested: ``fp32``, ``fp16``, ``bf16``, or ``auto`` for the fastest this processor has
            units for; FP16 before BF16, whose distances are eight times coarser.
    """
    if requested != "auto":
        return requested
    import openvino

    units = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return next((name for name in ("fp16", "bf16") if name.upper() in units), "fp32")


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


class CosineSearch:
    """Nearest neighbours in one memory bank.

    Args:
        bank: ``(M, D)`` float32 unit vectors, M >= 1.
        num_queries: Patch tokens per image, N; fixed, as the product's grid is.
        precision: ``fp32``, ``fp16`` or ``bf16``: of the products, not of the bank.
        chunk_rows: Rows per chunk; one distance per query and chunk is available.

    Raises:
        ValueError: If the bank is empty or no matrix.
    """

    def __init__(
        self,
        bank: NDArray[np.float32],
        num_queries: int,
        precision: str = "fp32",
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        if bank.ndim != 2 or not len(bank):
            raise ValueError(f"the bank is {bank.shape}, expected (M, D) with M at least 1")
        self._request = _compile(bank, num_queries, precision, chunk_rows)

    def distances_per_chunk(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Smallest cosine distance to each chunk.

        Args:
            queries: ``(N, D)`` float32 unit vectors.

        Returns:
            ``(N, chunks)`` float32 in [0, 2].
        """
        result = self._request.infer(np.ascontiguousarray(queries), share_inputs=True)
        # Rounding may put a perfect match below 0.
        return np.clip(result[0], 0.0, 2.0)

    def distances(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine distance to the nearest row of the bank: ``(N, D)`` to ``(N,)``, in [0, 2]."""
        return self.distances_per_chunk(queries).min(axis=1)


def _compile(bank: NDArray[np.float32], num_queries: int, precision: str, chunk_rows: int) -> Any:
    import openvino
    from openvino import opset13 as ops

    queries = ops.parameter([num_queries, bank.shape[1]], np.float32)
    minima = []
    for first in range(0, len(bank), chunk_rows):
        chunk = bank[first : first + chunk_rows]
        product = ops.matmul(queries, ops.constant(-chunk), False, True)  # (N, chunk_rows)
        distance = ops.add(product, ops.constant(np.ones((1, len(chunk)), np.float32)))
        minima.append(ops.reduce_min(distance, np.array([1]), keep_dims=True))
    result = ops.concat(minima, 1) if len(minima) > 1 else minima[0]
    compiled = openvino.Core().compile_model(
        openvino.Model([result], [queries], "cosine_search"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"},
    )
    return compiled.create_infer_request()
