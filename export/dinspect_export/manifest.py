"""What made an artefact: the record beside every exported model and every engine.

An artefact is a folder ``<name>/`` with its files and ``manifest.json``. The manifest is written
last and the folder is renamed into place as a whole, so a folder with a manifest is complete. Light
to import: the server's assembler reads manifests without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from dinspect_export.errors import ManifestError

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
ENGINE_FILE = "model.plan"
KNOWN_ANSWER_FILE = "known_answer.safetensors"
FORMAT_VERSION = 2


def command_line() -> str:
    """The command this process was started with, its program without the folder."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What every artefact's record holds.

    Attributes:
        name: Name of the artefact and of its folder.
        recipe: All it was made from, as `recipes` writes it: the artefact is current as long as
            its recipe would be the same today.
        files: File name to SHA-256 of every file of the artefact but the manifest.
        versions: Package versions that took part.
        command: Command line that made it.
        created_at: ISO 8601, UTC.
        format_version: Version of this record's layout.
    """

    kind: ClassVar[str]

    name: str
    recipe: dict[str, Any]
    files: dict[str, str]
    versions: dict[str, str]
    command: str = field(default_factory=command_line)
    created_at: str = field(default_factory=utc_now)
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {"kind": self.kind} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class GraphManifest(Manifest):
    """Record of an ONNX graph.

    Attributes:
        weights_source: Where the weights came from, for a person.
        weights_sha256: Digest of the file or files the weights were read from.
        precision: ``fp32``, or ``fp16`` for matrix products in half precision.
        opset: ONNX operator set.
        batch: Smallest and largest batch the graph takes.
        grid: Patch grid ``[rows, columns]``.
        layers: One-based blocks whose patch tokens go out of a backbone or into students,
            ascending.
        dim: Width of a patch token.
        variant: Backbone variant.
        proof: Agreement with PyTorch in FP32; see `verification.Agreement` for a backbone and
            `students_export.StudentsAgreement` for students.
        tolerances: What was demanded of it.
    """

    weights_source: str
    weights_sha256: str
    precision: str
    opset: int
    batch: list[int]
    grid: list[int]
    layers: list[int]
    dim: int
    variant: str
    proof: list[dict[str, Any]]
    tolerances: dict[str, float]

    @property
    def onnx_sha256(self) -> str:
        """Digest of the model: of its one file, or over all when the weights lie beside it."""
        parts = {name: sha for name, sha in self.files.items() if name.startswith(MODEL_FILE)}
        if len(parts) == 1:
            return parts[MODEL_FILE]
        return sha256_of_digests(parts)


@dataclass(frozen=True, kw_only=True)
class BackboneManifest(GraphManifest):
    """Record of an exported backbone.

    Attributes:
        patch_size: Edge of a patch in pixels.
        fine_tuned: True when the weights are not the published ones of the variant.
    """

    kind: ClassVar[str] = "backbone"

    patch_size: int
    fine_tuned: bool

    @property
    def max_cosine_distance(self) -> float:
        """Worst patch of the proof: its cosine distance to PyTorch."""
        return max(1.0 - run["min_patch_cosine"] for run in self.proof)


@dataclass(frozen=True, kw_only=True)
class StudentsManifest(GraphManifest):
    """Record of a product's students with the distance they stand for.

    Attributes:
        product: Product they were trained for.
        distance: Options of the distance; see `students.DistanceOptions`.
    """

    kind: ClassVar[str] = "students"

    product: str
    distance: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class EngineManifest(Manifest):
    """Record of a TensorRT engine.

    Attributes:
        graph: Name of the graph it was built from.
        onnx_sha256: Digest of that graph.
        weights_sha256: Digest of the weights the graph was made from.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        precision: Of the graph; engines are strongly typed.
        compute_capabilities: What it runs on, e.g. ``["8.6", "8.9"]``; empty is the builder's own
            choice.
        profile: Input name to its smallest, optimal and largest shape; empty for a fixed batch.
        inspection: What could be read off the engine; see `engine.inspect_plan`.
        proof: Agreement with PyTorch in FP32; empty where no GPU could run the engine.
        tolerances: What was demanded of it.
    """

    kind: ClassVar[str] = "engine"

    graph: str
    onnx_sha256: str
    weights_sha256: str
    target: str
    precision: str
    compute_capabilities: list[str]
    profile: dict[str, list[list[int]]]
    inspection: dict[str, Any]
    proof: list[dict[str, Any]]
    tolerances: dict[str, float]


_KINDS: dict[str, type[Manifest]] = {
    kind.kind: kind for kind in (BackboneManifest, StudentsManifest, EngineManifest)
}
M_co = TypeVar("M_co", bound=Manifest, covariant=True)


@dataclass(frozen=True)
class Artefact(Generic[M_co]):
    """An exported model or engine on disk.

    Attributes:
        path: Its folder.
        manifest: Its record.
    """

    path: Path
    manifest: M_co


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_digests(parts: dict[str, str]) -> str:
    """One digest for several files: over their names and digests, in the order of the names."""
    lines = "".join(f"{parts[name]}  {name}\n" for name in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python (major and minor) and of packages; ``"none"`` for one that is missing."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "none"

    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python} | {name: installed(name) for name in packages}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the record into an artefact's folder."""
    text = json.dumps(manifest.to_dict(), indent=2, sort_keys=True)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read an artefact's record without looking at its files.

    Raises:
        ManifestError: If the manifest is missing, unreadable or of another format.
    """
    path = folder / MANIFEST_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{folder} holds no {MANIFEST_FILE}; build it again") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"cannot read {path}: {error}; build it again") from error
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise ManifestError(f"{path} is not a manifest of format {FORMAT_VERSION}; build it again")
    kind = _KINDS.get(str(record.pop("kind", "")))
    if kind is None:
        raise ManifestError(f"{path} is of none of the kinds {', '.join(_KINDS)}; build it again")
    expected = {entry.name for entry in fields(kind)}
    if set(record) != expected:
        raise ManifestError(
            f"{path} lacks {sorted(expected - set(record))} or has more "
            f"{sorted(set(record) - expected)}; build it again"
        )
    if not isinstance(record["files"], dict) or not isinstance(record["recipe"], dict):
        raise ManifestError(f"{path} has no files or no recipe; build it again")
    return kind(**record)


def read_graph_manifest(folder: Path) -> GraphManifest:
    """Read a graph's record without looking at its files.

    Raises:
        ManifestError: As `read_manifest` does, and if the artefact is no graph.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest, GraphManifest):
        raise ManifestError(f"{folder} holds a {manifest.kind}, expected a graph; build it again")
    return manifest


