"""Where the time goes, by Triton's own clocks.

Triton counts, per model, how many requests it served and how many nanoseconds they spent in its
queue and in each phase. Two readings around a measurement give the mean per request in between.
The steps are those of the served ensemble's own config, so other ensembles' models stay out.

Source: Triton's statistics extension (`docs/protocol/extension_statistics.md`): ``success`` is the
whole request; ``queue``, ``compute_input``, ``compute_infer`` and ``compute_output`` are its parts;
requests that failed are in none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dinspect_bench.errors import StatisticsError
from dinspect_bench.latency.part_times import part_times_ms, read_parts
from dinspect_bench.served import server_errors

if TYPE_CHECKING:
    from typing_extensions import Self

PHASES = ("queue", "compute_input", "compute_infer", "compute_output")
_WHOLE = "success"
_NS_PER_MS = 1e6
_SETTLE_PAUSE_S = 0.05
_SETTLE_READINGS = 40
_PARTS_NOT_READ = "the address of the server's metrics was not given"

Json = Mapping[str, Any]
ReadingT = TypeVar("ReadingT")


class StatisticsSource(Protocol):
    """What is used of ``tritonclient.grpc.InferenceServerClient``."""

    def get_inference_statistics(self, model_name: str = "", *, as_json: bool = False) -> Any:
        """Statistics of one model, of all when the name is empty."""

    def get_model_config(self, model_name: str, *, as_json: bool = False) -> Any:
        """The config a model is served with."""


@dataclass(frozen=True)
class Duration:
    """A running total since the server loaded the model.

    Attributes:
        count: Requests counted.
        total_ns: Their time together.
    """

    count: int
    total_ns: int


@dataclass(frozen=True)
class Snapshot:
    """Running totals of one ensemble and its steps at one moment.

    Attributes:
        ensemble: Name of the ensemble.
        steps: Names of the models it runs, in the order of its config.
        totals: Model name to phase to running total; ``success`` is the whole request.
        parts_us: Part of the preprocessing to its running total in microseconds; empty if unknown.
        parts_unknown: Why they are, else empty.
    """

    ensemble: str
    steps: tuple[str, ...]
    totals: Mapping[str, Mapping[str, Duration]]
    parts_us: Mapping[str, float] = field(default_factory=dict)
    parts_unknown: str = _PARTS_NOT_READ


@dataclass(frozen=True)
class StepTimes:
    """Mean time of one step of an ensemble.

    Attributes:
        name: Model name.
        count: Requests the means are over; 0 when the step was not needed.
        queue_ms: Waiting for the model to be free, per request.
        compute_input_ms: Handing the inputs over.
        compute_infer_ms: The model itself.
        compute_output_ms: Handing the outputs over.
    """

    name: str
    count: int
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float

    @property
    def compute_ms(self) -> float:
        """The step without waiting."""
        return self.compute_input_ms + self.compute_infer_ms + self.compute_output_ms

    @property
    def total_ms(self) -> float:
        """The step with waiting; the sum of the four phases."""
        return self.queue_ms + self.compute_ms


@dataclass(frozen=True)
class ServerTimes:
    """Mean times inside the server, per request.

    Attributes:
        ensemble: Name of the ensemble.
        count: Requests it served between the two readings.
        total_ms: The whole request inside the server.
        steps: Its steps in the order of its config.
        parts_ms: Part of the preprocessing to its time; empty if unknown.
        parts_unknown: Why they are, else empty.
    """

    ensemble: str
    count: int
    total_ms: float
    steps: tuple[StepTimes, ...]
    parts_ms: Mapping[str, float] = field(default_factory=dict)
    parts_unknown: str = _PARTS_NOT_READ

    @property
    def between_steps_ms(self) -> float:
        """What the ensemble's total has beyond its steps: routing from model to model."""
        return self.total_ms - sum(step.total_ms for step in self.steps)

    def backbone(self) -> StepTimes:
        """The step that runs the vision transformer, of either method's ensemble.

        Raises:
            StatisticsError: If not exactly one step is a backbone by its name.
        """
        return self.step("backbone", "dinov2")

    def step(self, *beginnings: str) -> StepTimes:
        """The one step whose model's name begins with one of some words.

        Raises:
            StatisticsError: If not exactly one does.
        """
        found = [step for step in self.steps if step.name.startswith(beginnings)]
        if len(found) != 1:
            names = ", ".join(step.name for step in self.steps)
            raise StatisticsError(
                f"{self.ensemble} must have one step called {' or '.join(beginnings)}..., "
                f"it has: {names}"
            )
        return found[0]


def ensemble_steps(client: StatisticsSource, ensemble: str) -> tuple[str, ...]:
    """Names of the models an ensemble runs, in the order of its served config.

    Raises:
        StatisticsError: If the model is no ensemble.
    """
    config = client.get_model_config(ensemble, as_json=True).get("config", {})
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    if not steps:
        raise StatisticsError(f"{ensemble} has no steps in its config; it is no ensemble")
    return tuple(step["model_name"] for step in steps)


