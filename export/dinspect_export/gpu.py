"""The NVIDIA GPU of this machine, asked of its driver."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from dinspect_export.errors import RuntimeUnavailableError

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Product name, e.g. ``NVIDIA L4``.
        compute_capability: E.g. ``8.9``.
    """

    name: str
    compute_capability: str


def visible_gpu() -> Gpu | None:
    """The first GPU the driver lists, or None where there is no driver or no GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = answer.stdout.splitlines()[:1] if answer.returncode == 0 else []
    parts = [part.strip() for part in first[0].split(",")] if first else []
    return Gpu(*parts) if len(parts) == 2 else None


def require_gpu(purpose: str) -> Gpu:
    """The first GPU.

    Raises:
        RuntimeUnavailableError: If there is none.
    """
    gpu = visible_gpu()
    if gpu is None:
        raise RuntimeUnavailableError(f"{purpose} run on an NVIDIA GPU, and this machine has none")
    return gpu
