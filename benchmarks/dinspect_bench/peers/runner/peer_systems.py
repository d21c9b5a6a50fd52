"""What is measured of a peer: each way to run it, and what lies inside its time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from peer_images import read_pixels
from peer_protocol import PreparedSystem

SCORE = "pred_score"
PACKAGES = ("anomalib", "timm", "torch", "openvino", "onnxruntime")
"""Whose versions are told, as far as they are installed."""
_WITHOUT_SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")


def prepare(system: str, settings: dict[str, Any]) -> PreparedSystem:
    """Make a system ready.

    Args:
        system: One of `SYSTEMS`.
        settings: Arguments of its function.

    Raises:
        ValueError: If there is no such system.
    """
    if system not in SYSTEMS:
        raise ValueError(f"there is no system {system!r}; expected one of {', '.join(SYSTEMS)}")
    prepared = SYSTEMS[system](**settings)
    return replace(prepared, details=prepared.details | {"versions": _installed_versions()})


def export(model: dict[str, Any], folder: str) -> PreparedSystem:
    """Write a model's files for other systems; nothing is run.

    Args:
        model: As `peer_models.build_model` takes it.
        folder: Where the files go.
    """
    from peer_models import build_model, export_model

    details: dict[str, Any] = dict(export_model(build_model(model), model["side_px"], folder))
    return PreparedSystem(details, None)


def openvino(file: str, side_px: int, precision: str | None) -> PreparedSystem:
    """The exported model in OpenVINO: pixels as a float tensor in, score and map out.

    Args:
        file: The ``.xml`` file.
        side_px: Edge of its input.
        precision: As OpenVINO's INFERENCE_PRECISION_HINT; None leaves it to OpenVINO.
    """
    import openvino as runtime

    hint = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    compiled = runtime.Core().compile_model(file, "CPU", hint)

    def run(path: str) -> tuple[int, float | None]:
        pixels = read_pixels(path, side_px)
        latency_ns, answer = _timed(lambda: compiled([pixels]))
        return latency_ns, float(answer[SCORE].reshape(-1)[0])

    return PreparedSystem(_openvino_details(compiled), run)


def onnxruntime(file: str, side_px: int) -> PreparedSystem:
    """The exported model in ONNX Runtime, its threads asleep between two runs.

    Args:
        file: The ``.onnx`` file.
        side_px: Edge of its input.
    """
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    for entry in _WITHOUT_SPINNING:
        options.add_session_config_entry(entry, "0")
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (pixels_name,) = (one.name for one in session.get_inputs())
    details = {"runtime": f"onnxruntime {version('onnxruntime')}", "precision": "fp32"}

    def run(path: str) -> tuple[int, float | None]:
        pixels = read_pixels(path, side_px)
        latency_ns, answer = _timed(lambda: session.run(names, {pixels_name: pixels}))
        return latency_ns, float(answer[names.index(SCORE)].reshape(-1)[0])

    return PreparedSystem(details, run)


def pytorch(model: dict[str, Any]) -> PreparedSystem:
    """The model of anomalib in PyTorch, all that is exported: pixels in, score and map out.

    Args:
        model: As `peer_models.build_model` takes it.
    """
    import torch

    from peer_models import build_model

    module = build_model(model)

    def run(path: str) -> tuple[int, float | None]:
        pixels = torch.from_numpy(read_pixels(path, model["side_px"]))
        with torch.inference_mode():
            latency_ns, answer = _timed(lambda: module(pixels))
        return latency_ns, float(answer.pred_score.reshape(-1)[0])

    return PreparedSystem(_pytorch_details(), run)


def pytorch_backbone(name: str, weights: str, side_px: int) -> PreparedSystem:
    """The network of the backbone, by timm, in PyTorch: normalised pixels in, patch tokens out.

    Args:
        name: timm's name of it.
        weights: Checkpoint with Meta's names.
        side_px: Edge of the input.
    """
    import torch

    from peer_models import declare_torchvision_operators, load_backbone_weights

    declare_torchvision_operators()
    import timm

    network: Any = timm.create_model(name, pretrained=False, dynamic_img_size=True).eval()
    load_backbone_weights(network, weights)

    def run(path: str) -> tuple[int, float | None]:
        # Whatever the pixels are scaled to, the time is the same.
        pixels = torch.from_numpy(read_pixels(path, side_px))
        with torch.inference_mode():
            latency_ns, _ = _timed(lambda: network.forward_features(pixels))
        return latency_ns, None

    return PreparedSystem(_pytorch_details(), run)


def openvino_inferencer(file: str, folder: str) -> PreparedSystem:
    """The OpenVINOInferencer of anomalib, end to end: path of an image in, score and map out.

    Args:
        file: The ``.xml`` file; images must have the size of its input.
        folder: Where it may keep its cache, which it writes into the working directory.
    """
    from peer_models import declare_torchvision_operators

    declare_torchvision_operators()
    from anomalib.deploy import OpenVINOInferencer

    os.chdir(folder)
    inferencer = OpenVINOInferencer(file, device="CPU")

    def run(path: str) -> tuple[int, float | None]:
        latency_ns, answer = _timed(lambda: inferencer.predict(path))
        return latency_ns, float(answer.pred_score.reshape(-1)[0])

    return PreparedSystem(_openvino_details(inferencer.model), run)


SYSTEMS: dict[str, Callable[..., PreparedSystem]] = {
    function.__name__: function
    for function in (
        export,
        openvino,
        onnxruntime,
        pytorch,
        pytorch_backbone,
        openvino_inferencer,
    )
}


def _timed(work: Callable[[], Any]) -> tuple[int, Any]:
    started_ns = time.perf_counter_ns()
    answer = work()
    return time.perf_counter_ns() - started_ns, answer


def _installed_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _openvino_details(compiled: Any) -> dict[str, Any]:
    """What a compiled model says of itself, in our names of precisions."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {
        "runtime": f"openvino {version('openvino').split('-')[0]}",
        "precision": {"f32": "fp32", "f16": "fp16"}.get(hint, hint),
        "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
    }


def _pytorch_details() -> dict[str, Any]:
    import torch

    return {
        "runtime": f"torch {version('torch')}",
        "precision": "fp32",
        "threads": torch.get_num_threads(),
    }
