"""Write a complete model repository from exported artefacts.

Layout of a repository::

    models/<model>/config.pbtxt   and 1/: what Triton loads (--model-repository=<repository>/models)
    banks/ and students/          the products; kept when the models are assembled anew
    repository.json               what was assembled, from what
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dinspect_client import wire
from dinspect_export.manifest import (
    ENGINE_FILE,
    KNOWN_ANSWER_FILE,
    MODEL_FILE,
    Artefact,
    BackboneManifest,
    read_backbones,
    read_engine,
    sha256_of_file,
)
from dinspect_server import ensemble_config as ensembles_of
from dinspect_server import triton_config as configs
from dinspect_server.errors import AssemblyError
from dinspect_server.l2bt_ensembles import write_product_ensembles, write_templates
from dinspect_server.model_sources import MODELS_FOLDER, write_config, write_python_model

logger = logging.getLogger(__name__)

PATCH_SIZE = 14
"""Patch size `models/lib/images/image_preparation.py` prepares images for."""
NATIVE_ONNXRUNTIME = "triton-onnxruntime"
NATIVE_TENSORRT = "triton-tensorrt"
NATIVE = (NATIVE_ONNXRUNTIME, NATIVE_TENSORRT)
RUNTIMES = ("openvino", "onnxruntime", *NATIVE)
PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
_PRECISIONS_OF = {
    "openvino": PRECISIONS,
    "onnxruntime": ("auto", "fp32", "int8"),
    NATIVE_ONNXRUNTIME: ("auto", "fp32", "fp16"),
    NATIVE_TENSORRT: ("auto", "fp32", "fp16"),
}
DEFAULT_MAX_BANK_BYTES = 2 << 30
BANKS_FOLDER = "banks"
STUDENTS_FOLDER = "students"
RECORD_FILE = "repository.json"
LOCK_FILE = ".lock"


@dataclass(frozen=True)
class ServingOptions:
    """How the assembled models run.

    Attributes:
        runtime: ``openvino`` or ``onnxruntime`` run the backbone inside the Python backend, on the
            CPU; ``triton-onnxruntime`` and ``triton-tensorrt`` leave it to the native backends of
            NVIDIA's container, on its GPU.
        precision: Of the backbone: ``auto``, ``fp32``, ``fp16``, ``bf16`` or ``int8``. OpenVINO
            decides ``auto`` when the model loads, for the processor it loads on; the others run a
            graph in the precision it was exported in, and ``auto`` is FP16 for TensorRT and FP32
            else. ``int8`` needs a graph exported in it; what it leaves in floating point, the
            search and the students run as ``auto``.
        max_bank_bytes: Memory for loaded banks, and as much for loaded students, per input size.

    Raises:
        AssemblyError: If a value is none of those.
    """

    runtime: str = "openvino"
    precision: str = "auto"
    max_bank_bytes: int = DEFAULT_MAX_BANK_BYTES

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES or self.precision not in PRECISIONS:
            raise AssemblyError(
                f"runtime {self.runtime!r} with precision {self.precision!r}; expected one of "
                f"{', '.join(RUNTIMES)} and one of {', '.join(PRECISIONS)}"
            )
        if self.precision not in _PRECISIONS_OF[self.runtime]:
            raise AssemblyError(
                f"{self.runtime} runs graphs in the precision they were exported in, which is one "
                f"of {', '.join(_PRECISIONS_OF[self.runtime])}, not {self.precision}"
            )
        if self.max_bank_bytes <= 0:
            raise AssemblyError(f"max_bank_bytes is {self.max_bank_bytes}, expected more than 0")

    @property
    def graph_precision(self) -> str:
        """Precision of the exported graph that is served."""
        if self.runtime == NATIVE_TENSORRT and self.precision == "auto":
            return "fp16"
        if self.precision == "int8":
            return "int8"
        return self.precision if self.runtime in NATIVE and self.precision != "auto" else "fp32"

    @property
    def students_runtime(self) -> str:
        """What runs the students, in the Python backend: by ONNX Runtime on a GPU's server."""
        return "openvino" if self.runtime == "openvino" else "onnxruntime"

    @property
    def search_precision(self) -> str:
        """Precision of the search, which stays on the CPU."""
        return "auto" if self.runtime in NATIVE else self.unquantised_precision

    @property
    def unquantised_precision(self) -> str:
        """Precision of what no INT8 graph is made of: the search and the students."""
        return "auto" if self.precision == "int8" else self.precision


