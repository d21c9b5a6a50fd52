"""Which half precision: candidates for the FP16 graph, measured on real images.

Run it where dinspect's test extra is installed; AutoCast takes part if NVIDIA's ModelOpt is, too::

    python benchmarks/precision_study.py --size 448 --candidate half mixed attention autocast

Every candidate is run by ONNX Runtime on the CPU, on the demo's solar cells, and held against
PyTorch in FP32; then TensorRT-RTX builds an engine of it. docs/precision.md has the outcome.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dinspect_bench.datasets.elpv import DemoSplit, load_elpv, split_cells
from dinspect_export.backbone import ExportableBackbone
from dinspect_export.check_images import CheckImages, check_pixels
from dinspect_export.checkpoints import load_checkpoint, network_from_checkpoint
from dinspect_export.engine import EngineOptions, build_engine, inspect_plan
from dinspect_export.errors import EngineError
from dinspect_export.geometry import grid_from_size
from dinspect_export.onnx_graph import write_graph
from dinspect_export.precision import with_half_matmuls
from dinspect_export.recipes import patch_tokens_name
from dinspect_export.runtimes import PIXELS, OnnxRuntimeRunner, PyTorchRunner
from dinspect_export.verification import Reference

LAYERS = [8, 12]
ATTENTION_OPSET = 23  # the first with an Attention operator
NUM_CALIBRATION_IMAGES = 2


class PlainHalf(nn.Module):
    """Everything in FP16 but the pixels' normalisation: what ``model.half()`` gives."""

    def __init__(self, model: ExportableBackbone) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Pixels to patch tokens, as `ExportableBackbone` does it."""
        model = self.model
        scale, shift = model.pixel_scale.float(), model.pixel_shift.float()
        x = (pixels.float().permute(0, 3, 1, 2) * scale + shift).half()
        taps = model.network.tapped_tokens(x, model.baked_position_embedding, model.layers)
        return tuple(tokens.float() for tokens in taps)


def backbone(grid: tuple[int, int]) -> ExportableBackbone:
    """The packaged ViT-S/14 in FP32, new each time: candidates change it."""
    network = network_from_checkpoint(load_checkpoint("packaged", "dinov2_vits14", Path()))
    return ExportableBackbone(network, grid, LAYERS).eval()


def write(model: nn.Module, grid: tuple[int, int], path: Path, opset: int = 18) -> None:
    """Export a candidate."""
    example = torch.zeros(1, grid[0] * 14, grid[1] * 14, 3, dtype=torch.uint8)
    outputs = [patch_tokens_name(layer) for layer in LAYERS]
    write_graph(
        model.eval(), [example], path, input_names=[PIXELS], output_names=outputs, opset=opset
    )


def write_half(grid: tuple[int, int], path: Path, split: DemoSplit) -> None:
    """Everything in FP16."""
    write(PlainHalf(backbone(grid)), grid, path)


def write_mixed(grid: tuple[int, int], path: Path, split: DemoSplit, opset: int = 18) -> None:
    """Ours: products in FP16, LayerNorm, layer scale and residual stream in FP32."""
    model = backbone(grid)
    half = ExportableBackbone(with_half_matmuls(model.network), grid, LAYERS)
    write(half, grid, path, opset)


def write_attention(grid: tuple[int, int], path: Path, split: DemoSplit) -> None:
    """Ours with ONNX's Attention operator instead of its parts."""
    write_mixed(grid, path, split, ATTENTION_OPSET)


def write_autocast(grid: tuple[int, int], path: Path, split: DemoSplit) -> None:
    """NVIDIA ModelOpt's AutoCast of the FP32 graph, calibrated on real images."""
    full, calibration = path.with_suffix(".fp32.onnx"), path.with_suffix(".npz")
    write(backbone(grid), grid, full)
    size = (grid[0] * 14, grid[1] * 14)
    images = split.held_out[:NUM_CALIBRATION_IMAGES] or split.enrolled[-NUM_CALIBRATION_IMAGES:]
    np.savez(calibration, **{PIXELS: np.stack([check_pixels(image, size) for image in images])})
    arguments = [
        "--onnx_path", full, "--output_path", path, "--calibration_data", calibration,
        "--keep_io_types", "--op_types_to_exclude", "LayerNormalization", "Softmax",
        "--providers", "cpu",
    ]  # fmt: skip
    command = [sys.executable, "-m", "modelopt.onnx.autocast", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


CANDIDATES: dict[str, Callable[[tuple[int, int], Path, DemoSplit], None]] = {
    "half": write_half,
    "mixed": write_mixed,
    "attention": write_attention,
    "autocast": write_autocast,
}


def study(
    size: str, names: list[str], num_references: int, num_images: int
) -> list[dict[str, object]]:
    """Measure candidates at one input size; one record each."""
    grid = grid_from_size(size, 14)
    split = split_cells(load_elpv())
    images = split.functional[: num_images // 2] + split.defective[: (num_images + 1) // 2]
    check = CheckImages(tuple(images), tuple(split.enrolled[:num_references]))
    model = backbone(grid)
    reference = Reference(PyTorchRunner(model), check, model.input_size)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            path = Path(folder) / f"{name}.onnx"
            started = time.monotonic()
            CANDIDATES[name](grid, path, split)
            export_s = time.monotonic() - started
            agreement = reference.compare(OnnxRuntimeRunner(path))
            records.append(
                {
                    "size": size,
                    "candidate": name,
                    "export_s": round(export_s, 1),
                    "onnx_mb": round(path.stat().st_size / 1e6, 1),
                    **asdict(agreement),
                    **_engine_of(path),
                }
            )
            print(json.dumps(records[-1]), flush=True)  # noqa: T201
    return records


def _engine_of(path: Path) -> dict[str, object]:
    try:
        found = inspect_plan(build_engine(path, EngineOptions("tensorrt-rtx")))
    except EngineError as error:
        return {"engine": str(error)}
    size_mb = round(found["size_bytes"] / 1e6, 1)
    return {"engine_mb": size_mb, "fused_attention_kernels": found["fused_attention_kernels"]}


def main() -> None:
    """Run the study and write its records, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=["448"])
    parser.add_argument("--candidate", nargs="+", default=["half", "mixed"], choices=CANDIDATES)
    parser.add_argument("--references", type=int, default=4)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--output", type=Path, help="file of records to append to")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    for size in args.size:
        records = study(size, args.candidate, args.references, args.images)
        if args.output:
            with args.output.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)


if __name__ == "__main__":
    main()
