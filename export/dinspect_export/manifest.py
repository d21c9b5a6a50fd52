"""What made an artefact: the record beside every exported model.

An artefact is a folder ``<name>/`` with the model, a known answer and ``manifest.json``. The
manifest is written last and the folder is renamed into place as a whole, so a folder with a
manifest is complete. Light to import: the server's assembler reads manifests without PyTorch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dinspect_export.errors import ManifestError

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
KNOWN_ANSWER_FILE = "known_answer.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """Origin and proof of one exported backbone.

    Attributes:
        name: Artefact and model name, e.g. ``dinov2_vits14_448``.
        variant: Backbone variant.
        layers: One-based blocks whose patch tokens the model puts out, ascending.
        grid: Patch grid ``[rows, columns]``.
        patch_size: Edge of a patch in pixels.
        dim: Width of a patch token.
        weights_source: Where the weights came from, for a person.
        weights_sha256: Digest of the file the weights were read from.
        fine_tuned: True when the weights are not DINOv2's own.
        precision: Precision of the graph, ``fp32``.
        opset: ONNX operator set.
        files: File name to SHA-256 of every file of the artefact but the manifest.
        check_images: Names and digests of the images the export was checked on.
        max_cosine_distance: Largest per-patch cosine distance seen, ONNX Runtime to PyTorch.
        tolerance: Largest one allowed.
        versions: Package versions that took part.
        command: Command line that made it.
        created_at: ISO 8601, UTC.
        format_version: Version of this record's layout.
    """

    name: str
    variant: str
    layers: list[int]
    grid: list[int]
    patch_size: int
    dim: int
    weights_source: str
    weights_sha256: str
    fine_tuned: bool
    precision: str
    opset: int
    files: dict[str, str]
    check_images: list[dict[str, str]]
    max_cosine_distance: float
    tolerance: float
    versions: dict[str, str]
    command: str
    created_at: str
    format_version: int = FORMAT_VERSION

    @property
    def onnx_sha256(self) -> str:
        """Digest of the ONNX file."""
        return self.files[MODEL_FILE]

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class Artefact:
    """An exported model on disk.

    Attributes:
        path: Its folder.
        manifest: Its record.
    """

    path: Path
    manifest: Manifest


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the record into an artefact's folder."""
    text = json.dumps(manifest.to_dict(), indent=2, sort_keys=True)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def read_artefact(folder: Path) -> Artefact:
    """Read an artefact and check that its files are the ones the manifest describes.

    Raises:
        ManifestError: If the manifest is missing, of another format, or a file is missing or has
            another hash.
    """
    path = folder / MANIFEST_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(f"{folder} holds no {MANIFEST_FILE}; run 'dinspect export'") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"cannot read {path}: {error}; export the model again") from error
    if not isinstance(record, dict) or record.get("format_version") != FORMAT_VERSION:
        raise ManifestError(
            f"{path} is not a manifest of format {FORMAT_VERSION}; export the model again"
        )
    expected = {field.name for field in fields(Manifest)}
    if set(record) != expected:
        raise ManifestError(
            f"{path} lacks {sorted(expected - set(record))} or has more "
            f"{sorted(set(record) - expected)}; export the model again"
        )
    manifest = Manifest(**record)
    for name, digest in manifest.files.items():
        file = folder / name
        if not file.is_file() or sha256_of_file(file) != digest:
            raise ManifestError(
                f"{file} is missing or not the file that was exported; export again"
            )
    return Artefact(folder, manifest)


def read_artefacts(folder: Path) -> list[Artefact]:
    """Read every artefact below a folder, by name.

    Raises:
        ManifestError: If there is none or one is damaged.
    """
    # Hidden folders are what an export that was killed left behind.
    found = sorted(path.parent for path in folder.glob(f"[!.]*/{MANIFEST_FILE}"))
    if not found:
        raise ManifestError(f"no exported model below {folder}; run 'dinspect export' first")
    return [read_artefact(path) for path in found]
