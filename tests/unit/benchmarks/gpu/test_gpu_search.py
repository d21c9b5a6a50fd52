"""Search and map on a device against NumPy and the server's own map. NumPy stands in for CuPy."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dinspect_bench.errors import BenchmarkError, MissingDependencyError
from dinspect_bench.gpu.device_map import DeviceMap
from dinspect_bench.gpu.search import CupySearch, TorchSearch, search_by
from dinspect_export.errors import RuntimeUnavailableError
from map_operator import anomaly_map


@pytest.fixture
def bank():
    rows = torch.randn(90, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows, dim=-1)


@pytest.fixture
def tokens(bank):
    """Two images of six patches, each near one row of the bank, of any length."""
    generator = torch.Generator().manual_seed(1)
    near = bank[[0, 29, 30, 31, 59, 60, 61, 88, 89, 5, 6, 7]]
    noise = 0.05 * torch.randn(near.shape, generator=generator)
    return (3.0 * (near + noise)).unflatten(0, (2, 6))


@pytest.fixture
def numpy_as_cupy(monkeypatch):
    """CuPy's functions by NumPy's of the same names: the algorithm is tested, CuPy is not."""
    names = ("float32", "linalg", "take_along_axis", "where", "maximum")
    fake = SimpleNamespace(**{name: getattr(np, name) for name in names})
    fake.from_dlpack = lambda tensor: tensor.numpy()
    fake.cuda = SimpleNamespace(ExternalStream=lambda pointer: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))


def expected(tokens, bank):
    queries = tokens.double().numpy()
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    return 1.0 - (queries @ bank.double().numpy().T).max(axis=-1)


@pytest.mark.parametrize("kind", [TorchSearch, CupySearch])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("chunk_rows", [30, 37, 90, 1000])
def test_nearest_row_of_any_chunk_is_found(
    numpy_as_cupy, bank, tokens, kind, precision, chunk_rows
):
    found = kind(bank, precision, chunk_rows)(tokens)
    assert found.shape == (2, 6)
    assert found.dtype == torch.float32
    # FP16 finds the same rows here, and their distances are FP32's.
    assert np.abs(found.numpy() - expected(tokens, bank)).max() < 1e-6


def test_distances_are_never_negative(bank):
    assert TorchSearch(bank, "fp32")(bank[None]).min() >= 0


def test_runtimes_without_a_search_are_refused(bank, monkeypatch):
    assert isinstance(search_by("pytorch", bank, "fp32"), TorchSearch)
    with pytest.raises(BenchmarkError, match="'openvino' has no search"):
        search_by("openvino", bank, "fp32")
    with pytest.raises(RuntimeUnavailableError, match="CuPy runs on an NVIDIA GPU"):
        search_by("cupy", bank, "fp32")
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match="CuPy is not installed"):
        CupySearch(bank, "fp32")


@pytest.mark.parametrize("size", [112, 154])
def test_map_is_the_servers(size):
    grid = (size // 14, size // 14)
    distances = np.random.default_rng(0).random((2, *grid), dtype=np.float32)
    found = DeviceMap(grid, size, "cpu")(torch.from_numpy(distances)).numpy()
    assert found.shape == (2, size, size)
    for one, of in zip(found, distances, strict=True):
        assert np.abs(one - anomaly_map(of, (size, size))).max() < 2e-6