def assemble(
    artefacts_dir: Path,
    repository: Path,
    options: ServingOptions | None = None,
    *,
    engines_dir: Path | None = None,
) -> list[str]:
    """Write the repository's models, replacing earlier ones as a whole; the banks stay.

    Args:
        artefacts_dir: Folder of exported artefacts, one per input size.
        repository: The repository's folder; created when missing.
        options: How the models run.
        engines_dir: Folder of engines, for ``triton-tensorrt``; None for ``engines`` beside the
            artefacts.

    Returns:
        Names of the ensembles that inspect.

    Raises:
        AssemblyError: If two artefacts have one input size, none takes the batches and the patch
            size the server has, or the folder cannot be written.
        ManifestError: If an artefact or an engine is missing or damaged.
    """
    options = options or ServingOptions()
    artefacts = _servable(artefacts_dir, options.graph_precision)
    backbones = [_backbone_model(artefact) for artefact in artefacts]
    _check_sizes(backbones)
    engines = engines_dir or artefacts_dir.parent / "engines"
    files = [_model_files(artefact, engines, options) for artefact in artefacts]
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssemblyError(f"cannot write the repository {repository}: {error}") from error
    with lock_repository(repository):
        return _assemble(artefacts, backbones, files, repository, options)


def _model_files(
    artefact: Artefact[BackboneManifest], engines: Path, options: ServingOptions
) -> list[Path]:
    """The files of a backbone that Triton needs, the graph or its engine first: it is what runs."""
    known_answer = artefact.path / KNOWN_ANSWER_FILE
    if options.runtime == NATIVE_TENSORRT:
        engine = read_engine(engines, artefact.manifest, "tensorrt")
        return [engine.path / ENGINE_FILE, known_answer]
    names = sorted(artefact.manifest.files, key=lambda name: name != MODEL_FILE)
    return [artefact.path / name for name in names]


