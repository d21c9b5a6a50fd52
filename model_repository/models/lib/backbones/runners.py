"""Run one exported backbone on the CPU, proven on its known answer before it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = dict[str, NDArray[np.float32]]
"""Output name, ``patch_tokens_<layer>``, to ``(B, N, D)`` float32 patch tokens."""

RUNTIMES = ("openvino", "onnxruntime")
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")

TOLERANCE = {"fp32": 1e-4, "fp16": 1e-3, "bf16": 5e-3, "int8": 0.05}
"""Largest per-patch cosine distance to PyTorch in FP32 that a precision may show to be served."""

_OPENVINO_NAMES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


@dataclass(frozen=True)
class Backbone:
    """A backbone ready to run.

    Attributes:
        run: ``(B, H, W, 3)`` uint8 pixels to patch tokens; images of a batch do not influence
            each other.
        runtime: ``openvino`` or ``onnxruntime``, with its version.
        precision: The precision in force: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        max_cosine_distance: Worst patch of the known answer, to PyTorch in FP32.
    """

    run: Callable[[NDArray[np.uint8]], Tokens]
    runtime: str
    precision: str
    max_cosine_distance: float


class WrongAnswerError(RuntimeError):
    """The runtime does not compute on this machine what PyTorch computed at export."""


def load_backbone(model: Path, known_answer: Path, runtime: str, precision: str) -> Backbone:
    """Compile the model and run its known answer.

    Args:
        model: The ONNX file.
        known_answer: safetensors with ``pixels`` and PyTorch's ``patch_tokens_<layer>``.
        runtime: One of `RUNTIMES`.
        precision: One of `PRECISIONS`; ``auto`` is FP32. BF16 is only taken by name: its scores
            were seen 5 % away from FP32's on real images. So is FP16, which OpenVINO ran slower
            than FP32 on a processor that has units for it (docs/precision.md). ``int8`` needs a
            graph that was quantised at export.

    Raises:
        WrongAnswerError: If the known answer is missed beyond the precision's tolerance.
        ValueError: If runtime or precision is none of those, or this processor has no units for it.
    """
    from safetensors.numpy import load_file

    known = load_file(str(known_answer))
    backbone = _compile(model, runtime, _precision_in_force(runtime, precision), known)
    limit = TOLERANCE[backbone.precision]
    if backbone.max_cosine_distance > limit:
        raise WrongAnswerError(
            f"{runtime} in {backbone.precision} answers a known image with patch tokens a cosine "
            f"distance of {backbone.max_cosine_distance:.2e} away from PyTorch's, allowed is "
            f"{limit:.0e}; the model file, the runtime or the processor is at fault, so nothing is "
            "served"
        )
    return backbone


def _precision_in_force(runtime: str, precision: str) -> str:
    if runtime not in RUNTIMES or precision not in PRECISIONS:
        raise ValueError(
            f"runtime {runtime!r} with precision {precision!r}; expected one of {RUNTIMES} and one "
            f"of {PRECISIONS}"
        )
    if runtime == "onnxruntime" and precision not in ("auto", "fp32", "int8"):
        raise ValueError(
            f"onnxruntime runs a graph as it was exported, in fp32 or int8, not in {precision}"
        )
    return "fp32" if precision == "auto" else precision


def _compile(model: Path, runtime: str, precision: str, known: dict[str, Any]) -> Backbone:
    compile_one = _openvino_run if runtime == "openvino" else _onnxruntime_run
    run, version = compile_one(model, precision)
    answer = run(known["pixels"])
    worst = max(_max_cosine_distance(answer[name], known[name]) for name in answer)
    return Backbone(run, f"{runtime} {version}", precision, worst)


def _openvino_run(model: Path, precision: str) -> tuple[Callable[[NDArray[np.uint8]], Tokens], str]:
    import openvino

    core = openvino.Core()
    hint = _OPENVINO_NAMES.get(precision) or _beside_int8(core)
    graph = core.read_model(model)
    _, height, width, channels = graph.input(0).get_partial_shape()
    # One image at a time: on a CPU a batch is no faster, and so no image can touch another.
    graph.reshape([1, height, width, channels])
    compiled = core.compile_model(
        graph,
        "CPU",
        {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"},
    )
    in_force = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if in_force != hint:
        raise ValueError(
            f"this processor has no units for {precision}: OpenVINO would compute in {in_force} "
            "under that name; assemble with another --precision (auto is fp32, on any processor)"
        )
    request = compiled.create_infer_request()
    names = [output.get_any_name() for output in compiled.outputs]

    def run(pixels: NDArray[np.uint8]) -> Tokens:
        collected: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
        for image in pixels:
            # Share the input, copy the outputs: the request reuses its buffers.
            result = request.infer(np.ascontiguousarray(image)[None], share_inputs=True)
            for index, name in enumerate(names):
                collected[name].append(result[index])
        return {name: np.concatenate(parts) for name, parts in collected.items()}

    return run, openvino.__version__.split("-")[0]


def _beside_int8(core: Any) -> str:
    """What OpenVINO runs the floating-point part of an INT8 graph in: attention, above all.

    BF16 is finer than INT8, so it costs nothing that shows, and was the fastest wherever there are
    units for it; FP16 was slower than FP32.
    """
    units = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in units else "f32"


def _onnxruntime_run(
    model: Path, precision: str
) -> tuple[Callable[[NDArray[np.uint8]], Tokens], str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: NDArray[np.uint8]) -> Tokens:
        per_image = [session.run(names, {"pixels": image[None]}) for image in pixels]
        return {
            name: np.concatenate([outputs[index] for outputs in per_image])
            for index, name in enumerate(names)
        }

    return run, onnxruntime.__version__


def _max_cosine_distance(tokens: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    a, b = tokens.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    distance = 1.0 - cosine
    return float(distance.max()) if np.isfinite(distance).all() else float("inf")
