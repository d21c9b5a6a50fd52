"""Which ways to run anomalib and its backbone are measured, and what lies inside their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BARE = "the bare model in process: a float tensor of the input's size in; score and map out"


@dataclass(frozen=True)
class PeerSystem:
    """One way to run a peer.

    Attributes:
        name: What it is called in results.
        system: What the peer's process is asked to prepare, see ``runner/peer_systems.py``.
        covers: What lies inside its time.
        settings: Of ``system``, but for the file.
        file: Which exported file it runs, ``openvino`` or ``onnx``; None for none.
        is_scored: Whether its scores are compared with ours where there are labels.
    """

    name: str
    system: str
    covers: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    is_scored: bool = False


def exported_systems(side_px: int) -> list[PeerSystem]:
    """What anomalib exports, run without anomalib: the peers that are hardest to beat.

    Args:
        side_px: Edge of the model's input in pixels.
    """
    openvino = {"side_px": side_px, "precision": None}
    f32 = {"side_px": side_px, "precision": "f32"}
    return [
        PeerSystem("anomalib OpenVINO", "openvino", _BARE, openvino, "openvino", is_scored=True),
        PeerSystem("anomalib OpenVINO f32", "openvino", _BARE, f32, "openvino"),
        PeerSystem("anomalib ONNX Runtime", "onnxruntime", _BARE, {"side_px": side_px}, "onnx"),
    ]


def anomaly_dino_model(weights: Path, references: Sequence[Path], side_px: int) -> dict[str, Any]:
    """The AnomalyDINO of anomalib, as the peer's process builds it.

    Args:
        weights: Checkpoint of a ViT-S/14 with Meta's names.
        references: Images its memory bank is made of.
        side_px: Edge of the model's input in pixels.
    """
    return {
        "method": "anomaly_dino",
        "weights": str(weights),
        "references": [str(path) for path in references],
        "side_px": side_px,
    }


def anomaly_dino_systems(model: Mapping[str, Any], folder: Path) -> list[PeerSystem]:
    """Every way to run anomalib's AnomalyDINO.

    Args:
        model: As `anomaly_dino_model` gives it.
        folder: Where anomalib's inferencer may keep its cache.
    """
    side_px, weights = model["side_px"], model["weights"]
    return [
        *exported_systems(side_px),
        PeerSystem("anomalib PyTorch", "pytorch", _BARE, {"model": model}),
        PeerSystem(
            "anomalib OpenVINOInferencer",
            "openvino_inferencer",
            "end to end in process: path of a JPEG of the input's size in; score and map out",
            {"folder": str(folder)},
            "openvino",
        ),
        PeerSystem(
            "plain PyTorch backbone",
            "pytorch_backbone",
            "timm's network of the same backbone alone: a float tensor in, patch tokens out",
            {"name": "vit_small_patch14_dinov2", "weights": weights, "side_px": side_px},
        ),
    ]


def l2bt_model(weights: Path, students: tuple[Path, Path], side_px: int) -> dict[str, Any]:
    """The L2BT of anomalib, as the peer's process builds it.

    Args:
        weights: Checkpoint of a ViT-B/14 with registers, with Meta's names.
        students: The forward and the backward student, as the official code writes them.
        side_px: Edge of the model's input in pixels.
    """
    forward, backward = students
    return {
        "method": "l2bt",
        "weights": str(weights),
        "forward_student": str(forward),
        "backward_student": str(backward),
        "side_px": side_px,
    }
