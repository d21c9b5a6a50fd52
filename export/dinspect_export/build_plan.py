"""What a description asks for, artefact by artefact, in the order it must be made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dinspect_export.build_items import (
    BackboneItem,
    EngineItem,
    Exporter,
    ForeignGraphItem,
    GraphItem,
    StudentsItem,
)
from dinspect_export.description import Backbone, Description, Students
from dinspect_export.errors import DescriptionError
from dinspect_export.recipes import backbone_recipe, students_recipe
from dinspect_export.variants import variant_by_name
from dinspect_export.weights_location import (
    META,
    Weights,
    checkpoint_files,
    meta_checkpoint_path,
    weights_sha256,
)

NOT_DOWNLOADED = "not downloaded yet"


class Plan:
    """Everything a description asks for.

    Args:
        description: The description.
        download: Whether Meta's weights may be fetched; if not, what is made of them is stale.

    Attributes:
        backbones: Backbone graphs to make.
        students: Students' graphs to make.
        engines: Engines to make, after the graphs.

    Raises:
        ExportError: If the description contradicts itself, or weights or images are missing.
    """

    def __init__(self, description: Description, *, download: bool) -> None:
        self._description = description
        self._check = description.check_images
        self._download = download
        self._artefacts = description.artefacts_dir
        self.backbones = [
            item for entry in description.backbone for item in self._backbone_items(entry)
        ]
        self.students = [
            item for entry in description.students for item in self._students_items(entry)
        ]
        foreign = [ForeignGraphItem(entry, description.base) for entry in description.graph]
        graphs: list[GraphItem] = [*self.backbones, *self.students, *foreign]
        self.engines = [
            EngineItem(graph, entry, description.engines_dir, description.base)
            for graph in graphs
            for entry in description.engine
            if entry.precision == graph.precision
        ]
        _refuse_unused(description, graphs)
        _refuse_repeated([item.name for item in (*graphs, *self.engines)])

    @property
    def items(self) -> list[BackboneItem | StudentsItem | EngineItem]:
        """All that is to be made, each after what it is made from."""
        return [*self.backbones, *self.students, *self.engines]

    def _backbone_items(self, entry: Backbone) -> list[BackboneItem]:
        description = self._description
        source = description.weights_of(entry)
        weights = Weights(source, entry.variant, description.weights_dir)
        digest = self._digest_of(weights)
        exporter = Exporter(weights, self._check, self._artefacts)
        smallest, _, largest = entry.batch.as_tuple
        recipes = [
            backbone_recipe(
                entry.variant,
                digest,
                grid,
                check=self._check,
                layers=entry.layers,
                precision=precision,
                batch=(smallest, largest),
            )
            for grid in entry.grids
            for precision in entry.precisions
        ]
        return [
            BackboneItem(recipe, exporter, self._artefacts, entry.batch.as_tuple)
            for recipe in recipes
        ]

    def _students_items(self, entry: Students) -> list[StudentsItem]:
        files = entry.files(self._description.base)
        recipes = [
            students_recipe(
                entry.product,
                entry.variant,
                weights_sha256(files),
                grid,
                layers=entry.layer_pair,
                precision=precision,
                distance=entry.distance,
            )
            for grid in entry.grids
            for precision in entry.precisions
        ]
        return [
            StudentsItem(recipe, files, self._artefacts, entry.batch.as_tuple) for recipe in recipes
        ]

    def _digest_of(self, weights: Weights) -> str:
        if weights.source == META:
            variant = variant_by_name(weights.variant)
            if self._download:
                from dinspect_export.weights_download import download_from_meta

                download_from_meta(variant, weights.cache_dir)
            elif not meta_checkpoint_path(variant, weights.cache_dir).is_file():
                return NOT_DOWNLOADED
        files: list[Path] = checkpoint_files(weights.source, weights.variant, weights.cache_dir)
        return weights_sha256(files)


def _refuse_unused(description: Description, graphs: Sequence[GraphItem]) -> None:
    """An entry that nothing comes of is a mistake in it."""
    precisions = {graph.precision for graph in graphs}
    for entry in description.engine:
        if entry.precision not in precisions:
            raise DescriptionError(
                f"[[engine]] {entry.target} is for graphs in {entry.precision}, and none is "
                "described"
            )
    built = {entry.precision for entry in description.engine}
    for graph in description.graph:
        if graph.precision not in built:
            raise DescriptionError(
                f"[[graph]] {graph.name} is in {graph.precision}, and no [[engine]] is for that"
            )


def _refuse_repeated(names: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DescriptionError(
            f"described more than once: {', '.join(repeated)}; give each size, precision and batch "
            "once, and engines of one target different names"
        )
