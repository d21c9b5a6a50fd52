"""What else can run a graph on this machine: PyTorch and ONNX Runtime on the GPU, and our engine.

Each is a `dinspect_export.runtimes.Runner`, so that it is held to the same gate as all others.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.recipes import patch_tokens_name
from dinspect_export.runtimes import PIXELS, Inputs, Outputs, Runner
from dinspect_export.students import PATCH_DISTANCES, StudentDistance

_CUDA_PROVIDER = "CUDAExecutionProvider"


class TorchBackboneRunner(Runner):
    """A backbone by PyTorch on a device.

    Args:
        model: The backbone, on the device already.
        layers: Blocks it taps.
        device: ``cuda`` or ``cpu``.
        name: What it is called in reports.
    """

    def __init__(self, model: nn.Module, layers: tuple[int, ...], device: str, name: str) -> None:
        self.name = name
        self._model, self._layers, self._device = model, layers, device

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        with torch.inference_mode():
            outputs = self._model(torch.from_numpy(inputs[PIXELS]).to(self._device))
        names = map(patch_tokens_name, self._layers)
        return {name: one.cpu().numpy() for name, one in zip(names, outputs, strict=True)}


class TorchStudentsRunner(Runner):
    """Students by PyTorch on a device.

    Args:
        model: The students, on the device already.
        layers: The two blocks.
        device: ``cuda`` or ``cpu``.
        name: What it is called in reports.
    """

    def __init__(
        self, model: StudentDistance, layers: tuple[int, ...], device: str, name: str
    ) -> None:
        self.name = name
        self._model, self._layers, self._device = model, layers, device

    def run(self, inputs: Inputs) -> Outputs:
        """Compute the distances of a batch."""
        tokens = [inputs[patch_tokens_name(layer)] for layer in self._layers]
        with torch.inference_mode():
            found = self._model(*(torch.from_numpy(one).to(self._device) for one in tokens))
        return {PATCH_DISTANCES: found.cpu().numpy()}


class OnnxRuntimeGpuRunner(Runner):
    """ONNX Runtime on the GPU, FP32 in FP32.

    Args:
        model: The ONNX file.

    Raises:
        RuntimeUnavailableError: If this ONNX Runtime has no CUDA, or falls back to the CPU.
    """

    name = "onnxruntime cuda"

    def __init__(self, model: Path) -> None:
        import onnxruntime

        if _CUDA_PROVIDER not in onnxruntime.get_available_providers():
            raise RuntimeUnavailableError("this ONNX Runtime is built without CUDA")
        providers = [(_CUDA_PROVIDER, {"use_tf32": 0}), "CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(model), providers=providers)
        if self._session.get_providers()[0] != _CUDA_PROVIDER:
            raise RuntimeUnavailableError("ONNX Runtime cannot use the GPU and took the CPU")
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        outputs = self._session.run(self._names, dict(inputs))
        return dict(zip(self._names, outputs, strict=True))


class DeviceEngineRunner(Runner):
    """The engine as the latency rows run it, so that what is timed is what was proven.

    Args:
        plan: The engine file.
        target: ``tensorrt`` or ``tensorrt-rtx``.
    """

    def __init__(self, plan: Path, target: str) -> None:
        from dinspect_bench.gpu.device_engine import DeviceEngine

        self.name = f"{target}, timed"
        self._engine = DeviceEngine(plan, target)

    def run(self, inputs: Inputs) -> Outputs:
        """Compute all outputs of a batch."""
        with torch.cuda.stream(torch.cuda.Stream()):
            given = [torch.from_numpy(inputs[name]).cuda() for name in self._engine.inputs]
            outputs = [tensor.cpu().numpy() for tensor in self._engine(*given)]
        return dict(zip(self._engine.outputs, outputs, strict=True))
