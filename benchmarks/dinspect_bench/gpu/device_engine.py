"""A TensorRT engine on tensors that are on the GPU already: no copies, no waiting.

`dinspect_export.runtimes.EngineRunner` runs engines for their answers, from and to the host; this
one runs them for their time, and as a part of longer chains. Written from the API of TensorRT-RTX
1.7 and TensorRT 10; it takes a GPU to run.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinspect_export.engine import load_engine, load_tensorrt
from dinspect_export.errors import RuntimeUnavailableError

_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "UINT8": torch.uint8}


class DeviceEngine:
    """An engine, run on PyTorch's current stream.

    Its outputs are the engine's own buffers, one set per batch, written again by the next call.

    Args:
        plan: The engine file.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        device: Where its tensors are, for PyTorch.

    Attributes:
        inputs: Names of the inputs, ``patch_tokens_8`` before ``patch_tokens_12``.
        outputs: Names of the outputs, ordered likewise.

    Raises:
        MissingDependencyError: If the target's module is not installed.
        RuntimeUnavailableError: If the engine cannot be loaded on this GPU.
    """

    def __init__(self, plan: Path, target: str, device: str = "cuda") -> None:
        trt = load_tensorrt(target)
        self._engine = load_engine(plan, target)
        self._context = _execution_context(trt, self._engine)
        numbers = range(self._engine.num_io_tensors)
        names = sorted(map(self._engine.get_tensor_name, numbers), key=_block_of)
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self.inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._device = device
        self._buffers: dict[int, list[Tensor]] = {}

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Queue one run.

        Args:
            tensors: One per input, contiguous, on the GPU, their first dimension the batch.

        Returns:
            One per output; see the class for how long they are valid.

        Raises:
            RuntimeUnavailableError: If TensorRT refuses a shape or the run.
        """
        context = self._context
        for name, tensor in zip(self.inputs, tensors, strict=True):
            if not context.set_input_shape(name, tuple(tensor.shape)):
                raise RuntimeUnavailableError(
                    f"the engine takes no {name} of shape {tuple(tensor.shape)}"
                )
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = self._outputs_of(len(tensors[0]))
        for name, tensor in zip(self.outputs, outputs, strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeUnavailableError("TensorRT refused to run the engine; its log says why")
        return outputs

    def _outputs_of(self, batch: int) -> list[Tensor]:
        """Buffers for a batch whose input shapes are set."""
        if batch not in self._buffers:
            self._buffers[batch] = [
                torch.empty(
                    tuple(self._context.get_tensor_shape(name)),
                    dtype=_DTYPES[self._engine.get_tensor_dtype(name).name],
                    device=self._device,
                )
                for name in self.outputs
            ]
        return self._buffers[batch]


def _block_of(name: str) -> tuple[str, int]:
    """Orders tensors by the number of their block, not by its first digit."""
    word, _, number = name.rpartition("_")
    return (word, int(number)) if number.isdigit() else (name, 0)


@cache
def loaded_engine(plan: Path, target: str) -> DeviceEngine:
    """An engine, loaded once per process: TensorRT-RTX compiles it for this GPU when it is."""
    return DeviceEngine(plan, target)


def _execution_context(trt: Any, engine: Any) -> Any:
    """A context whose kernels for a shape are there when the first run of the shape is over.

    TensorRT-RTX compiles them on this GPU, by default in the background while others stand in.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)
