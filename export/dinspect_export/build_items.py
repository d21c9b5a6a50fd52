"""The artefacts of a build, each able to tell whether it is stale and to make itself.

Telling imports neither PyTorch nor TensorRT; making does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinspect_export.check_images import CheckImages
from dinspect_export.description import Engine, ForeignGraph
from dinspect_export.engine_build import EngineRecipe, GraphFile, engine_recipe, write_engine
from dinspect_export.errors import DescriptionError, ManifestError
from dinspect_export.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    read_artefact,
    read_graph_manifest,
    sha256_of_digests,
    sha256_of_file,
)
from dinspect_export.proof import Proof
from dinspect_export.recipes import BackboneRecipe, StudentsRecipe, differences
from dinspect_export.weights_location import Weights

if TYPE_CHECKING:
    from dinspect_export.onnx_export import BackboneExporter
    from dinspect_export.runtimes import Runner
    from dinspect_export.students import TrainedStudents

NOT_BUILT = "not built yet"


class _GraphItem:
    """What backbones and students have in common as artefacts."""

    def __init__(
        self, recipe: BackboneRecipe | StudentsRecipe, folder: Path, batch: tuple[int, int, int]
    ) -> None:
        self.name = recipe.name
        self.precision = recipe.precision
        self.path = folder / recipe.name
        self.batch = batch
        self._wanted = recipe.to_dict()

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL_FILE

    def stale_reasons(self) -> list[str]:
        """Why it must be made; empty when it is current."""
        return stale_reasons(self.path, self._wanted)

    def unbuilt(self) -> GraphFile:
        """The graph as far as it is known before it is built."""
        return GraphFile(self.name, self.model, "", "", self.precision, {})

    def file(self) -> GraphFile:
        """The graph as it is on disk."""
        manifest = read_graph_manifest(self.path)
        digests = (manifest.onnx_sha256, manifest.weights_sha256)
        return GraphFile(self.name, self.model, *digests, self.precision, manifest.tolerances)


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


class BackboneItem(_GraphItem):
    """A backbone graph.

    Args:
        recipe: What it is made from today.
        exporter: Makes it.
        folder: Folder of artefacts.
        batch: Smallest, optimal and largest batch of its engines.
    """

    def __init__(
        self, recipe: BackboneRecipe, exporter: Exporter, folder: Path, batch: tuple[int, int, int]
    ) -> None:
        super().__init__(recipe, folder, batch)
        self.recipe = recipe
        self.exporter = exporter

    def make(self) -> Manifest:
        """Export and prove it."""
        return self.exporter.get().export(self.recipe).manifest

    def prove(self, runner: Runner) -> Proof:
        """Hold a runner of any batch against PyTorch on the check images, in each batch size."""
        reference = self.exporter.get().reference(self.recipe)
        return reference.prove(runner, self.recipe.tolerances, sorted(set(self.batch)))


class StudentsItem(_GraphItem):
    """The graph of a product's students.

    Args:
        recipe: What it is made from today.
        files: The students' file or files.
        folder: Folder of artefacts.
        batch: Smallest, optimal and largest batch of its engines.
    """

    def __init__(
        self, recipe: StudentsRecipe, files: list[Path], folder: Path, batch: tuple[int, int, int]
    ) -> None:
        super().__init__(recipe, folder, batch)
        self.recipe = recipe
        self._files = files

    def make(self) -> Manifest:
        """Export and prove it."""
        from dinspect_export.students_export import export_students

        source = " + ".join(path.name for path in self._files)
        return export_students(self._students(), source, self.recipe, self.path.parent).manifest

    def prove(self, runner: Runner) -> Proof:
        """Hold a runner against PyTorch on drawn tokens."""
        from dinspect_export.students_export import TOLERANCES, StudentsReference

        reference = StudentsReference(self._students(), self.recipe)
        return reference.prove(runner, TOLERANCES[self.precision])

    def _students(self) -> TrainedStudents:
        from dinspect_export.students_export import read_students

        return read_students(self._files, self.recipe.variant, self.recipe.layers)


class ForeignGraphItem:
    """A graph made elsewhere: nothing to make, only to build engines of.

    Args:
        entry: Its description.
        base: Folder relative paths start at.

    Raises:
        DescriptionError: If the file is missing.
    """

    prove: Callable[[Runner], Proof] | None = None  # PyTorch knows nothing of it

    def __init__(self, entry: ForeignGraph, base: Path) -> None:
        self.name = entry.name
        self.precision: str = entry.precision
        self.batch = entry.batch.as_tuple
        self._path = base / entry.file
        if not self._path.is_file():
            raise DescriptionError(f"graph {entry.name}: there is no file {self._path}")
        self._digest = sha256_of_onnx(self._path)

    def unbuilt(self) -> GraphFile:
        """The graph, which is always there."""
        return self.file()

    def file(self) -> GraphFile:
        """The graph as it is on disk."""
        return GraphFile(self.name, self._path, self._digest, "", self.precision, {})


GraphItem = BackboneItem | StudentsItem | ForeignGraphItem


class EngineItem:
    """An engine.

    Args:
        graph: What it is built of.
        entry: Its description.
        folder: Folder of engines.
        base: Folder relative paths start at.

    Raises:
        EngineError: If an option does not exist for the target.
    """

    def __init__(self, graph: GraphItem, entry: Engine, folder: Path, base: Path) -> None:
        self.graph = graph
        self.name = f"{graph.name}.{entry.name or entry.target}"
        self.path = folder / self.name
        self.target: str = entry.target
        self._options = entry.options(graph.batch, base)

    @property
    def recipe(self) -> EngineRecipe:
        """What it is made from as far as it is known before its graph is built."""
        return engine_recipe(self.name, self.graph.unbuilt(), self._options)

    def stale_reasons(self) -> list[str]:
        """Why it must be made; empty when it is current. Its graph must be there."""
        recipe = engine_recipe(self.name, self.graph.file(), self._options)
        return stale_reasons(self.path, recipe.to_dict())

    def make(self) -> Manifest:
        """Build it, and prove it if a GPU is present."""
        graph = self.graph.file()
        recipe = engine_recipe(self.name, graph, self._options)
        return write_engine(self.path.parent, recipe, graph, self.graph.prove)


def sha256_of_onnx(path: Path) -> str:
    """Digest of an ONNX file, with the files beside it that hold its weights if there are any."""
    import onnx

    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception:  # no ONNX file at all, which the parser will say better
        return sha256_of_file(path)
    locations = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    beside = [path.parent / location for location in locations]
    parts = {file.name: sha256_of_file(file) for file in (path, *beside) if file.is_file()}
    return sha256_of_digests(parts) if locations else parts[path.name]


def stale_reasons(folder: Path, wanted: dict[str, Any]) -> list[str]:
    """Why the artefact in a folder is not the one a recipe makes; empty when it is.

    Args:
        folder: The artefact's folder.
        wanted: The recipe, JSON-ready.
    """
    if not (folder / MANIFEST_FILE).is_file():
        return [NOT_BUILT]
    try:
        return differences(read_artefact(folder).manifest.recipe, wanted)
    except ManifestError as error:
        return [str(error)]
