"""Everything that can run a graph, behind one method, to be held against PyTorch.

A runner takes input name to array and gives output name to float32 array: a backbone's ``pixels``,
``(B, H, W, 3)`` uint8, to ``patch_tokens_<layer>``, ``(B, N, D)``. Each imports its runtime only
when it is made.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dinspect_export.errors import (
    MissingDependencyError,
    RuntimeUnavailableError,
    ServerUnavailableError,
)
from dinspect_export.gpu import require_gpu
from dinspect_export.recipes import patch_tokens_name

if TYPE_CHECKING:
    from dinspect_export.backbone import ExportableBackbone

Inputs = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[np.float32]]
PIXELS = "pixels"
_SERVER_TIMEOUT_S = 300.0
_POLYGRAPHY_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"


class Runner(Protocol):
    """A graph ready to run.

    Attributes:
        name: The runtime, e.g. ``onnxruntime``.
    """

    name: str

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch; they are the caller's to keep."""

    def close(self) -> None:
        """Give back what the runtime holds, where that is more than memory."""
        return


class PyTorchRunner(Runner):
    """The exportable backbone itself, in FP32: the truth the others are held to.

    Args:
        model: The backbone.
    """

    name = "pytorch"

    def __init__(self, model: ExportableBackbone) -> None:
        self._model = model

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        import torch

        with torch.inference_mode():
            outputs = self._model(torch.from_numpy(inputs[PIXELS]))
        names = map(patch_tokens_name, self._model.layers)
        return {name: tokens.numpy() for name, tokens in zip(names, outputs, strict=True)}


class OnnxRuntimeRunner(Runner):
    """ONNX Runtime on the CPU; half precision is run as the graph says.

    Args:
        model: The ONNX file.
    """

    name = "onnxruntime"

    def __init__(self, model: Path) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        outputs = self._session.run(self._names, dict(inputs))
        return dict(zip(self._names, outputs, strict=True))


class OpenVinoRunner(Runner):
    """OpenVINO on the CPU.

    Args:
        model: The ONNX file.
        precision: ``f32``, or ``f16``, in which OpenVINO itself runs what it can.

    Raises:
        MissingDependencyError: If OpenVINO is not installed.
        RuntimeUnavailableError: If this processor has no units for the precision.
    """

    def __init__(self, model: Path, precision: str) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise MissingDependencyError("OpenVINO is not installed; run: pip install openvino")
        import openvino

        self.name = f"openvino {precision}"
        core = openvino.Core()
        units = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "f16" and "FP16" not in units:
            raise RuntimeUnavailableError("this processor has no units for FP16")
        self._compiled = core.compile_model(
            core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": precision}
        )

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        result = self._compiled(dict(inputs))
        return {output.get_any_name(): result[output].copy() for output in self._compiled.outputs}


class EngineRunner(Runner):
    """A TensorRT engine on the GPU, through Polygraphy.

    Args:
        plan: The engine file.
        target: ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        RuntimeUnavailableError: If there is no GPU, or the engine cannot be loaded on it.
        MissingDependencyError: If Polygraphy is not installed.
    """

    def __init__(self, plan: Path, target: str) -> None:
        require_gpu(f"{target} engines")
        if importlib.util.find_spec("polygraphy") is None:
            raise MissingDependencyError("Polygraphy is not installed; run: pip install polygraphy")
        # Polygraphy reads this once, when it is first imported, and has no other switch.
        switch = "1" if target == "tensorrt-rtx" else "0"
        if "polygraphy" in sys.modules and os.environ.get(_POLYGRAPHY_SWITCH) != switch:
            raise RuntimeUnavailableError(
                "this process runs engines of the other TensorRT already; describe the two targets "
                "in two files"
            )
        os.environ[_POLYGRAPHY_SWITCH] = switch
        from polygraphy.backend.trt import TrtRunner

        from dinspect_export.engine import load_engine

        self.name = target
        # Loaded by us: Polygraphy's error does not say why an engine cannot be.
        self._runner: Any = TrtRunner(load_engine(plan, target))
        with contextlib.redirect_stdout(sys.stderr):  # Polygraphy logs there
            self._runner.activate()

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        with contextlib.redirect_stdout(sys.stderr):
            outputs = self._runner.infer(dict(inputs))
        # Copied, for Polygraphy uses its buffers again.
        return {name: np.array(output) for name, output in outputs.items()}

    def close(self) -> None:
        """Free the engine and its buffers."""
        with contextlib.redirect_stdout(sys.stderr):
            self._runner.deactivate()


class ServedRunner(Runner):
    """A backbone model on a Triton server, over gRPC.

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        model: Name of the backbone's model, which is its artefact's.
        layers: Tapped blocks.
    """

    def __init__(self, url: str, model: str, layers: Sequence[int]) -> None:
        import tritonclient.grpc as triton

        self.name = "served"
        self._model, self._names = model, [patch_tokens_name(layer) for layer in layers]
        self._client = triton.InferenceServerClient(url)

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        import tritonclient.grpc as triton

        pixels = inputs[PIXELS]
        tensor = triton.InferInput(PIXELS, list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        try:
            answer = self._client.infer(
                self._model,
                [tensor],
                outputs=[triton.InferRequestedOutput(name) for name in self._names],
                client_timeout=_SERVER_TIMEOUT_S,
            )
        except triton.InferenceServerException as error:
            raise ServerUnavailableError(
                f"the server refused to run {self._model}: {error.message()}"
            ) from error
        return {name: answer.as_numpy(name) for name in self._names}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def served_models(url: str, models: Iterable[str]) -> set[str]:
    """Those of some models that a Triton server is ready to run.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        models: Names to ask for.

    Raises:
        ServerUnavailableError: If it cannot be reached.
    """
    import tritonclient.grpc as triton

    try:
        with triton.InferenceServerClient(url) as client:
            return {model for model in models if client.is_model_ready(model)}
    except triton.InferenceServerException as error:
        raise ServerUnavailableError(f"no Triton server at {url}: {error.message()}") from error
