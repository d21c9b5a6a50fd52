"""Where the time of a request goes."""

from __future__ import annotations

from typing import Any

from dinspect_bench.latency.single_stream import LatencySummary
from dinspect_bench.latency.statistics import ServerTimes, StepTimes


def latency_by_step(summary: LatencySummary, server: ServerTimes) -> dict[str, Any]:
    """Mean milliseconds per request by step; the parts add up to the client's mean.

    Triton counts a step until its tensors are released, when the next step or the answer is
    already on its way. So ``between_steps`` and ``transport_and_client``, which are what is left
    over, may come out below zero.
    """
    return {
        "steps": {step.name: _step(step) for step in server.steps},
        "between_steps": server.between_steps_ms,
        "server_total": server.total_ms,
        "transport_and_client": summary.mean - server.total_ms,
        "client_mean": summary.mean,
    }


def _step(step: StepTimes) -> dict[str, float]:
    return {
        "queue": step.queue_ms,
        "compute_input": step.compute_input_ms,
        "compute_infer": step.compute_infer_ms,
        "compute_output": step.compute_output_ms,
        "total": step.total_ms,
        "count": step.count,
    }
