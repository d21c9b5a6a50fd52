"""Weights from where they are published to one strict state dict with Meta's names.

Sources:

* a file or folder as Meta, Hugging Face, timm or torchvision publishes it: ``.pth`` or safetensors,
  sharded or whole; Meta's can be downloaded once from Meta's address;
* ``packaged``: the demo's weights, see `packaged_weights`.

A `Checkpoint` that exists fits its backbone: every parameter is there, finite and of its shape, and
nothing is left over.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dinspect_export.backbone import VisionTransformer
from dinspect_export.checkpoint_names import SCHEMES, NamingScheme, recognise
from dinspect_export.errors import CheckpointError, InvalidGeometryError
from dinspect_export.packaged_weights import hugging_face_state_from_onnx
from dinspect_export.state_fit import misfit, not_finite, some_of
from dinspect_export.tensor_files import read_tensors
from dinspect_export.variants import VARIANTS, BackboneVariant, variant_by_name
from dinspect_export.weights_download import download_from_meta
from dinspect_export.weights_location import (
    META,
    PACKAGED,
    PACKAGED_REQUIREMENT,
    checkpoint_files,
    packaged_onnx_path,
    weights_sha256,
)

__all__ = ["Checkpoint", "load_checkpoint", "network_from_checkpoint", "packaged_onnx_path"]

logger = logging.getLogger(__name__)

_LEAST_LIKENESS = 0.5


@dataclass(frozen=True)
class Checkpoint:
    """Weights that fit their backbone, with their origin.

    Attributes:
        variant: The backbone they belong to.
        state_dict: Meta's parameter names to float32 tensors.
        source: File the weights were read from, as shown to a person.
        sha256: Hex digest of that file; see `weights_location.weights_sha256`.
        fine_tuned: True when these are not the published weights.

    Raises:
        CheckpointError: If a parameter is missing, left over, of another shape or not finite; the
            message lists them and names the backbone the weights look like, when it is another one.
    """

    variant: BackboneVariant
    state_dict: Mapping[str, Tensor]
    source: str
    sha256: str
    fine_tuned: bool = False

    def __post_init__(self) -> None:
        state, expected = self.state_dict, _parameter_shapes(self.variant)
        wrong = misfit(state, expected)
        if wrong:
            raise CheckpointError(
                f"{self.source} is not {self.variant.name}{_likeness(state, self.variant)}: {wrong}"
            )
        broken = not_finite(state)
        if broken:
            raise CheckpointError(
                f"{self.source} holds NaN or infinity in {some_of(broken)}; fetch it again"
            )


def load_checkpoint(weights: str, variant_name: str, cache_dir: Path) -> Checkpoint:
    """Load weights from the place ``weights`` names.

    Args:
        weights: ``packaged``, ``meta`` (downloaded once into ``cache_dir``), a ``.pth`` or
            safetensors file, or a folder in Hugging Face's layout. Whose parameter names it has is
            told by the names themselves.
        variant_name: Backbone the weights belong to.
        cache_dir: Folder for downloads.

    Raises:
        CheckpointError: If the weights are missing, unreadable, damaged or of another variant.
        MissingDependencyError: If the package that carries the packaged weights is missing.
    """
    variant = variant_by_name(variant_name)
    if weights == META:
        download_from_meta(variant, cache_dir)
    files = checkpoint_files(weights, variant_name, cache_dir)
    if weights == PACKAGED:
        logger.warning(
            "packaged weights: a DINOv2 ViT-S/14 that its author fine-tuned for saliency; "
            "for demo and tests, not for production"
        )
        tensors = hugging_face_state_from_onnx(files[0])
        source = f"{PACKAGED_REQUIREMENT}:{files[0].name}"
    else:
        tensors = read_tensors(files)
        source = files[0].name if weights == META else Path(weights).absolute().name
    scheme = _naming_scheme(tensors, source)
    state = scheme.translate(tensors)
    fine_tuned = weights == PACKAGED
    checkpoint = Checkpoint(variant, state, source, weights_sha256(files), fine_tuned)
    _check_publisher(checkpoint, scheme)
    return checkpoint


def network_from_checkpoint(checkpoint: Checkpoint, depth: int | None = None) -> VisionTransformer:
    """Build the network around the checkpoint's own tensors, in evaluation mode.

    The tensors are shared, not copied: a ViT-g is 4.5 GB.

    Args:
        checkpoint: The weights.
        depth: Blocks to keep, the variant's if None; later ones are left out.

    Raises:
        InvalidGeometryError: If the variant has fewer blocks.
    """
    variant = checkpoint.variant
    if depth is not None and not 1 <= depth <= variant.depth:
        raise InvalidGeometryError(
            f"depth {depth} of {variant.name} must lie in 1..{variant.depth}"
        )
    with torch.device("meta"):
        network = VisionTransformer(variant, depth)
    state = {name: checkpoint.state_dict[name] for name in network.state_dict()}
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _naming_scheme(tensors: Mapping[str, Tensor], source: str) -> NamingScheme:
    scheme = recognise(tensors)
    if scheme is None:
        raise CheckpointError(
            f"{source} holds no vision transformer known here: its parameters are called "
            f"{some_of(list(tensors))}; expected are the names of "
            f"{', '.join(known.title for known in SCHEMES)}"
        )
    return scheme


def _check_publisher(checkpoint: Checkpoint, scheme: NamingScheme) -> None:
    """Refuse weights that fit by their shapes and yet belong to another backbone.

    Shapes cannot tell vit_b_16 from vit_base_patch16_224. Their pixel normalisation differs, and a
    wrong one would go unnoticed, so the parameters' names decide.
    """
    variant = checkpoint.variant
    if variant.publisher not in scheme.publishers:
        alike = [
            other.name
            for other in VARIANTS.values()
            if other.publisher in scheme.publishers
            and _parameter_shapes(other) == _parameter_shapes(variant)
        ]
        raise CheckpointError(
            f"{checkpoint.source} has {scheme.title}'s parameter names, but {variant.name} is "
            f"published by {variant.publisher}; it looks like {some_of(alike)}"
        )


@functools.cache
def _parameter_shapes(variant: BackboneVariant) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = VisionTransformer(variant)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _likeness(state: Mapping[str, Tensor], variant: BackboneVariant) -> str:
    """Name the variants whose parameters agree best, unless it is this one; for a message."""
    found = {(name, tuple(tensor.shape)) for name, tensor in state.items()}
    likeness = {}
    for other in VARIANTS.values():
        expected = set(_parameter_shapes(other).items())
        likeness[other.name] = len(found & expected) / len(found | expected)
    best = max(likeness.values())
    names = [name for name, value in likeness.items() if value == best]
    if best < _LEAST_LIKENESS or variant.name in names:
        return ""
    return f" (it looks like {' or '.join(names)})"
