"""anomalib's models with given weights, fitted and exported without its trainer.

The trainer would fetch weights from the network, split the data and fit thresholds; nothing of it
is in an exported model but the weights and the memory bank.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from peer_images import read_pixels

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_DECLARED: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Let torchvision be imported beside a PyTorch that its library was not built for.

    Its wheel is built for CUDA. Beside a PyTorch without CUDA the library does not load, and the
    import fails for operators it does not find; none of them is used here.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or _DECLARED:
        return
    try:
        torch.ops.load_library(str(Path(spec.submodule_search_locations[0]) / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(operator)
        _DECLARED.append(library)  # the declaration ends with the object


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Have timm make networks without fetching their weights, which anomalib always asks for."""
    import timm

    create = timm.create_model

    def create_empty(*args: Any, **options: Any) -> torch.nn.Module:
        network: torch.nn.Module = create(*args, **options | {"pretrained": False})
        return network

    timm.create_model = create_empty
    try:
        yield
    finally:
        timm.create_model = create


def load_backbone_weights(network: torch.nn.Module, path: str) -> None:
    """Load a checkpoint with Meta's parameter names into timm's network of the same backbone.

    Args:
        network: timm's DINOv2.
        path: State dict as ``.pth``.

    Raises:
        RuntimeError: If a parameter is missing or left over.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    # By this parameter timm recognises Meta's names, and then drops it.
    state.setdefault("mask_token", torch.empty(0))
    network.load_state_dict(checkpoint_filter_fn(state, network), strict=True)


def anomaly_dino(weights: str, references: Sequence[str], side_px: int) -> Any:
    """The AnomalyDINO of anomalib (ViT-S/14, no masking), its bank filled from references.

    Args:
        weights: Checkpoint of the backbone with Meta's names.
        references: Images of good parts; each gives ``(side_px / 14) ** 2`` patches.
        side_px: Edge of the input in pixels; the default would be 252.
    """
    declare_torchvision_operators()
    with without_pretrained_weights():
        from anomalib.models import AnomalyDINO

        model = AnomalyDINO(
            masking=False,
            pre_processor=AnomalyDINO.configure_pre_processor((side_px, side_px)),
            evaluator=False,
            visualizer=False,
        )
    load_backbone_weights(model.model.feature_encoder.feature_extractor, weights)
    model.train()
    with torch.inference_mode():
        for path in references:
            model.model(model.pre_processor(torch.from_numpy(read_pixels(path, side_px))))
    model.fit()
    return model.eval()


def l2bt(weights: str, forward_student: str, backward_student: str, side_px: int) -> Any:
    """The L2BT of anomalib (ViT-B/14 with registers, blocks 8 and 12).

    Args:
        weights: Checkpoint of the backbone with Meta's names.
        forward_student: State dict as the official code writes it.
        backward_student: The other one.
        side_px: Edge of the input in pixels; the default would be 224.
    """
    declare_torchvision_operators()
    with without_pretrained_weights():
        from anomalib.models import L2BT

        model = L2BT(
            pre_processor=L2BT.configure_pre_processor((side_px, side_px)),
            evaluator=False,
            visualizer=False,
        )
    load_backbone_weights(model.model.teacher.fe.feature_extractor, weights)
    model.model.forward_net.load_state_dict(torch.load(forward_student, weights_only=True))
    model.model.backward_net.load_state_dict(torch.load(backward_student, weights_only=True))
    return model.eval()


def build_model(settings: Mapping[str, Any]) -> Any:
    """The model that settings describe: ``method`` and the arguments of that method's function."""
    arguments = dict(settings)
    methods: dict[str, Callable[..., Any]] = {"anomaly_dino": anomaly_dino, "l2bt": l2bt}
    return methods[arguments.pop("method")](**arguments)


def export_model(model: Any, side_px: int, folder: str) -> dict[str, str]:
    """Export for one input size to ONNX and to OpenVINO's own format.

    Returns:
        Paths of the files: ``onnx`` and ``openvino``.
    """
    size = (side_px, side_px)
    with torch.inference_mode():
        onnx = model.to_onnx(folder, input_size=size)
        openvino = model.to_openvino(folder, input_size=size)
    return {"onnx": str(onnx), "openvino": str(openvino)}
