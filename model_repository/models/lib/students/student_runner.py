"""Run one product's students, on the CPU or, by ONNX Runtime, on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refusals import InspectionRefused
from wire import KNOWN_TOKENS

_OPENVINO_PRECISIONS = {"auto": "f32", "fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_OPERATIONS = frozenset({
    "Abs", "Add", "Clamp", "Concat", "Constant", "Convert", "Divide", "Erf", "Gather", "Gelu",
    "MatMul", "Maximum", "Minimum", "Multiply", "Negative", "Parameter", "Power", "ReduceL2",
    "ReduceMean", "ReduceSum", "Reshape", "Result", "ShapeOf", "Slice", "Split", "Sqrt", "Squeeze",
    "StridedSlice", "Subtract", "Tanh", "Transpose", "Unsqueeze", "VariadicSplit",
})  # fmt: skip
"""What students are made of; none of it runs longer, or takes more, than its inputs let expect."""
_MAX_OPERATIONS = 1000
_ACTIVATIONS = 6
"""Arrays of patch tokens that a run keeps at once, for the estimate of its memory."""


class StudentRunner:
    """A students' graph, compiled.

    Args:
        model: The ONNX file: patch tokens of two blocks in, patch distances out.
        layers: Blocks ``(j, k)``.
        grid: Patch grid.
        dim: Width of a patch token.
        runtime: ``openvino``, else ONNX Runtime.
        precision: ``auto`` and ``fp32`` run as the graph says; ``fp16`` and ``bf16`` are what
            OpenVINO makes of it.

    Raises:
        InspectionRefused: If the file is no such graph.
    """

    def __init__(
        self,
        model: Path,
        layers: Sequence[int],
        grid: tuple[int, int],
        dim: int,
        runtime: str,
        precision: str,
    ) -> None:
        num_patches = grid[0] * grid[1]
        check_operations(model)
        self.size_bytes = students_size_bytes(model, grid, dim)
        names = [f"patch_tokens_{layer}" for layer in layers]
        self._run: Any = _OpenVino if runtime == "openvino" else _OnnxRuntime
        try:
            self._run = self._run(model, names, precision)
            zeros = np.zeros((1, num_patches, dim), np.float32)
            found = self._run(dict.fromkeys(names, zeros))
        except Exception as error:
            raise InspectionRefused(
                f"the students' graph cannot be run on {num_patches} patch tokens of width {dim} "
                f"from blocks {' and '.join(map(str, layers))}: {error}"
            ) from None
        if found.shape != (1, *grid) or found.dtype != np.float32:
            raise InspectionRefused(
                f"the students' graph puts out {found.dtype} {found.shape}, expected float32 "
                f"(1, {grid[0]}, {grid[1]})"
            )
        if not np.isfinite(found).all():
            raise InspectionRefused(
                "the students' graph puts out NaN or infinity; train the students again"
            )
        self._names = names

    def distances(
        self, tokens_j: NDArray[np.float32], tokens_k: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Patch distances ``(rows, columns)`` of ``(N, D)`` float32 patch tokens of two blocks."""
        pair = (np.ascontiguousarray(tokens)[None] for tokens in (tokens_j, tokens_k))
        found: NDArray[np.float32] = self._run(dict(zip(self._names, pair, strict=True)))[0]
        return found


def known_tokens(num_patches: int, dim: int) -> NDArray[np.float32]:
    """Tokens of blocks j and k, ``(2, N, D)`` float32, whose distances PyTorch told.

    See `wire.KNOWN_TOKENS`.
    """
    step, width = KNOWN_TOKENS
    numbers = np.arange(2 * num_patches * dim, dtype=np.float64)
    spread = (numbers * step % 1.0 - 0.5) * width
    return spread.astype(np.float32).reshape(2, num_patches, dim)


def check_operations(model: Path) -> None:
    """Refuse a graph that is more than a pair of students: a loop could keep the server for good.

    Raises:
        InspectionRefused: Naming what does not belong.
    """
    import openvino

    try:
        found = [op.get_type_name() for op in openvino.Core().read_model(model).get_ops()]
    except Exception as error:
        raise InspectionRefused(f"the students' graph cannot be run: {error}") from None
    foreign = sorted(set(found) - _OPERATIONS)
    if foreign or len(found) > _MAX_OPERATIONS:
        what = ", ".join(foreign) or f"{len(found)} operations"
        raise InspectionRefused(
            f"the students' graph holds {what}, which no pair of students needs; publish what "
            "'dinspect train' exports"
        )


class _OpenVino:
    def __init__(self, model: Path, names: list[str], precision: str) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(model)
        # One image at a time, as the backbone: no image can touch another.
        graph.reshape({name: [1, *graph.input(name).get_partial_shape()[1:]] for name in names})
        hints = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core.compile_model(graph, "CPU", hints).create_infer_request()

    def __call__(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        # Share the input, copy the output: the request reuses its buffers.
        return np.array(self._request.infer(inputs, share_inputs=True)[0])


class _OnnxRuntime:
    def __init__(self, model: Path, names: list[str], precision: str) -> None:
        import onnxruntime

        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        there = onnxruntime.get_available_providers()
        self._session = onnxruntime.InferenceSession(
            str(model), providers=[provider for provider in wanted if provider in there]
        )

    def __call__(self, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._session.run(None, inputs)[0]
        return found


def check_fits(product: str, size_bytes: int, max_bytes: int) -> None:
    """Refuse students that could never be loaded.

    Raises:
        InspectionRefused: If they exceed the limit alone.
    """
    if size_bytes > max_bytes:
        raise InspectionRefused(
            f"the students of product '{product}' need {size_bytes} bytes when loaded, the server "
            f"allows {max_bytes}; assemble with a larger --max-bank-bytes"
        )


def students_size_bytes(model: Path, grid: tuple[int, int], dim: int) -> int:
    """Memory that a product's students take when loaded, estimated.

    Raises:
        InspectionRefused: If the file is missing.
    """
    try:
        weights = model.stat().st_size
    except OSError as error:
        raise InspectionRefused(f"the students cannot be read: {error.strerror}") from None
    return weights + 4 * _ACTIVATIONS * grid[0] * grid[1] * dim