def read_artefact(folder: Path) -> Artefact[Manifest]:
    """Read an artefact and check that its files are the ones the manifest describes.

    Raises:
        ManifestError: If the manifest is unusable, or a file is missing or has another hash.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        file = folder / name
        if not file.is_file() or sha256_of_file(file) != digest:
            raise ManifestError(f"{file} is missing or not the file that was made; build it again")
    return Artefact(folder, manifest)


def read_engine(folder: Path, graph: GraphManifest, target: str) -> Artefact[EngineManifest]:
    """Find the engine of a graph and a target below a folder of engines.

    Raises:
        ManifestError: If there is none or it is damaged.
    """
    found = [
        (path.parent, manifest)
        for path in sorted(folder.glob(f"[!.]*/{MANIFEST_FILE}"))
        if isinstance(manifest := read_manifest(path.parent), EngineManifest)
        and manifest.target == target
        and manifest.onnx_sha256 == graph.onnx_sha256
    ]
    if len(found) > 1:
        names = ", ".join(path.name for path, _ in found)
        raise ManifestError(f"{names} are all {target} engines of {graph.name}; keep one of them")
    if found:
        path, manifest = found[0]
        return Artefact(read_artefact(path).path, manifest)
    raise ManifestError(
        f"no {target} engine of {graph.name} below {folder}; run 'dinspect build' with an "
        f'[[engine]] of target = "{target}" first'
    )


def read_backbones(folder: Path, precision: str = "fp32") -> list[Artefact[BackboneManifest]]:
    """Read every backbone of a precision below a folder, by name.

    Raises:
        ManifestError: If there is none or one is damaged.
    """
    # Hidden folders are what a build that was killed left behind.
    folders = [path.parent for path in sorted(folder.glob(f"[!.]*/{MANIFEST_FILE}"))]
    found = [
        Artefact(artefact.path, artefact.manifest)
        for artefact in map(read_artefact, folders)
        if isinstance(artefact.manifest, BackboneManifest)
        and artefact.manifest.precision == precision
    ]
    if not found:
        raise ManifestError(
            f"no exported backbone in {precision} below {folder}; run 'dinspect export' or "
            "'dinspect build' first"
        )
    return found
