"""Patch tokens of two blocks, kept in files: L2BT's teacher runs once per image, not per epoch.

A cache is a folder of four files. ``key.json`` says what the tokens are of; ``tokens_j.npy`` and
``tokens_k.npy`` hold them, ``(images, N, D)`` float16; ``filled.npy`` has one byte per image. All
have their full size from the start, and what is read of them is the system's page cache: memory
does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from dinspect_export.artefact_store import staged_folder, writing
from dinspect_export.errors import StorageError, TrainingError
from dinspect_export.state_fit import some_of
from dinspect_export.variants import BackboneVariant

KEY_FILE = "key.json"
TOKEN_FILES = ("tokens_j.npy", "tokens_k.npy")
FILLED_FILE = "filled.npy"
FORMAT_VERSION = 1
_MISSING, _FILLED = 0, 1
_BYTES_PER_NUMBER = 2  # float16


@dataclass(frozen=True)
class TokenCacheKey:
    """What the tokens of a cache are of; tokens of different keys never meet in one cache.

    Attributes:
        images_sha256: Digest of each image's file, in the order of the images' indices.
        backbone_sha256: Digest of the graph that computes the tokens. It must change with whatever
            changes them, the input size for one: 24 x 32 patches are as many as 32 x 24.
        layers: One-based blocks ``(j, k)``.
        num_patches: Patches of an image, N.
        dim: Width of a patch token, D.

    Raises:
        TrainingError: If there are no images, patches or dimensions.
    """

    images_sha256: tuple[str, ...]
    backbone_sha256: str
    layers: tuple[int, int]
    num_patches: int
    dim: int

    def __post_init__(self) -> None:
        if min(self.num_images, self.num_patches, self.dim) < 1:
            raise TrainingError(
                f"a cache of {self.num_images} images, {self.num_patches} patches, width "
                f"{self.dim}: nothing can be trained on it, expected at least one of each"
            )

    @property
    def num_images(self) -> int:
        """How many images there are."""
        return len(self.images_sha256)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the tokens of one block: images, patches, width."""
        return self.num_images, self.num_patches, self.dim

    @property
    def num_bytes(self) -> int:
        """Size of the tokens on the disk."""
        return len(TOKEN_FILES) * _BYTES_PER_NUMBER * int(np.prod(self.shape, dtype=np.int64))

    @property
    def sha256(self) -> str:
        """Digest of the whole key."""
        return hashlib.sha256(json.dumps(self.record(), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """The key as JSON gives it back."""
        record = asdict(self)
        record["images_sha256"] = list(self.images_sha256)
        record["layers"] = list(self.layers)
        return {"format_version": FORMAT_VERSION, **record}


class TokenCache:
    """Tokens of a list of images, filled one by one, in any order and over any number of runs.

    Whichever moment a process is killed at, an image that counts as filled is whole. One process at
    a time may create, fill or remove a cache; any number may read it.

    Attributes:
        folder: Where it is.
        key: What it holds.
    """

    def __init__(self, folder: Path, key: TokenCacheKey) -> None:
        """Map the files of a cache that exists; see `open`, which also makes one."""
        self.folder = folder
        self.key = key
        self._tokens = [_map(folder / name, key.shape, np.float16) for name in TOKEN_FILES]
        self._filled = _map(folder / FILLED_FILE, (key.num_images,), np.uint8)

    @classmethod
    def open(cls, folder: Path, key: TokenCacheKey, max_bytes: int) -> TokenCache:
        """Open a cache, or make an empty one where there is nothing.

        Args:
            folder: The cache's own folder.
            key: What it holds, or shall hold.
            max_bytes: The most it may take of the disk.

        Raises:
            StorageError: If it would be larger than allowed or than what is free on the disk, which
                is found out before anything is written; if the folder holds something else, or
                files that are damaged.
            TrainingError: If the folder holds tokens of another key.
        """
        folder = folder.resolve()
        _require_within(key.num_bytes, max_bytes, f"{max_bytes:,} bytes are allowed", folder)
        if not (folder / KEY_FILE).exists():
            _create(folder, key)
        _require_key(folder, key)
        return cls(folder, key)

    def missing(self) -> list[int]:
        """Indices of the images whose tokens are yet to be put, ascending."""
        return np.flatnonzero(self._filled != _FILLED).tolist()

    def put(self, index: int, tokens_j: Tensor, tokens_k: Tensor) -> None:
        """Store the tokens of an image, and do not return before they are on the disk.

        Args:
            index: Of the image, from 0.
            tokens_j: ``(N, D)`` of block j, as the backbone gives them; rounded to float16.
            tokens_k: The same of block k.

        Raises:
            TrainingError: If there is no such image, or its tokens are of another shape, not
                finite, or beyond what float16 holds; what was stored before stays.
            StorageError: If the disk refuses.
        """
        self._require_index(index)
        halves = [
            self._to_half(index, layer, tokens)
            for layer, tokens in zip(self.key.layers, (tokens_j, tokens_k), strict=True)
        ]
        with writing(self.folder / FILLED_FILE):
            self._mark(index, _MISSING)  # tokens that are replaced are neither old nor new
            for stored, half in zip(self._tokens, halves, strict=True):
                stored[index] = half.numpy()
                stored.flush()
            self._mark(index, _FILLED)

    def read(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read the tokens of some images.

        Args:
            indices: Of the images, in any order.

        Returns:
            Tokens of block j and of block k, each ``(len(indices), N, D)`` float32, copies.

        Raises:
            TrainingError: If an image is not in the cache, or not yet.
        """
        self.require(indices)
        tokens_j, tokens_k = (_to_float(stored, indices) for stored in self._tokens)
        return tokens_j, tokens_k

    def require(self, indices: Sequence[int]) -> None:
        """Make sure that the tokens of these images can be read.

        Raises:
            TrainingError: If an image is not in the cache, or not yet.
        """
        for index in indices:
            self._require_index(index)
        empty = [str(index) for index in indices if self._filled[index] != _FILLED]
        if empty:
            raise TrainingError(
                f"{self.folder} has no tokens yet of image {some_of(empty)}, {len(empty)} of "
                f"{len(indices)} asked for; run the backbone on those that are missing first"
            )

    def require_blocks(self, variant: BackboneVariant, layers: tuple[int, int]) -> None:
        """Make sure that these are the blocks the tokens are of, and the width they have.

        Raises:
            TrainingError: If they are not.
        """
        if (self.key.layers, self.key.dim) != (tuple(layers), variant.dim):
            raise TrainingError(
                f"{self.folder} holds tokens of blocks {list(self.key.layers)}, {self.key.dim} "
                f"wide, expected blocks {list(layers)} of {variant.name}, {variant.dim} wide; give "
                "the cache of that backbone and those blocks"
            )

    def remove(self) -> None:
        """Delete the folder; the cache cannot be used any more."""
        # One rename, so that no half of it is found after a kill; the name is that of what a killed
        # build leaves behind, which the next one clears away.
        doomed = self.folder.with_name(f".{self.folder.name}.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        with writing(self.folder):
            self.folder.rename(doomed)
            shutil.rmtree(doomed)

    def _mark(self, index: int, state: int) -> None:
        self._filled[index] = state
        self._filled.flush()

    def _to_half(self, index: int, layer: int, tokens: Tensor) -> Tensor:
        """Tokens in float16 on the CPU, every number of which is one."""
        image = f"image {index} (sha256 {self.key.images_sha256[index]}), block {layer}"
        if tuple(tokens.shape) != self.key.shape[1:]:
            raise TrainingError(
                f"{image}: tokens are {tuple(tokens.shape)}, expected {self.key.shape[1:]}; give "
                "those of the backbone and input size the cache is for"
            )
        half = tokens.detach().to("cpu", torch.float16)
        if half.isfinite().all():
            return half
        largest = tokens.abs().max().item()  # NaN if one is
        raise TrainingError(
            f"{image}: the largest number of its tokens is {largest:g}, expected numbers within "
            f"{torch.finfo(torch.float16).max:g} (float16); see whether the backbone's weights and "
            "precision are right, or leave the image out"
        )

    def _require_index(self, index: int) -> None:
        if not 0 <= index < self.key.num_images:
            raise TrainingError(
                f"there is no image {index} in {self.folder}, expected 0..{self.key.num_images - 1}"
            )


def _to_float(stored: NDArray[np.float16], indices: Sequence[int]) -> Tensor:
    """Images out of a mapped file, converted while they are copied."""
    tokens = torch.empty(len(indices), *stored.shape[1:])
    for row, index in enumerate(indices):
        tokens[row] = torch.from_numpy(stored[index])
    return tokens


def _create(folder: Path, key: TokenCacheKey) -> None:
    """Make an empty cache of full size, whole or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(
            f"{folder} is no cache of tokens (it has no {KEY_FILE}) and not empty; give a folder "
            "that is, or one that does not exist"
        )
    free_bytes = shutil.disk_usage(_nearest_folder(folder)).free
    _require_within(key.num_bytes, free_bytes, f"{free_bytes:,} bytes are free", folder)
    with staged_folder(folder) as staged:
        for name in TOKEN_FILES:
            _reserve(staged / name, key.shape, np.float16)
        _reserve(staged / FILLED_FILE, (key.num_images,), np.uint8)
        with (staged / KEY_FILE).open("w", encoding="utf-8") as file:
            json.dump(key.record(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())


def _reserve(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
    """Write an array of zeros whose blocks on the disk are its own.

    Without them a full disk would show when a mapped page is written: the process is killed then
    (SIGBUS), and no error is raised.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        os.fsync(file.fileno())


def _map(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """Map an array's file, which must be exactly what `_reserve` writes; nothing is unpickled."""
    try:
        np.lib.format.open_memmap(path, mode="r")  # "r+" would lengthen a truncated file in silence
        mapped = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot read {path} (missing, truncated?): {error}; remove {path.parent}, it is made "
            "anew"
        ) from error
    if (mapped.shape, mapped.dtype) != (shape, np.dtype(dtype)) or not mapped.flags.c_contiguous:
        raise StorageError(
            f"{path} holds {mapped.shape} {mapped.dtype}, expected {shape} {np.dtype(dtype)}; "
            f"remove {path.parent}, it is made anew"
        )
    return mapped


def _require_key(folder: Path, key: TokenCacheKey) -> None:
    try:
        found = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot read {folder / KEY_FILE}: {error}; remove {folder}, it is made anew"
        ) from error
    expected = key.record()
    if found != expected:
        entries = found if isinstance(found, dict) else {}
        other = [name for name in expected if entries.get(name) != expected[name]]
        raise TrainingError(
            f"{folder} holds tokens of another {', '.join(other) or 'kind'}; remove it or give "
            "another folder"
        )


def _require_within(num_bytes: int, limit: int, limit_in_words: str, folder: Path) -> None:
    if num_bytes > limit:
        raise StorageError(
            f"the cache {folder} takes {num_bytes:,} bytes, {limit_in_words}; nothing was written. "
            "Give fewer images, a smaller input size, a larger limit or another disk"
        )


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
