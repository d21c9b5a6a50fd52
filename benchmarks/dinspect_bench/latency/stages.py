"""Where the time of a request goes.

A request is timed by three clocks that know nothing of each other: the client's (the whole),
Triton's (inside the server) and, where it is measured, that of an answer without work (transport,
see `transport`). That the parts add up to the whole is therefore a finding.

**What overlaps.** Triton ends a model's time when the model's tensors are released. By then the
model has answered: the next one has been queued and may be reading its inputs, or the client has
the answer on its way. Three things follow, and the stages are cut so that nothing counts twice:

- A step is its own ``compute_input`` + ``compute_infer`` + ``compute_output``; the time in its
  queue is a stage of its own for all steps together.
- What the ensemble's time has beyond its steps and queues is called routing. As steps overlap by
  their ends, it can fall below zero by that much; it is shown as it is, for only so do queues,
  steps and routing give the time inside the server, whatever overlaps.
- The ensemble's time, too, ends some time after its answer was sent. The answer without work is
  timed in the same way, client's time less server's, so that end is missing from transport as it
  is surplus in the server's time, and the sum holds.

Source: Triton's `python_backend` (`src/python_be.cc`: the times are taken around the sending of
responses) and `core` (`src/ensemble_scheduler/ensemble_scheduler.cc`: an ensemble's request ends
when its last step's is released).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dinspect_bench.latency.single_stream import LatencySummary
from dinspect_bench.latency.statistics import ServerTimes, StepTimes

MEASURED, REMAINDER = "measured", "remainder"
_STAGE_BY_BEGINNING = {
    "preprocess": "preprocess",
    "backbone": "backbone",
    "dinov2": "backbone",
    "cosine_knn": "knn",
    "students": "students",
    "anomaly_map": "map",
}


@dataclass(frozen=True)
class Stages:
    """The parts of the mean latency of a request.

    Attributes:
        times_ms: Stage to its mean: ``decode``, ``resize`` and ``preprocess_other`` (taking the
            image in and handing the pixels on), or ``preprocess`` if they cannot be told apart;
            ``backbone``; ``knn`` or ``students``; ``map`` if it was asked for; ``queue``;
            ``routing``; ``transport`` (the client's part, and gRPC in both directions).
        transport: ``measured`` by itself, or the ``remainder`` of the client's mean.
        whole_ms: The client's mean.
    """

    times_ms: Mapping[str, float]
    transport: str
    whole_ms: float

    @property
    def sum_share(self) -> float | None:
        """Sum of the stages over the whole; None where transport is what makes it 1."""
        if self.transport == REMAINDER:
            return None
        return sum(self.times_ms.values()) / self.whole_ms


def stages_of(
    summary: LatencySummary, server: ServerTimes, transport_ms: float | None = None
) -> Stages:
    """Cut the client's mean into stages.

    Args:
        summary: The client's times.
        server: Triton's of the same requests.
        transport_ms: Mean time of a request outside the server, measured by itself; None takes
            what the server leaves of the client's mean.
    """
    times_ms: dict[str, float] = {}
    for step in server.steps:
        if step.count:
            times_ms.update(_stages_of_step(step, server.parts_ms))
    times_ms["queue"] = sum(step.queue_ms for step in server.steps)
    times_ms["routing"] = server.between_steps_ms
    remainder_ms = summary.mean - server.total_ms
    times_ms["transport"] = remainder_ms if transport_ms is None else transport_ms
    kind = REMAINDER if transport_ms is None else MEASURED
    return Stages(times_ms, kind, summary.mean)


def _stages_of_step(step: StepTimes, parts_ms: Mapping[str, float]) -> dict[str, float]:
    fitting = (stage for word, stage in _STAGE_BY_BEGINNING.items() if step.name.startswith(word))
    name = next(fitting, step.name)
    if name != "preprocess" or not parts_ms:
        return {name: step.compute_ms}
    other_ms = step.compute_ms - sum(parts_ms.values())
    return {**parts_ms, "preprocess_other": other_ms}


def latency_by_step(summary: LatencySummary, server: ServerTimes) -> dict[str, Any]:
    """Mean milliseconds per request by step and phase; the parts add up to the client's mean.

    ``between_steps`` and ``transport_and_client`` are what is left over, and may come out below
    zero; see above what overlaps.
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
