"""What a description asks for, artefact by artefact, in the order it must be made.

Forming the plan and telling what is stale imports neither PyTorch nor TensorRT; making does.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_export.check_images import CheckImages
from dinspect_export.description import Backbone, Description, Engine, ForeignGraph
from dinspect_export.engine_build import (
    EngineRecipe,
    GraphFile,
    engine_recipe,
    write_engine,
)
from dinspect_export.errors import DescriptionError, ManifestError
from dinspect_export.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    read_artefact,
    read_graph_manifest,
    read_manifest,
    sha256_of_file,
)
from dinspect_export.recipes import BackboneRecipe, backbone_recipe, differences
from dinspect_export.variants import variant_by_name
from dinspect_export.weights_location import (
    META,
    Weights,
    checkpoint_files,
    meta_checkpoint_path,
    weights_sha256,
)

if TYPE_CHECKING:
    from dinspect_export.onnx_export import BackboneExporter

ARTEFACTS_FOLDER = "artefacts"
ENGINES_FOLDER = "engines"
WEIGHTS_FOLDER = "weights"
NOT_BUILT = "not built yet"
NOT_DOWNLOADED = "not downloaded yet"


class Exporter:
    """The exporter of one ``[[backbone]]`` entry, made when the first of its graphs is stale.

    Args:
        weights: Where the weights come from.
        check: Images every graph is proven on.
        folder: Folder of artefacts.
    """

    def __init__(self, weights: Weights, check: CheckImages, folder: Path) -> None:
        self._arguments = (weights, check, folder)
        self._exporter: BackboneExporter | None = None

    def get(self) -> BackboneExporter:
        """The exporter; imports PyTorch."""
        if self._exporter is None:
            from dinspect_export.onnx_export import BackboneExporter

            self._exporter = BackboneExporter(*self._arguments)
        return self._exporter


class BackboneItem:
    """A backbone graph of the plan.

    Args:
        recipe: What it is made from today.
        exporter: Makes it.
        folder: Folder of artefacts.
        batch: Smallest, optimal and largest batch of its engines.
    """

    def __init__(
        self, recipe: BackboneRecipe, exporter: Exporter, folder: Path, batch: tuple[int, int, int]
    ) -> None:
        self.recipe = recipe
        self.exporter = exporter
        self.path = folder / recipe.name
        self.batch = batch

    @property
    def name(self) -> str:
        """Name of the artefact."""
        return self.recipe.name

    @property
    def precision(self) -> str:
        """``fp32`` or ``fp16``."""
        return self.recipe.precision

    @property
    def manifest(self) -> Manifest:
        """Its record as it is on disk."""
        return read_manifest(self.path)

    def stale_reasons(self) -> list[str]:
        """Why it must be made; empty when it is current."""
        return _stale_reasons(self.path, self.recipe.to_dict())

    def make(self) -> Manifest:
        """Export and prove it."""
        return self.exporter.get().export(self.recipe).manifest

    @property
    def unbuilt(self) -> GraphFile:
        """The graph as far as it is known before it is built."""
        return GraphFile(self.name, self.path / MODEL_FILE, "", "", self.precision)

    def file(self) -> GraphFile:
        """The graph that was built."""
        manifest = read_graph_manifest(self.path)
        return GraphFile(
            self.name,
            self.path / MODEL_FILE,
            manifest.onnx_sha256,
            manifest.weights_sha256,
            self.precision,
        )


class ForeignGraphItem:
    """A graph made elsewhere: nothing to make, only to build engines of.

    Args:
        entry: Its description.
        base: Folder relative paths start at.

    Raises:
        DescriptionError: If the file is missing.
    """

    def __init__(self, entry: ForeignGraph, base: Path) -> None:
        self.name = entry.name
        self.precision = entry.precision
        self.batch = (entry.batch.min, entry.batch.opt, entry.batch.max)
        self._path = base / entry.file
        if not self._path.is_file():
            raise DescriptionError(f"graph {entry.name}: there is no file {self._path}")

    @property
    def unbuilt(self) -> GraphFile:
        """The graph, which is always there."""
        return self.file()

    def file(self) -> GraphFile:
        """The graph."""
        return GraphFile(self.name, self._path, sha256_of_file(self._path), "", self.precision)


class EngineItem:
    """An engine of the plan.

    Args:
        graph: What it is built of.
        entry: Its description.
        folder: Folder of engines.
        base: Folder relative paths start at.

    Raises:
        EngineError: If an option does not exist for the target.
    """

    def __init__(
        self, graph: BackboneItem | ForeignGraphItem, entry: Engine, folder: Path, base: Path
    ) -> None:
        self.graph = graph
        self.name = f"{graph.name}.{entry.name or entry.target}"
        self.path = folder / self.name
        self._options = entry.options(graph.batch, base)

    @property
    def manifest(self) -> Manifest:
        """Its record as it is on disk."""
        return read_manifest(self.path)

    def recipe_of(self, graph: GraphFile) -> EngineRecipe:
        """What it is made from today."""
        return engine_recipe(self.name, graph, self._options)

    def stale_reasons(self) -> list[str]:
        """Why it must be made; empty when it is current. Its graph must be there."""
        return _stale_reasons(self.path, self.recipe_of(self.graph.file()).to_dict())

    def make(self) -> Manifest:
        """Build it, and prove it if a GPU is present."""
        graph, compare = self.graph, None
        if isinstance(graph, BackboneItem):
            recipe = graph.recipe

            def compare(runner: Any) -> Any:
                return graph.exporter.get().reference(recipe).compare(runner)

        file = graph.file()
        return write_engine(self.path.parent, self.recipe_of(file), file, compare)


Item = BackboneItem | EngineItem


class Plan:
    """Everything a description asks for.

    Args:
        description: The description.
        download: Whether Meta's weights may be fetched; if not, what is made of them is stale.

    Attributes:
        backbones: Graphs to make.
        engines: Engines to make, after the graphs.

    Raises:
        ExportError: If the description contradicts itself, or weights or images are missing.
    """

    def __init__(self, description: Description, *, download: bool) -> None:
        self._description = description
        self._check = description.check_images
        self._download = download
        self.backbones = [
            item for entry in description.backbone for item in self._backbone_items(entry)
        ]
        foreign = [ForeignGraphItem(entry, description.base) for entry in description.graph]
        graphs: list[BackboneItem | ForeignGraphItem] = [*self.backbones, *foreign]
        self.engines = [
            EngineItem(graph, entry, description.output_dir / ENGINES_FOLDER, description.base)
            for graph in graphs
            for entry in description.engine
            if entry.precision == graph.precision
        ]
        _refuse_repeated([item.name for item in self.items] + [item.name for item in foreign])

    @property
    def items(self) -> list[Item]:
        """All of it, each after what it is made from."""
        return [*self.backbones, *self.engines]

    def _backbone_items(self, entry: Backbone) -> list[BackboneItem]:
        description = self._description
        weights = Weights(
            description.weights_of(entry), entry.variant, description.output_dir / WEIGHTS_FOLDER
        )
        digest = self._digest_of(weights)
        folder = description.output_dir / ARTEFACTS_FOLDER
        exporter = Exporter(weights, self._check, folder)
        batch = entry.batch
        return [
            BackboneItem(
                backbone_recipe(
                    entry.variant,
                    digest,
                    grid,
                    check=self._check,
                    layers=entry.layers,
                    precision=precision,
                    batch=(batch.min, batch.max),
                ),
                exporter,
                folder,
                (batch.min, batch.opt, batch.max),
            )
            for grid in entry.grids
            for precision in entry.precisions
        ]

    def _digest_of(self, weights: Weights) -> str:
        if self._download and weights.source == META:
            from dinspect_export.weights_download import download_from_meta

            download_from_meta(variant_by_name(weights.variant), weights.cache_dir)
        elif weights.source == META:
            path = meta_checkpoint_path(variant_by_name(weights.variant), weights.cache_dir)
            if not path.is_file():
                return NOT_DOWNLOADED
        return weights_sha256(checkpoint_files(weights.source, weights.variant, weights.cache_dir))


def _stale_reasons(folder: Path, wanted: dict[str, Any]) -> list[str]:
    if not (folder / MANIFEST_FILE).is_file():
        return [NOT_BUILT]
    try:
        return differences(read_artefact(folder).manifest.recipe, wanted)
    except ManifestError as error:
        return [str(error)]


def _refuse_repeated(names: list[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise DescriptionError(
            f"described more than once: {', '.join(repeated)}; give each size, precision and batch "
            "once, and engines of one target different names"
        )
