"""A backbone and L2BT's students with random weights, in the files their publishers write.

For measuring time and memory, which do not depend on the weights; no accuracy can come of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from dinspect_export.backbone import VisionTransformer
from dinspect_export.students import StudentPair
from dinspect_export.variants import variant_by_name

if TYPE_CHECKING:
    from dinspect_export.manifest import Artefact, BackboneManifest


def write_random_backbone(path: Path, variant_name: str, seed: int) -> None:
    """Write a checkpoint with Meta's parameter names, as `load_checkpoint` reads them.

    Args:
        path: Target, a ``.pth`` file.
        variant_name: Backbone of Meta's.
        seed: Of the weights; the same seed gives the same ones.

    Raises:
        UnknownVariantError: If there is no such backbone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VisionTransformer(variant_by_name(variant_name))
    torch.save(network.state_dict(), path)


def graph_precision(served_precision: str) -> Literal["fp32", "int8"]:
    """Precision of the graph that a server by OpenVINO runs: INT8 takes one of its own."""
    return "int8" if served_precision == "int8" else "fp32"


def export_random_backbone(
    weights: Path,
    variant_name: str,
    grid: tuple[int, int],
    output_dir: Path,
    check_image: Path,
    precision: str = "auto",
) -> Artefact[BackboneManifest]:
    """Export what `write_random_backbone` wrote for one input size, proven against PyTorch.

    Args:
        weights: The checkpoint.
        variant_name: Backbone it is of; its default blocks are tapped.
        grid: Patch grid ``(rows, columns)``.
        output_dir: Folder of artefacts.
        check_image: What graph and PyTorch are compared on.
        precision: Of the server that will run it.

    Raises:
        ExportError: If it cannot be exported.
    """
    from dinspect_export.check_images import CheckImages
    from dinspect_export.onnx_export import export_backbones
    from dinspect_export.weights_location import Weights

    (artefact,) = export_backbones(
        Weights(str(weights), variant_name, weights.parent),
        [grid],
        output_dir,
        check=CheckImages(images=(check_image,)),
        precisions=(graph_precision(precision),),
    )
    return artefact


def write_random_students(folder: Path, dim: int, seed: int) -> tuple[Path, Path]:
    """Write the two files that the official L2BT code writes, one state dict each.

    Args:
        folder: Where they go.
        dim: Width of a patch token.
        seed: Of the weights; the same seed gives the same ones.

    Returns:
        ``forward_net_random.pth`` and ``backward_net_random.pth``, as `load_students` takes them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = StudentPair(dim)
    forward, backward = (folder / f"{one}_net_random.pth" for one in ("forward", "backward"))
    torch.save(pair.forward_student.state_dict(), forward)
    torch.save(pair.backward_student.state_dict(), backward)
    return forward, backward
