from __future__ import annotations

import pytest
import torch
from random_networks import TINY
from small_trainings import make_cache

from dinspect_export.variants import VARIANTS


@pytest.fixture
def tiny_variants(monkeypatch):
    """The small backbones, known to the table by their names."""
    for name, variant in TINY.items():
        monkeypatch.setitem(VARIANTS, name, variant)
    return TINY


@pytest.fixture
def one_thread():
    """Networks as small as these gain nothing by a second, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(tmp_path, one_thread):
    """Tokens of three images."""
    return make_cache(tmp_path / "cache")
