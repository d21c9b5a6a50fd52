"""What the device is, and in which state: clocks, power, temperature."""

from __future__ import annotations

import subprocess
from typing import Any

from dinspect_bench.gpu.session import GpuRun

STATE = {
    "name": "name",
    "driver": "driver_version",
    "compute_capability": "compute_cap",
    "memory_mib": "memory.total",
    "sm_clock_mhz": "clocks.current.sm",
    "max_sm_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.current.memory",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
}
"""Our names to `nvidia-smi`'s; what a driver does not tell comes as text."""
_TIMEOUT_S = 30.0


def record_device(run: GpuRun, moment: str) -> None:
    """Record the device and its state.

    Args:
        run: The run.
        moment: When, for a person.
    """
    state = gpu_state() if run.scope.device == "cuda" else {}
    properties = _properties() if run.scope.device == "cuda" else {}
    run.append("device", moment=moment, **state, **properties)


def gpu_state() -> dict[str, Any]:
    """The first GPU as the driver tells; empty where there is none."""
    query = [
        "nvidia-smi",
        f"--query-gpu={','.join(STATE.values())}",
        "--format=csv,noheader,nounits",
    ]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return state_from_csv(answer.stdout) if answer.returncode == 0 else {}


def state_from_csv(text: str) -> dict[str, Any]:
    """The driver's first line of values; numbers where they are, but for the compute capability."""
    lines = text.splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if len(values) != len(STATE):
        return {}
    texts = ("name", "driver", "compute_capability")
    return {
        name: value if name in texts else _number(value)
        for name, value in zip(STATE, values, strict=True)
    }


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _properties() -> dict[str, Any]:
    """What PyTorch knows of the GPU."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "cuda": torch.version.cuda,
        "multiprocessors": properties.multi_processor_count,
        "device_memory_bytes": properties.total_memory,
    }
