"""Runs on the CPU, of networks with inputs as small as they can be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dinspect_bench.gpu.scope import scope_of
from dinspect_bench.gpu.session import Folders, GpuRun


@pytest.fixture
def small_scope():
    """ViT-S/14 and ViT-B/14 at 28 x 28: four patches."""
    quick = scope_of("cpu", quick=True)
    return replace(quick, sizes=(28,), teacher_sizes=(28,), banks=(64,), row_s=0.0, max_samples=3)


@pytest.fixture
def run(small_scope, tmp_path):
    return GpuRun(small_scope, Folders(tmp_path / "work"), tmp_path / "results" / "page.md")


@pytest.fixture(autouse=True)
def _as_it_was():
    """One thread, for networks as small as these gain nothing by two; PyTorch's switches restored."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    allow_tf32 = torch.backends.cudnn.allow_tf32
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = allow_tf32
