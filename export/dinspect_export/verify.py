"""Every runtime that can run what was built, held against PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dinspect_export.build_items import BackboneItem, EngineItem
from dinspect_export.build_plan import Plan
from dinspect_export.check_images import CheckImages
from dinspect_export.description import Description
from dinspect_export.errors import (
    ManifestError,
    MissingDependencyError,
    RuntimeUnavailableError,
    ServerUnavailableError,
)
from dinspect_export.manifest import ENGINE_FILE
from dinspect_export.proof import Proof
from dinspect_export.recipes import TOLERANCES, Tolerances
from dinspect_export.runtimes import (
    EngineRunner,
    OnnxRuntimeRunner,
    OpenVinoRunner,
    Runner,
    ServedRunner,
    served_models,
)
from dinspect_export.verification import Reference


@dataclass(frozen=True)
class Verdict:
    """What verification says of one artefact run by one runtime.

    Attributes:
        artefact: What was run.
        runtime: What ran it.
        proof: The figures; None where the runtime is not there.
        not_run: Why it could not be run; empty when it was.
    """

    artefact: str
    runtime: str
    proof: Proof | None
    not_run: str = ""


# What OpenVINO is told to run a graph in, and what is then demanded: it lowers FP32 graphs itself.
_OPENVINO_PRECISIONS: dict[str, dict[str, str]] = {
    "fp32": {"f32": "fp32", "f16": "fp16"},
    "fp16": {},
    "int8": {"f32": "int8"},
}


@dataclass(frozen=True)
class _Candidate:
    artefact: str
    runtime: str
    tolerances: Tolerances
    batches: tuple[int, ...]
    start: Callable[[], Runner]


def verify(
    description: Description, *, check: CheckImages | None = None, server_url: str | None = None
) -> Iterator[Verdict]:
    """Run everything that was built by everything that can run it.

    Args:
        description: What was built.
        check: Images to compare on; None for the description's own.
        server_url: gRPC address of a Triton server whose backbones are compared too.

    Raises:
        ManifestError: If an artefact is missing or stale; run ``dinspect build``.
        ServerUnavailableError: If a server was named and does not answer.
    """
    plan = Plan(description, download=False)
    for item in plan.items:
        reasons = item.stale_reasons()
        if reasons:
            raise ManifestError(f"{item.name} is stale ({reasons[0]}); run 'dinspect build' first")
    images = check or description.check_images
    served = _served_of(plan, server_url)
    sizes = {(item.recipe.variant, item.recipe.grid, item.recipe.layers) for item in plan.backbones}
    for size in sorted(sizes):
        yield from _verify_size(plan, size, images, served)
    for item in plan.students:
        yield Verdict(item.name, "onnxruntime", item.prove(OnnxRuntimeRunner(item.model)))
    for engine in plan.engines:
        if not isinstance(engine.graph, BackboneItem):
            yield _verify_other_engine(engine)


def _served_of(plan: Plan, server_url: str | None) -> dict[str, str]:
    """Described backbones that the server serves, to its address.

    Raises:
        ServerUnavailableError: If it does not answer, or serves none of them.
    """
    if server_url is None:
        return {}
    names = [item.name for item in plan.backbones]
    served = served_models(server_url, names)
    if not served:
        raise ServerUnavailableError(
            f"the server at {server_url} serves none of {', '.join(names) or 'no backbone'}"
        )
    return dict.fromkeys(served, server_url)


def _verify_other_engine(engine: EngineItem) -> Verdict:
    """An engine of students, or of a graph made elsewhere."""
    if engine.graph.prove is None:
        return Verdict(engine.name, engine.target, None, "PyTorch does not know this graph")
    try:
        runner = EngineRunner(engine.path / ENGINE_FILE, engine.target)
    except (RuntimeUnavailableError, MissingDependencyError) as error:
        return Verdict(engine.name, engine.target, None, str(error))
    return Verdict(engine.name, engine.target, engine.graph.prove(runner))


def _verify_size(
    plan: Plan, size: tuple[object, ...], images: CheckImages, served: dict[str, str]
) -> Iterator[Verdict]:
    """All graphs and engines of one backbone and input size; PyTorch runs once for them."""
    from dinspect_export.runtimes import PyTorchRunner

    items = [
        item
        for item in plan.backbones
        if (item.recipe.variant, item.recipe.grid, item.recipe.layers) == size
    ]
    model = items[0].exporter.get().exportable(items[0].recipe)
    reference = Reference(PyTorchRunner(model), images, model.input_size)
    engines = [engine for engine in plan.engines if engine.graph in items]
    for candidate in _candidates(items, engines, served):
        try:
            runner = candidate.start()
        except (RuntimeUnavailableError, MissingDependencyError) as error:
            yield Verdict(candidate.artefact, candidate.runtime, None, str(error))
            continue
        proof = reference.prove(runner, candidate.tolerances, candidate.batches)
        yield Verdict(candidate.artefact, candidate.runtime, proof)


def _candidates(
    items: list[BackboneItem], engines: list[EngineItem], served: dict[str, str]
) -> Iterator[_Candidate]:
    for item in items:
        kept, smallest = TOLERANCES[item.precision], item.batch[:1]
        start = _starting(OnnxRuntimeRunner, item.model)
        yield _Candidate(item.name, "onnxruntime", kept, smallest, start)
        for hint, precision in _OPENVINO_PRECISIONS[item.precision].items():
            start = _starting(OpenVinoRunner, item.model, hint)
            yield _Candidate(item.name, f"openvino {hint}", TOLERANCES[precision], smallest, start)
        if item.name in served:
            start = _starting(ServedRunner, served[item.name], item.name, item.recipe.layers)
            # What a server runs a graph in is its own choice.
            served_in = TOLERANCES["int8" if item.precision == "int8" else "fp16"]
            yield _Candidate(item.name, "served", served_in, smallest, start)
    for engine in engines:
        kept = TOLERANCES[engine.graph.precision]
        start = _starting(EngineRunner, engine.path / ENGINE_FILE, engine.target)
        batches = tuple(sorted(set(engine.graph.batch)))
        yield _Candidate(engine.name, engine.target, kept, batches, start)


def _starting(runner: Callable[..., Runner], *arguments: object) -> Callable[[], Runner]:
    return lambda: runner(*arguments)
