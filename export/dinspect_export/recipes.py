"""What an artefact depends on. Two equal recipes make the same artefact, so it need not be made.

Light to import and quick to form: telling what is stale takes no PyTorch.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dinspect_export.check_images import CheckImages
from dinspect_export.geometry import size_label
from dinspect_export.manifest import installed_versions
from dinspect_export.variants import variant_by_name

OPSET = 18
PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_BATCH = (1, 8)

GRAPH_PACKAGES = (
    "dinspect", "torch", "onnx", "onnx-ir", "onnxscript", "ml-dtypes", "protobuf", "onnxruntime",
    "numpy", "pillow",
)  # fmt: skip


@dataclass(frozen=True)
class Tolerances:
    """What a run must keep to, compared with PyTorch in FP32 on the same pixels.

    Attributes:
        min_patch_cosine: Smallest cosine similarity of any patch token, over all taps.
        max_score_change: Largest relative change of an image score.
        max_verdict_flips: Images that may change sides of the threshold.
    """

    min_patch_cosine: float
    max_score_change: float
    max_verdict_flips: int = 0


TOLERANCES = {
    "fp32": Tolerances(min_patch_cosine=1 - 1e-4, max_score_change=1e-3),
    "fp16": Tolerances(min_patch_cosine=0.999, max_score_change=0.01),
    "int8": Tolerances(min_patch_cosine=0.95, max_score_change=0.25),
}
"""INT8 is held to being the same network; what it costs in accuracy, an AUROC has to tell."""


@dataclass(frozen=True)
class BackboneRecipe:
    """One backbone graph.

    Attributes:
        variant: Backbone variant.
        weights_sha256: Digest of the weights' file or files.
        grid: Patch grid ``(rows, columns)``.
        layers: One-based blocks to tap, ascending.
        precision: One of `PRECISIONS`.
        batch: Smallest and largest batch; equal for a fixed one.
        check: Digests of the images it is proven on.
        code_sha256: Digest of our own code that makes it.
        versions: Versions of the packages that make it.
        opset: ONNX operator set.
    """

    variant: str
    weights_sha256: str
    grid: tuple[int, int]
    layers: tuple[int, ...]
    precision: str
    batch: tuple[int, int]
    check: dict[str, list[str]]
    code_sha256: str
    versions: dict[str, str]
    opset: int = OPSET

    @property
    def name(self) -> str:
        """Name of the artefact, e.g. ``dinov2_vits14_448_fp16``.

        Layers other than the variant's default and a batch other than the default are in it.
        """
        return backbone_name(self.variant, self.grid, self.layers, self.precision, self.batch)

    @property
    def tolerances(self) -> Tolerances:
        """What the artefact must keep to."""
        return TOLERANCES[self.precision]

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON-ready values."""
        return _jsonable(asdict(self) | {"tolerances": asdict(self.tolerances)})


def backbone_recipe(
    variant_name: str,
    weights_sha256: str,
    grid: tuple[int, int],
    *,
    check: CheckImages,
    layers: Sequence[int] | None = None,
    precision: str = "fp32",
    batch: tuple[int, int] = DEFAULT_BATCH,
) -> BackboneRecipe:
    """Today's recipe of a backbone graph.

    Args:
        variant_name: Backbone variant.
        weights_sha256: Digest of the weights' file or files.
        grid: Patch grid ``(rows, columns)``.
        check: Images it is proven on.
        layers: One-based blocks to tap, ascending; None taps the variant's default.
        precision: One of `PRECISIONS`.
        batch: Smallest and largest batch; equal for a fixed one.

    Raises:
        UnknownVariantError: If there is no such variant.
        InvalidGeometryError: If a check image cannot be read.
    """
    variant = variant_by_name(variant_name)
    return BackboneRecipe(
        variant=variant_name,
        weights_sha256=weights_sha256,
        grid=grid,
        layers=tuple(layers or variant.default_layers),
        precision=precision,
        batch=batch,
        check=check.digests(),
        code_sha256=code_sha256("onnx_export"),
        versions=installed_versions(GRAPH_PACKAGES),
    )


