from __future__ import annotations

import importlib
import json
import sys
import types

import numpy as np
import pytest


class Tensor:
    """Hands values over like a stub's own tensor, changed by `garble`."""

    garble = staticmethod(lambda values: values)

    def __init__(self, name, values):
        self.values = values

    @classmethod
    def from_dlpack(cls, name, tensor):
        return cls(name, cls.garble(tensor.values))

    def as_numpy(self):
        return self.values


@pytest.fixture
def triton_requests(monkeypatch):
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield importlib.import_module("triton_requests")
    del sys.modules["triton_requests"]


def test_parameters_are_read_from_the_config(triton_requests):
    config = {"parameters": {"precision": {"string_value": "auto"}}}
    assert triton_requests.start({"model_config": json.dumps(config)}) == {"precision": "auto"}


def test_models_refuse_an_interpreter_that_garbles_tensors(triton_requests, monkeypatch):
    """What Triton 2.51's stub does with numpy 2: every element equals the first."""
    first_everywhere = staticmethod(lambda values: np.full_like(values, values.flat[0]))
    monkeypatch.setattr(Tensor, "garble", first_everywhere)
    with pytest.raises(RuntimeError, match="pip install 'numpy<2'"):
        triton_requests.start({"model_config": '{"parameters": {}}'})
