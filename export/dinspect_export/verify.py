"""Every runtime that can run what was built, held against PyTorch on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dinspect_export.build_items import BackboneItem, EngineItem
from dinspect_export.build_plan import Plan
from dinspect_export.check_images import CheckImages
from dinspect_export.description import Description
from dinspect_export.errors import ManifestError, MissingDependencyError, RuntimeUnavailableError
from dinspect_export.manifest import ENGINE_FILE, MODEL_FILE
from dinspect_export.proof import Proof
from dinspect_export.recipes import TOLERANCES, Tolerances
from dinspect_export.runtimes import (
    EngineRunner,
    OnnxRuntimeRunner,
    OpenVinoRunner,
    Runner,
    ServedRunner,
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


@dataclass(frozen=True)
class _Candidate:
    artefact: str
    runtime: str
    tolerances: Tolerances
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
    sizes = {(item.recipe.variant, item.recipe.grid, item.recipe.layers) for item in plan.backbones}
    for size in sorted(sizes):
        yield from _verify_size(plan, size, images, server_url)


def _verify_size(
    plan: Plan, size: tuple[object, ...], images: CheckImages, server_url: str | None
) -> Iterator[Verdict]:
    """All graphs and engines of one backbone and input size; PyTorch runs once for them."""
    items = [
        item
        for item in plan.backbones
        if (item.recipe.variant, item.recipe.grid, item.recipe.layers) == size
    ]
    from dinspect_export.runtimes import PyTorchRunner

    model = items[0].exporter.get().exportable(items[0].recipe)
    reference = Reference(PyTorchRunner(model), images, model.input_size)
    engines = [engine for engine in plan.engines if engine.graph in items]
    for candidate in _candidates(items, engines, server_url):
        try:
            runner = candidate.start()
        except (RuntimeUnavailableError, MissingDependencyError) as error:
            yield Verdict(candidate.artefact, candidate.runtime, None, str(error))
            continue
        proof = reference.prove(runner, candidate.tolerances)
        yield Verdict(candidate.artefact, candidate.runtime, proof)


def _candidates(
    items: list[BackboneItem], engines: list[EngineItem], server_url: str | None
) -> Iterator[_Candidate]:
    for item in items:
        model = item.path / MODEL_FILE
        tolerances = TOLERANCES[item.precision]

        yield _Candidate(item.name, "onnxruntime", tolerances, _starting(OnnxRuntimeRunner, model))
        if item.precision == "fp32":
            for precision, kept in (("f32", "fp32"), ("f16", "fp16")):
                yield _Candidate(
                    item.name,
                    f"openvino {precision}",
                    TOLERANCES[kept],
                    _starting(OpenVinoRunner, model, precision),
                )
            if server_url is not None:
                yield _Candidate(
                    item.name,
                    "served",
                    TOLERANCES["fp16"],  # what a server runs in is its own choice
                    _starting(ServedRunner, server_url, item.name, item.recipe.layers),
                )
    for engine in engines:
        yield _Candidate(
            engine.name,
            engine.target,
            TOLERANCES[engine.graph.precision],
            _starting(EngineRunner, engine.path / ENGINE_FILE, engine.target),
        )


def _starting(runner: Callable[..., Runner], *arguments: object) -> Callable[[], Runner]:
    return lambda: runner(*arguments)