def students_recipe(
    product: str,
    variant_name: str,
    weights_sha256: str,
    grid: tuple[int, int],
    *,
    layers: tuple[int, int],
    precision: str,
    distance: dict[str, str],
) -> StudentsRecipe:
    """Today's recipe of a students' graph; the arguments are `StudentsRecipe`'s."""
    return StudentsRecipe(
        product=product,
        variant=variant_name,
        weights_sha256=weights_sha256,
        grid=grid,
        layers=layers,
        precision=precision,
        distance=distance,
        code_sha256=code_sha256("students_export"),
        versions=installed_versions(GRAPH_PACKAGES),
    )


def backbone_name(
    variant_name: str,
    grid: tuple[int, int],
    layers: Sequence[int],
    precision: str = "fp32",
    batch: tuple[int, int] = DEFAULT_BATCH,
) -> str:
    """Name of a backbone's artefact, which is its Triton model's too."""
    variant = variant_by_name(variant_name)
    parts = [variant.name, size_label(grid, variant.patch_size)]
    if tuple(layers) != variant.default_layers:
        parts += ["layers", *map(str, layers)]
    if batch[0] == batch[1]:
        parts.append(f"batch_{batch[0]}")
    elif batch != DEFAULT_BATCH:
        parts.append(f"batch_{batch[0]}_{batch[1]}")
    if precision != "fp32":
        parts.append(precision)
    return "_".join(parts)


@dataclass(frozen=True)
class StudentsRecipe:
    """One graph of a product's L2BT students.

    Attributes:
        product: Product they were trained for.
        variant: Backbone whose tokens they translate.
        weights_sha256: Digest of the students' file or files.
        grid: Patch grid ``(rows, columns)`` of the backbone's input.
        layers: One-based blocks ``(j, k)``.
        precision: ``fp32`` or ``fp16``.
        distance: Options of the distance; see `students.DistanceOptions`.
        code_sha256: Digest of our own code that makes it.
        versions: Versions of the packages that make it.
        opset: ONNX operator set.
    """

    product: str
    variant: str
    weights_sha256: str
    grid: tuple[int, int]
    layers: tuple[int, int]
    precision: str
    distance: dict[str, str]
    code_sha256: str
    versions: dict[str, str]
    opset: int = OPSET

    @property
    def name(self) -> str:
        """Name of the artefact, e.g. ``l2bt_screw_1036_students_fp16``."""
        label = size_label(self.grid, variant_by_name(self.variant).patch_size)
        suffix = "" if self.precision == "fp32" else f"_{self.precision}"
        return f"l2bt_{self.product}_{label}_students{suffix}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON-ready values."""
        return _jsonable(asdict(self))


def patch_tokens_name(layer: int) -> str:
    """Name of the tensor that carries the patch tokens of a one-based block, in every graph."""
    return f"patch_tokens_{layer}"


def code_sha256(module: str) -> str:
    """Digest of a module of this package and of all modules of it that it imports.

    So a change of code makes stale exactly the artefacts it has a part in. Nothing is imported.
    """
    folder = Path(__file__).parent
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = folder / f"{name}.py"
        if name in sources or not path.is_file():
            continue
        sources[name] = path.read_bytes()
        waiting += _own_imports(sources[name])
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\n{_without_words(sources[name])}\n".encode())
    return digest.hexdigest()


def _without_words(source: bytes) -> str:
    """Source code without comments, docstrings and layout, which change no artefact."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                value.value = ""
    return ast.dump(tree)


def _own_imports(source: bytes) -> list[str]:
    package = __name__.split(".")[0]
    return [
        node.module.split(".")[1]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(f"{package}.")
        and node.module
    ]


def differences(made: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """In words, what differs between the recipe an artefact was made by and today's.

    Args:
        made: Recipe in the manifest.
        wanted: Recipe as it would be today, JSON-ready.
        prefix: Path of keys that led here.
    """
    found: list[str] = []
    for key in sorted(set(made) | set(wanted)):
        old, new = made.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, f"{prefix}{key} ")
        elif old != new:
            found.append(f"{prefix}{key}: {_short(old)} -> {_short(new)}")
    return found


def _short(value: object) -> str:
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    if isinstance(value, list) and any(isinstance(item, str) and len(item) == 64 for item in value):
        return f"{len(value)} images"
    return "none" if value is None else str(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, list | tuple) else value
