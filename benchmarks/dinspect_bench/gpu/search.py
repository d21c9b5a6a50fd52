"""Exact nearest-neighbour search of patch tokens on a device, by PyTorch or CuPy.

The bank is cut into chunks. Of each chunk the best row is kept, by one matrix product and one
maximum, so memory stays bounded whatever the bank. In FP16 the winners' distances are computed
again in FP32: what FP16 decides is which row is nearest, not how far it is.

Source: AnomalyDINO, Equation 3 (the nearest row, k = 1, by cosine distance).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from dinspect_bench.errors import BenchmarkError, MissingDependencyError
from dinspect_export.errors import RuntimeUnavailableError

CHUNK_ROWS = 32_768
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

Search = Callable[[Tensor], Tensor]
"""``(B, N, D)`` float32 patch tokens to ``(B, N)`` float32 distances in [0, 2]."""


class TorchSearch:
    """The search by PyTorch.

    Args:
        bank: ``(M, D)`` float32 unit vectors on the device.
        precision: ``fp32`` or ``fp16``: of the products and of the rows they are made of.
        chunk_rows: Rows of the bank at once.
    """

    def __init__(self, bank: Tensor, precision: str, chunk_rows: int = CHUNK_ROWS) -> None:
        self._bank = bank
        self._dtype = _DTYPES[precision]
        self._chunks = bank.to(self._dtype).split(chunk_rows)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Distances of tokens; see `Search`."""
        queries = F.normalize(tokens.flatten(0, 1), dim=-1)
        lower = queries.to(self._dtype)
        best, nearest = (lower @ self._chunks[0].T).max(dim=1)
        start = len(self._chunks[0])
        for chunk in self._chunks[1:]:
            found, where = (lower @ chunk.T).max(dim=1)
            nearest = torch.where(found > best, where + start, nearest)
            best = torch.maximum(found, best)
            start += len(chunk)
        if self._dtype is not torch.float32:
            best = (queries * self._bank[nearest]).sum(-1)
        return (1.0 - best).clamp_min(0.0).unflatten(0, tokens.shape[:2])


class CupySearch:
    """The search by CuPy, on PyTorch's stream and on its memory.

    Args:
        bank: ``(M, D)`` float32 unit vectors on the GPU.
        precision: ``fp32`` or ``fp16``.
        chunk_rows: Rows of the bank at once.

    Raises:
        MissingDependencyError: If CuPy is not installed.
    """

    def __init__(self, bank: Tensor, precision: str, chunk_rows: int = CHUNK_ROWS) -> None:
        self._cupy: Any = _cupy()
        self._bank = self._cupy.from_dlpack(bank)
        self._dtype = _DTYPES[precision]
        chunks = bank.to(self._dtype).split(chunk_rows)
        self._chunks = [self._cupy.from_dlpack(chunk) for chunk in chunks]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Distances of tokens; see `Search`."""
        cupy = self._cupy
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            given = cupy.from_dlpack(tokens.flatten(0, 1))
            queries = given / cupy.linalg.norm(given, axis=-1, keepdims=True)
            lower = queries.astype(self._chunks[0].dtype)
            best, nearest = self._best_of(lower, self._chunks[0])
            start = len(self._chunks[0])
            for chunk in self._chunks[1:]:
                found, where = self._best_of(lower, chunk)
                nearest = cupy.where(found > best, where + start, nearest)
                best = cupy.maximum(found, best)
                start += len(chunk)
            if self._dtype is not torch.float32:
                best = (queries * self._bank[nearest]).sum(axis=-1)
            distances = cupy.maximum(1.0 - best, 0.0).astype(cupy.float32)
        return from_dlpack(distances).unflatten(0, tokens.shape[:2])

    def _best_of(self, queries: Any, chunk: Any) -> tuple[Any, Any]:
        """Each query's largest cosine within a chunk, and its row there."""
        product = queries @ chunk.T
        where = product.argmax(axis=1)
        return self._cupy.take_along_axis(product, where[:, None], axis=1)[:, 0], where


def search_by(runtime: str, bank: Tensor, precision: str) -> Search:
    """The search of a runtime.

    Raises:
        BenchmarkError: If the runtime is neither ``pytorch`` nor ``cupy``.
        MissingDependencyError: If CuPy is not installed.
        RuntimeUnavailableError: If CuPy is asked for without a GPU.
    """
    if runtime == "pytorch":
        return TorchSearch(bank, precision)
    if runtime == "cupy":
        if not bank.is_cuda:
            raise RuntimeUnavailableError("CuPy runs on an NVIDIA GPU, and this machine has none")
        return CupySearch(bank, precision)
    raise BenchmarkError(f"runtime {runtime!r} has no search, expected pytorch or cupy")


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise MissingDependencyError("CuPy is not installed here") from error
    return cupy
