"""PyTorch to ONNX, proven on real images before anything is written under its final name."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from dinspect_export.backbone import ExportableBackbone
from dinspect_export.checkpoints import Checkpoint, load_checkpoint, network_from_checkpoint
from dinspect_export.errors import InvalidGeometryError, ParityError
from dinspect_export.geometry import size_label
from dinspect_export.manifest import (
    KNOWN_ANSWER_FILE,
    MODEL_FILE,
    Artefact,
    Manifest,
    sha256_of_file,
    write_manifest,
)
from dinspect_export.onnx_graph import OPSET, patch_tokens_name, write_graph
from dinspect_export.parity import max_cosine_distance

PARITY_TOLERANCE = 1e-4
"""Largest per-patch cosine distance between ONNX Runtime and PyTorch in FP32."""
_PROTOBUF_LIMIT_BYTES = 1_800_000_000


def export_backbone(
    weights: str,
    variant_name: str,
    grids: Sequence[tuple[int, int]],
    output_dir: Path,
    *,
    check_images: Sequence[Path],
    cache_dir: Path,
    layers: Sequence[int] | None = None,
) -> list[Artefact]:
    """Export one backbone for several input sizes.

    Args:
        weights: ``packaged``, ``meta`` or a ``.pth`` path; see `checkpoints.load_checkpoint`.
        variant_name: Backbone, e.g. ``dinov2_vits14``.
        grids: Patch grids ``(rows, columns)``, one artefact each.
        output_dir: Folder of artefacts; an artefact of the same name is replaced whole.
        check_images: Real images on which ONNX Runtime must agree with PyTorch.
        cache_dir: Folder for downloaded weights.
        layers: One-based blocks to tap, ascending; blocks after the last are left out. None taps
            the variant's last block, as AnomalyDINO does.

    Raises:
        CheckpointError: If the weights cannot be used.
        InvalidGeometryError: If a layer, grid or check image is unusable.
        ParityError: If the exported graph disagrees with PyTorch.
    """
    if not check_images:
        raise InvalidGeometryError("give at least one real image to check the export on")
    checkpoint = load_checkpoint(weights, variant_name, cache_dir)
    layers = [checkpoint.variant.depth] if layers is None else list(layers)
    if not layers or max(layers) > checkpoint.variant.depth:
        raise InvalidGeometryError(
            f"layers {list(layers)} must lie within 1..{checkpoint.variant.depth}"
        )
    network = network_from_checkpoint(checkpoint, depth=max(layers))
    return [
        _export_one(
            ExportableBackbone(network, grid, layers).eval(), checkpoint, output_dir, check_images
        )
        for grid in grids
    ]


def _export_one(
    model: ExportableBackbone,
    checkpoint: Checkpoint,
    output_dir: Path,
    check_images: Sequence[Path],
) -> Artefact:
    variant = checkpoint.variant
    name = f"{variant.name}_{size_label(model.grid, variant.patch_size)}"
    with _staged_folder(output_dir / name) as folder:
        write_onnx(model, folder / MODEL_FILE)
        pixels = np.stack([check_pixels(path, model.input_size) for path in check_images])
        reference = _run_pytorch(model, pixels)
        distance = _run_and_compare(folder / MODEL_FILE, pixels, reference)
        if not distance < PARITY_TOLERANCE:
            raise ParityError(
                f"{name}: worst patch differs by a cosine distance of {distance:.2e} between ONNX "
                f"Runtime and PyTorch, allowed is {PARITY_TOLERANCE:.0e}; nothing was written"
            )
        # The first image travels with the model: the server runs it at start and refuses to serve
        # when its runtime, on its hardware, in its precision, computes something else.
        known = {"pixels": pixels[:1]} | {key: value[:1] for key, value in reference.items()}
        save_file(known, str(folder / KNOWN_ANSWER_FILE))
        manifest = Manifest(
            name=name,
            variant=variant.name,
            layers=list(model.layers),
            grid=list(model.grid),
            patch_size=variant.patch_size,
            dim=variant.dim,
            weights_source=checkpoint.source,
            weights_sha256=checkpoint.sha256,
            fine_tuned=checkpoint.fine_tuned,
            precision="fp32",
            opset=OPSET,
            files={path.name: sha256_of_file(path) for path in sorted(folder.iterdir())},
            check_images=[
                {"name": path.name, "sha256": sha256_of_file(path)} for path in check_images
            ],
            max_cosine_distance=distance,
            tolerance=PARITY_TOLERANCE,
            versions=_versions(),
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        write_manifest(folder, manifest)
    return Artefact(output_dir / name, manifest)


def write_onnx(model: ExportableBackbone, path: Path) -> None:
    """Write the graph: ``pixels`` uint8 NHWC in, ``patch_tokens_<layer>`` out, batch 1..8.

    Args:
        model: The backbone for its input size.
        path: Target file; weights go beside it when they exceed what one ONNX file can hold.
    """
    height, width = model.input_size
    size_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    write_graph(
        model,
        [torch.zeros(2, height, width, 3, dtype=torch.uint8)],
        path,
        input_names=["pixels"],
        output_names=_output_names(model),
        external_data=size_bytes > _PROTOBUF_LIMIT_BYTES,
    )


def check_pixels(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read an image stretched to the backbone's input size.

    Only the agreement of two runs on the same pixels matters here, so the aspect ratio does not.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        InvalidGeometryError: If the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
            return np.asarray(resized)
    except OSError as error:
        raise InvalidGeometryError(f"cannot read check image {path}: {error}") from error


def _output_names(model: ExportableBackbone) -> list[str]:
    return [patch_tokens_name(layer) for layer in model.layers]


def _run_pytorch(
    model: ExportableBackbone, pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    with torch.inference_mode():
        outputs = model(torch.from_numpy(pixels))
    return {
        name: output.numpy() for name, output in zip(_output_names(model), outputs, strict=True)
    }


def _run_and_compare(
    path: Path, pixels: NDArray[np.uint8], reference: dict[str, NDArray[np.float32]]
) -> float:
    """Worst per-patch cosine distance over all taps, ONNX Runtime to the reference."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for index in range(len(pixels)):
        outputs = session.run(list(reference), {"pixels": pixels[index : index + 1]})
        for output, expected in zip(outputs, reference.values(), strict=True):
            worst = max(worst, max_cosine_distance(output, expected[index : index + 1]))
    return worst


@contextlib.contextmanager
def _staged_folder(target: Path) -> Iterator[Path]:
    """Yield a fresh folder beside ``target`` that takes its place only if nothing failed."""
    staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        previous = target.with_name(f".{target.name}.{os.getpid()}.previous")
        if target.exists():
            target.rename(previous)
        staging.rename(target)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _versions() -> dict[str, Any]:
    packages = ("dinspect", "torch", "onnx", "onnxscript", "onnxruntime")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
