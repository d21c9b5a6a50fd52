"""The backbones of the latency tables, exported once and kept: real weights where there are any.

The demo's packaged ViT-S/14 is at hand; larger ones are random, for time does not depend on the
weights.
"""

from __future__ import annotations

from pathlib import Path

from dinspect_bench.datasets.elpv import load_elpv
from dinspect_bench.studies.random_weights import graph_precision, write_random_backbone
from dinspect_export.build import build
from dinspect_export.description import Backbone, Check, Description

PACKAGED, RANDOM = "packaged", "random"
_PACKAGED_BACKBONE = "dinov2_vits14"
_SEED = 0


def weights_of(backbone: str) -> str:
    """Which weights a backbone is measured with: ``packaged`` or ``random``."""
    return PACKAGED if backbone == _PACKAGED_BACKBONE else RANDOM


def exported_backbone(
    backbone: str, resolution: int, build_dir: Path, precision: str = "auto"
) -> Path:
    """Export a backbone for one input size, unless it is there and current.

    Args:
        backbone: Backbone variant of Meta's.
        resolution: Edge of the input in pixels.
        build_dir: Folder of what is kept.
        precision: Of the server that will run it; ``int8`` takes a quantised graph, all others
            the FP32 one.

    Returns:
        The folder of its artefacts, one for each kind of graph, and of no other size.

    Raises:
        ExportError: If it cannot be exported.
    """
    folder = build_dir / f"{backbone}_{resolution}"
    description = Description(
        output=folder,
        check=Check(images=[str(min(cell.path for cell in load_elpv()))]),
        backbone=[
            Backbone(
                variant=backbone,
                weights=_weights(backbone, build_dir),
                sizes=[str(resolution)],
                precisions=[graph_precision(precision)],
            )
        ],
        base=Path.cwd(),
    )
    for _ in build(description):
        pass
    return description.artefacts_dir


def _weights(backbone: str, build_dir: Path) -> str:
    if weights_of(backbone) == PACKAGED:
        return PACKAGED
    path = (build_dir / f"{backbone}.random.pth").resolve()
    if not path.is_file():
        build_dir.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")  # none is taken for whole that a kill cut short
        write_random_backbone(partial, backbone, _SEED)
        partial.replace(path)
    return str(path)