def totals_from_json(reply: Json) -> dict[str, dict[str, Duration]]:
    """Running totals per model, its versions added up.

    Args:
        reply: Triton's ``ModelStatisticsResponse`` as JSON. Integers are strings there, and a
            zero is left out altogether.
    """
    totals: dict[str, dict[str, Duration]] = {}
    for model in reply.get("model_stats", []):
        phases = totals.setdefault(model["name"], dict.fromkeys((_WHOLE, *PHASES), Duration(0, 0)))
        recorded = model.get("inference_stats", {})
        for phase, before in phases.items():
            entry = recorded.get(phase, {})
            phases[phase] = Duration(
                before.count + int(entry.get("count", 0)),
                before.total_ns + int(entry.get("ns", 0)),
            )
    return totals


def snapshot(client: StatisticsSource, ensemble: str) -> Snapshot:
    """Read the running totals of an ensemble and its steps.

    Raises:
        StatisticsError: If the ensemble or one of its steps has no statistics.
    """
    steps = ensemble_steps(client, ensemble)
    totals = totals_from_json(client.get_inference_statistics(as_json=True))
    missing = [name for name in (ensemble, *steps) if name not in totals]
    if missing:
        raise StatisticsError(f"the server has no statistics of {', '.join(missing)}")
    return Snapshot(ensemble, steps, {name: totals[name] for name in (ensemble, *steps)})


def settled_snapshot(
    client: StatisticsSource,
    ensemble: str,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Read until two readings agree.

    A model answers before it reports its times, so right after the last answer a reading may lack
    that request.

    Raises:
        StatisticsError: As `snapshot`, or if the totals keep growing because others send requests.
    """
    return _settled(lambda: snapshot(client, ensemble), ensemble, sleep)


def settled_duration(
    client: StatisticsSource, model: str, *, sleep: Callable[[float], None] = time.sleep
) -> Duration:
    """The whole requests of one model, read until two readings agree.

    Raises:
        StatisticsError: If the model has no statistics or they do not settle.
    """

    def read() -> Duration:
        totals = totals_from_json(client.get_inference_statistics(as_json=True))
        if model not in totals:
            raise StatisticsError(f"the server has no statistics of {model}")
        return totals[model][_WHOLE]

    return _settled(read, model, sleep)


def _settled(read: Callable[[], ReadingT], model: str, sleep: Callable[[float], None]) -> ReadingT:
    latest = read()
    for _ in range(_SETTLE_READINGS):
        sleep(_SETTLE_PAUSE_S)
        previous, latest = latest, read()
        if latest == previous:
            return latest
    raise StatisticsError(
        f"the statistics of {model} keep changing while nothing is measured; "
        "other clients use this server, so its times would be theirs too"
    )


class StatisticsReader:
    """Reads one ensemble's statistics over gRPC; a context manager.

    Args:
        grpc_url: Server as ``host:port``.
        ensemble: Ensemble to read.
        metrics_url: The server's metrics, which tell decoding from resizing; empty for neither.
    """

    def __init__(self, grpc_url: str, ensemble: str, metrics_url: str = "") -> None:
        import tritonclient.grpc

        self._client = tritonclient.grpc.InferenceServerClient(grpc_url)
        self._ensemble = ensemble
        self._metrics_url = metrics_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def read(self) -> Snapshot:
        """Running totals once they have settled; see `settled_snapshot`.

        Raises:
            StatisticsError: If the server does not show them (they may be restricted) or they do
                not settle.
        """
        with server_errors(f"the statistics of {self._ensemble}"):
            settled = settled_snapshot(self._client, self._ensemble)
        if not self._metrics_url:
            return settled
        try:
            parts_us = read_parts(self._metrics_url, settled.steps[0])
        except StatisticsError as error:
            return replace(settled, parts_unknown=str(error))
        return replace(settled, parts_us=parts_us, parts_unknown="")


def difference(before: Snapshot, after: Snapshot) -> ServerTimes:
    """Mean times of the requests between two readings.

    Raises:
        StatisticsError: If the readings are of different ensembles, a total went down (the server
            or a model was restarted in between) or no request was served.
    """
    if (before.ensemble, before.steps) != (after.ensemble, after.steps):
        raise StatisticsError(
            f"the readings are of {before.ensemble} {before.steps} "
            f"and {after.ensemble} {after.steps}; they must be of one ensemble"
        )
    count, total_ms = _mean_ms(before, after, before.ensemble, _WHOLE)
    if count == 0:
        raise StatisticsError(f"{before.ensemble} served no request between the two readings")
    steps = tuple(_step_times(before, after, name) for name in before.steps)
    unknown = before.parts_unknown or after.parts_unknown
    parts_ms = {} if unknown else part_times_ms(before.parts_us, after.parts_us, count)
    return ServerTimes(before.ensemble, count, total_ms, steps, parts_ms, unknown)


def _step_times(before: Snapshot, after: Snapshot, name: str) -> StepTimes:
    count, _ = _mean_ms(before, after, name, _WHOLE)
    means = {f"{phase}_ms": _mean_ms(before, after, name, phase)[1] for phase in PHASES}
    return StepTimes(name, count, **means)


def _mean_ms(before: Snapshot, after: Snapshot, model: str, phase: str) -> tuple[int, float]:
    """Requests between two readings and their mean time in one phase."""
    start, end = before.totals[model][phase], after.totals[model][phase]
    count, total_ns = end.count - start.count, end.total_ns - start.total_ns
    if count < 0 or total_ns < 0:
        raise StatisticsError(
            f"{model} counted fewer requests after the measurement than before; "
            "the server or the model was restarted, measure again"
        )
    return count, total_ns / count / _NS_PER_MS if count else 0.0
