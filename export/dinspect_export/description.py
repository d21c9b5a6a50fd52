"""``engines.toml``: what a plant runs, as data. docs/engines.md explains every key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dinspect_export.check_images import CheckImages, find_images
from dinspect_export.engine import EngineOptions
from dinspect_export.errors import DescriptionError, InvalidGeometryError
from dinspect_export.geometry import grid_from_size
from dinspect_export.recipes import DEFAULT_BATCH
from dinspect_export.variants import variant_by_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_FILE = "engines.toml"
Precision = Literal["fp32", "fp16"]
BackbonePrecision = Literal["fp32", "fp16", "int8"]
Count = Annotated[int, Field(ge=1)]


class _Entry(BaseModel):
    """A table that knows its keys: one that is misspelt is an error, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Entry):
    """``[check]``: the images every artefact is proven on.

    Attributes:
        images: Files, folders, globs or ``package:<module>/<glob>``.
        references: Good images that are enrolled so that scores and verdicts are compared too.
    """

    images: list[str]
    references: list[str] = []


class Batch(_Entry):
    """``batch``: the batches a graph takes, and the one its engines are tuned for.

    Attributes:
        min: Smallest.
        opt: The one engines are tuned for.
        max: Largest; equal to ``min`` for a fixed batch.
    """

    min: Count = 1
    opt: Count = 4
    max: Count = 8

    @property
    def as_tuple(self) -> tuple[int, int, int]:
        """Smallest, optimal and largest."""
        return self.min, self.opt, self.max

    @model_validator(mode="after")
    def _ascends(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError(
                f"min {self.min}, opt {self.opt}, max {self.max}: expected min <= opt <= max"
            )
        return self


class _Graphs(_Entry):
    """What entries that make graphs of one backbone's input sizes have in common."""

    variant: str
    layers: list[Count] | None = None
    sizes: Annotated[list[str], Field(min_length=1)]
    batch: Batch = Batch()

    @field_validator("sizes", mode="before")
    @classmethod
    def _as_text(cls, sizes: Any) -> Any:
        """A square size may be written as a number."""
        return [str(size) for size in sizes] if isinstance(sizes, list) else sizes

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Patch grids of the sizes."""
        patch_size = variant_by_name(self.variant).patch_size
        return [grid_from_size(size, patch_size) for size in self.sizes]


class Backbone(_Graphs):
    """``[[backbone]]``: graphs of one set of weights.

    Attributes:
        variant: Backbone variant.
        weights: ``packaged``, ``meta``, or a checkpoint's file or folder.
        sizes: Input sizes as ``448`` or ``448x588``, height x width.
        layers: One-based blocks to tap, ascending; by default the variant's.
        precisions: Graphs to write.
        batch: Batches they take.
    """

    weights: str = "meta"
    precisions: Annotated[list[BackbonePrecision], Field(min_length=1)] = ["fp32", "fp16"]


class Students(_Graphs):
    """``[[students]]``: graphs of the L2BT students of one product.

    Attributes:
        product: The product.
        variant: Backbone they were trained on.
        weights: One safetensors file that dinspect wrote; or
        forward: the official code's ``forward_net_*.pth``, with
        backward: its ``backward_net_*.pth``.
        sizes: Input sizes of the backbone.
        layers: One-based blocks; by default the variant's two.
        precisions: Graphs to write.
        normalisation: See `students.DistanceOptions`, as for the two below.
        batch: Optimal batch of their engines; the graphs take 1 to 8.
    """

    product: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    weights: Path | None = None
    forward: Path | None = None
    backward: Path | None = None
    layers: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    precisions: Annotated[list[Precision], Field(min_length=1)] = ["fp32", "fp16"]
    normalisation: Literal["l2", "none"] = "l2"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    combination: Literal["product", "sum", "forward", "backward"] = "product"

    @model_validator(mode="after")
    def _one_source(self) -> Students:
        both = self.forward is not None and self.backward is not None
        neither = self.forward is None and self.backward is None
        if not ((both and self.weights is None) or (neither and self.weights is not None)):
            raise ValueError("give either weights, or forward and backward")
        if (self.batch.min, self.batch.max) != DEFAULT_BATCH:
            raise ValueError("students take batches of 1 to 8; leave min and max out")
        return self

    @property
    def layer_pair(self) -> tuple[int, int]:
        """The two blocks."""
        j, k = self.layers or variant_by_name(self.variant).default_layers
        return j, k

    @property
    def distance(self) -> dict[str, str]:
        """Options of the distance."""
        return self.model_dump(include={"normalisation", "metric", "combination"})

    def files(self, base: Path) -> list[Path]:
        """The students' file or files.

        Raises:
            DescriptionError: If one is missing.
        """
        named = [path for path in (self.weights, self.forward, self.backward) if path is not None]
        files = [base / path for path in named]
        for file in files:
            if not file.is_file():
                raise DescriptionError(f"students of {self.product}: there is no file {file}")
        return files


class Engine(_Entry):
    """``[[engine]]``: an engine of every graph of a precision.

    Attributes:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        precision: Graphs it is built of.
        name: Last part of the engines' names; by default the target.
        compute_capabilities: See `engine.EngineOptions`, as for the keys below.
    """

    target: Literal["tensorrt", "tensorrt-rtx"]
    precision: Precision = "fp16"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")] | None = None
    compute_capabilities: list[Annotated[str, Field(pattern=r"^(\d+\.\d|current)$")]] = []
    version_compatible: bool = False
    hardware_compatible: bool = False
    optimization_level: Annotated[int, Field(ge=0, le=5)] | None = None
    timing_cache: Path | None = None

    def options(self, batch: tuple[int, int, int], base: Path) -> EngineOptions:
        """The options of one engine.

        Raises:
            EngineError: If an option does not exist for the target.
        """
        return EngineOptions(
            target=self.target,
            batch=batch,
            compute_capabilities=tuple(self.compute_capabilities),
            version_compatible=self.version_compatible,
            hardware_compatible=self.hardware_compatible,
            optimization_level=self.optimization_level,
            timing_cache=base / self.timing_cache if self.timing_cache else None,
        )


class ForeignGraph(_Entry):
    """``[[graph]]``: an ONNX file made elsewhere, to build engines of.

    Attributes:
        name: Name of its engines.
        file: The ONNX file.
        precision: Which ``[[engine]]`` entries apply to it.
        batch: Batches of the engines' profile.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    file: Path
    precision: Precision = "fp16"
    batch: Batch = Batch()


class Description(_Entry):
    """The whole file.

    Attributes:
        output: Folder of what is made, with ``artefacts/``, ``engines/`` and ``weights/`` below.
        check: Images of the gate.
        backbone: Backbones.
        students: Students of products.
        graph: Graphs made elsewhere.
        engine: Engines.
        base: Folder relative paths start at.
    """

    output: Path = Path("build")
    check: Check
    backbone: list[Backbone] = []
    students: list[Students] = []
    graph: list[ForeignGraph] = []
    engine: list[Engine] = []
    base: Path = Field(default=Path(), exclude=True)

    @property
    def artefacts_dir(self) -> Path:
        """Folder of graphs."""
        return self.base / self.output / "artefacts"

    @property
    def engines_dir(self) -> Path:
        """Folder of engines."""
        return self.base / self.output / "engines"

    @property
    def weights_dir(self) -> Path:
        """Folder of downloaded weights."""
        return self.base / self.output / "weights"

    @property
    def check_images(self) -> CheckImages:
        """Images of the gate, found.

        Raises:
            InvalidGeometryError: If there are none, or a single reference.
        """
        return CheckImages(
            images=find_images(self.check.images, self.base),
            references=find_images(self.check.references, self.base),
        )

    def weights_of(self, backbone: Backbone) -> str:
        """A backbone's weights, their path made absolute unless they are named by a word."""
        if backbone.weights in ("packaged", "meta"):
            return backbone.weights
        return str(self.base / backbone.weights)


def read_description(path: Path) -> Description:
    """Read and check a description.

    Raises:
        DescriptionError: If the file is missing, no TOML, or says something impossible; the
            message names the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        content["base"] = path.resolve().parent
        description = Description.model_validate(content)
        entries: list[_Graphs] = [*description.backbone, *description.students]
        for entry in entries:
            entry.grids  # noqa: B018  a size or variant that does not exist is found now
            _require_layers(entry.layers, entry.variant)
    except FileNotFoundError:
        raise DescriptionError(
            f"no {path}; write one (docs/engines.md) or run where it is"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DescriptionError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise DescriptionError(f"{path}: {_in_words(error)}") from None
    if not (description.backbone or description.students or description.graph):
        raise DescriptionError(
            f"{path} describes nothing: no [[backbone]], no [[students]] and no [[graph]]"
        )
    return description


def _require_layers(layers: list[int] | None, variant: str) -> None:
    depth = variant_by_name(variant).depth
    if layers is not None and (layers != sorted(set(layers)) or not layers or layers[-1] > depth):
        raise InvalidGeometryError(
            f"layers {layers} of {variant} must be ascending block numbers within 1..{depth}"
        )


def _in_words(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, entry['loc'])) or 'file'}: {entry['msg']}"
        + (f" (got {entry['input']!r})" if entry["type"] != "missing" else "")
        for entry in error.errors()
    )