def _assemble(
    artefacts: list[Artefact[BackboneManifest]],
    backbones: list[configs.BackboneModel],
    files: list[list[Path]],
    repository: Path,
    options: ServingOptions,
) -> list[str]:
    staging = repository / f".{MODELS_FOLDER}.partial"
    shutil.rmtree(staging, ignore_errors=True)  # of an assembly that was killed
    try:
        staging.mkdir()
        for artefact, backbone, paths in zip(artefacts, backbones, files, strict=True):
            _write_input_size(staging, artefact, backbone, paths, options)
        by_digest = {
            artefact.manifest.onnx_sha256: backbone
            for artefact, backbone in zip(artefacts, backbones, strict=True)
        }
        write_product_ensembles(staging, repository / STUDENTS_FOLDER, by_digest)
        _write_shared_models(staging, artefacts, backbones, files, options)
        for folder in (BANKS_FOLDER, STUDENTS_FOLDER):
            (repository / folder).mkdir(exist_ok=True)
        _replace(staging, repository / MODELS_FOLDER)
    except OSError as error:
        raise AssemblyError(f"cannot write the repository {repository}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    ensembles = [wire.anomaly_dino_model(backbone.label) for backbone in backbones]
    _write_record(repository, artefacts, options, ensembles)
    return ensembles


def lock_repository(repository: Path) -> IO[str]:
    """Keep everyone else from serving or assembling a repository until the file is closed.

    A model that is loaded again takes the files that are there by then; were they assembled from
    another backbone meanwhile, its tokens would meet banks of the old one.

    Raises:
        AssemblyError: If it is being served or assembled, or cannot be written.
    """
    try:
        lock = (repository / LOCK_FILE).open("w", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise
    except BlockingIOError:
        raise AssemblyError(
            f"{repository} is being served or assembled by another process; stop that first, or "
            "assemble into another folder"
        ) from None
    except OSError as error:
        raise AssemblyError(f"cannot write the repository {repository}: {error}") from error
    return lock


def _backbone_model(artefact: Artefact[BackboneManifest]) -> configs.BackboneModel:
    manifest = artefact.manifest
    return configs.BackboneModel(
        name=manifest.name,
        grid=(manifest.grid[0], manifest.grid[1]),
        dim=manifest.dim,
        layers=tuple(manifest.layers),
        patch_size=manifest.patch_size,
    )


def _servable(artefacts_dir: Path, precision: str) -> list[Artefact[BackboneManifest]]:
    """Backbones the server can run; others, built for other uses, are left out with a word."""
    found, reasons = [], []
    for artefact in read_backbones(artefacts_dir, precision):
        manifest = artefact.manifest
        smallest, largest = manifest.batch
        if manifest.patch_size != PATCH_SIZE:
            reasons.append(
                f"{manifest.name} has patches of {manifest.patch_size} px, and images are prepared "
                f"for {PATCH_SIZE}"
            )
        elif smallest > 1 or largest < configs.MAX_BATCH:
            reasons.append(
                f"{manifest.name} takes batches of {smallest} to {largest}; to be served it must "
                f"take 1 to {configs.MAX_BATCH}"
            )
        else:
            found.append(artefact)
    if not found:
        raise AssemblyError("; ".join(reasons))
    for reason in reasons:
        logger.warning("left out: %s", reason)
    return found


def _check_sizes(backbones: Iterable[configs.BackboneModel]) -> None:
    seen: dict[str, str] = {}
    for backbone in backbones:
        if backbone.label in seen:
            raise AssemblyError(
                f"{backbone.name} and {seen[backbone.label]} both serve size {backbone.label}; "
                "give each repository one backbone per input size ('dinspect build --prune' "
                "removes what engines.toml does not describe any more)"
            )
        seen[backbone.label] = backbone.name


def _write_input_size(
    models: Path,
    artefact: Artefact[BackboneManifest],
    backbone: configs.BackboneModel,
    files: list[Path],
    options: ServingOptions,
) -> None:
    digest = artefact.manifest.onnx_sha256
    for raw in (False, True):
        write_python_model(models, "preprocess", configs.preprocess_config(backbone, raw=raw))
        write_config(models, ensembles_of.anomaly_dino_config(backbone, raw=raw))
    if options.runtime in NATIVE:
        backend = options.runtime.removeprefix("triton-")
        # Triton loads a model again only if its config differs, so an engine built anew must show.
        native = configs.native_backbone_config(backbone, digest, backend, sha256_of_file(files[0]))
        version = write_config(models, native)
    else:
        config = configs.backbone_config(backbone, options.runtime, options.precision, digest)
        version = write_python_model(models, "backbone", config)
    for path in files:
        shutil.copyfile(path, version / path.name)
    knn = configs.cosine_knn_config(
        backbone, digest, options.search_precision, options.max_bank_bytes
    )
    write_python_model(models, "cosine_knn", knn)
    if backbone.takes_students:
        students = configs.students_config(
            backbone,
            digest,
            options.students_runtime,
            options.unquantised_precision,
            options.max_bank_bytes,
        )
        write_python_model(models, "students", students)
        write_config(models, ensembles_of.patch_tokens_config(backbone))


def _write_shared_models(
    models: Path,
    artefacts: list[Artefact[BackboneManifest]],
    backbones: list[configs.BackboneModel],
    files: list[list[Path]],
    options: ServingOptions,
) -> None:
    """The models that serve all input sizes."""
    sizes = [
        _served_size(artefact, backbone, paths[0], options)
        for artefact, backbone, paths in zip(artefacts, backbones, files, strict=True)
    ]
    enroll = configs.enroll_config(
        json.dumps(sizes), options.search_precision, options.max_bank_bytes
    )
    write_python_model(models, "anomaly_map", configs.anomaly_map_config())
    write_python_model(models, "products", configs.products_config())
    write_python_model(models, "enroll", enroll)
    manage = configs.manage_config(
        json.dumps(sizes),
        options.search_precision,
        (options.students_runtime, options.unquantised_precision),
        options.max_bank_bytes,
    )
    write_templates(write_python_model(models, "manage", manage), backbones)
    write_python_model(models, "zero_shot", configs.zero_shot_config(json.dumps(sizes)))


def _served_size(
    artefact: Artefact[BackboneManifest],
    backbone: configs.BackboneModel,
    file: Path,
    options: ServingOptions,
) -> dict[str, object]:
    return {
        "label": backbone.label,
        "ensemble": wire.anomaly_dino_model(backbone.label),
        "backbone": backbone.name,
        "grid": list(backbone.grid),
        "layer": backbone.layers[-1],
        "layers": list(backbone.layers),
        "dim": backbone.dim,
        "name": artefact.manifest.variant,
        "onnx_sha256": artefact.manifest.onnx_sha256,
        "weights_sha256": artefact.manifest.weights_sha256,
        # A native backend cannot say what it runs in; our own models are asked.
        "file_sha256": sha256_of_file(file),
        "native_runtime": options.runtime if options.runtime in NATIVE else "",
        "native_precision": options.graph_precision if options.runtime in NATIVE else "",
    }


def _replace(staging: Path, target: Path) -> None:
    previous = staging.with_suffix(".previous")
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        target.rename(previous)
    staging.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def _write_record(
    repository: Path,
    artefacts: list[Artefact[BackboneManifest]],
    options: ServingOptions,
    ensembles: list[str],
) -> None:
    record = {
        "ensembles": ensembles,
        "runtime": options.runtime,
        "precision": options.precision,
        "artefacts": [artefact.manifest.to_dict() for artefact in artefacts],
    }
    staged = repository / f".{RECORD_FILE}.{os.getpid()}"
    staged.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    staged.replace(repository / RECORD_FILE)
