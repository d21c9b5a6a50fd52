"""Tensors out of weight files that nobody vouches for.

Nothing is unpickled: PyTorch files are read with ``weights_only=True``, and safetensors hold no
code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinspect_export.errors import CheckpointError

_READABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PYTORCH_STARTS = (b"PK\x03\x04", b"\x80")  # a zip archive, or the bare pickle of older versions
_MOST_KEYS_SHOWN = 3


def read_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """Read all tensors of a weight file or of its shards.

    Args:
        files: PyTorch or safetensors files; what they are is told by their content.

    Returns:
        Names as in the files; float32, contiguous, on the CPU.

    Raises:
        CheckpointError: If a file is empty, truncated, no weight file, or holds anything but named
            floating-point tensors, or if two shards hold the same name.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        read = _read_safetensors if _is_safetensors(path) else _read_pytorch
        for name, tensor in read(path):
            if name in tensors:
                raise CheckpointError(f"{path} holds {name}, which another shard holds, too")
            if tensor.dtype not in _READABLE_DTYPES or tensor.layout is not torch.strided:
                raise CheckpointError(
                    f"{path}: {name} is {tensor.dtype} ({tensor.layout}), expected are dense "
                    "weights in FP32, FP16 or BF16; quantised checkpoints cannot be used"
                )
            tensors[name] = tensor.to(torch.float32).contiguous()
    if not tensors:
        raise CheckpointError(f"{', '.join(map(str, files))} holds no tensors")
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors (True) or PyTorch's (False) by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not start:
        raise CheckpointError(f"{path} is empty; fetch it again")
    # Before the other: the first of safetensors' 8 bytes of length can be any.
    if start[8:9] == b"{":
        return True
    if start.startswith(_PYTORCH_STARTS):
        return False
    raise CheckpointError(
        f"{path} is no weight file: it begins with {start!r}, expected a PyTorch or safetensors "
        "file. Was an error page or a pointer saved in its place? Fetch it again"
    )


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """One tensor at a time, so that a large model is not held twice while it is converted."""
    try:
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"cannot read {path} as safetensors (truncated?): {error}; fetch it again"
        ) from error


def _read_pytorch(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        # Given a path, torch.load would go by the file's name.
        with path.open("rb") as file:
            loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many unrelated classes for a damaged file
        # Its own message is left out: it recommends to unpickle.
        raise CheckpointError(
            f"cannot read {path} as PyTorch weights ({type(error).__name__}): it is truncated, "
            "or holds more than plain tensors, which is never unpickled; fetch it again"
        ) from error
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    ):
        content = list(loaded)[:_MOST_KEYS_SHOWN] if isinstance(loaded, dict) else type(loaded)
        raise CheckpointError(
            f"{path} holds no state dict of tensors but {content}; save the state dict alone"
        )
    for name in list(loaded):
        yield name, loaded.pop(name)
