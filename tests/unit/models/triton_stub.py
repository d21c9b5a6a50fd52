"""Triton's `triton_python_backend_utils` in this process, as far as the adapters use it.

Nothing of Triton is tested by it: the served tests do that, with the real one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MODELS = Path(__file__).parents[3] / "model_repository" / "models"


class Tensor:
    """A named array."""

    def __init__(self, name: str, values: np.ndarray) -> None:
        self._name, self._values = name, values

    @classmethod
    def from_dlpack(cls, name: str, tensor: Tensor) -> Tensor:
        return cls(name, tensor.as_numpy())

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


class TritonError(Exception):
    """A request's error with its code."""

    INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class InferenceResponse:
    """Tensors by name, or an error."""

    def __init__(self, output_tensors: list[Tensor] = (), error: TritonError | None = None) -> None:
        self.error = error
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}


class MetricFamily:
    """Keeps what each of its metrics counted."""

    COUNTER = "COUNTER"

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert (kind, bool(description)) == (self.COUNTER, True)
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - Triton's spelling
        return Metric(labels)


class Metric:
    """A counter; ``increments`` in their order."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels, self.increments = labels, []

    def increment(self, value: float) -> None:
        self.increments.append(value)


class Logger:
    """Keeps what is logged as an error."""

    errors: tuple[str, ...] = ()

    @classmethod
    def log_error(cls, text: str) -> None:
        cls.errors += (text,)


def load(monkeypatch: pytest.MonkeyPatch, model: str, repository: Path, **parameters: Any) -> Any:
    """A model's adapter, initialised in ``repository/models``; its store is ``repository/banks``."""
    module = types.ModuleType("triton_python_backend_utils")
    for kind in (Tensor, TritonError, InferenceResponse, MetricFamily, Logger):
        setattr(module, kind.__name__, kind)
    module.get_input_tensor_by_name = lambda request, name: request.get(name)
    module.load_model = module.unload_model = lambda name: None
    Logger.errors = ()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # What imports it is imported anew, and forgotten with it.
    for name in ("triton_requests", "served_backbone"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location(f"{model}_model", MODELS / model / "model.py")
    source = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(source)
    for name in ("triton_requests", "served_backbone"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    adapter = source.TritonPythonModel()
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    adapter.initialize(
        {
            "model_name": model,
            "model_repository": str(repository / "models" / model),
            "model_version": "1",
            "model_config": json.dumps(config),
        }
    )
    return adapter


def request(**inputs: Any) -> dict[str, Tensor]:
    """A request: strings and bytes become BYTES tensors, arrays stay."""
    return {
        name: Tensor(name, value if isinstance(value, np.ndarray) else _texts(value))
        for name, value in inputs.items()
    }


def _texts(value: str | bytes | list[str]) -> np.ndarray:
    values = value if isinstance(value, list) else [value]
    encoded = [one.encode() if isinstance(one, str) else one for one in values]
    return np.array(encoded, dtype=object)
