from __future__ import annotations

import pytest
from random_networks import TINY

from dinspect_export.variants import VARIANTS


@pytest.fixture
def tiny_variants(monkeypatch):
    """The small backbones, known to the table by their names."""
    for name, variant in TINY.items():
        monkeypatch.setitem(VARIANTS, name, variant)
    return TINY
