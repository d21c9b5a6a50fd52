"""Errors of the export package.

ExportError
├── UnknownVariantError     no such backbone
├── CheckpointError         weights missing, unreadable, incomplete or of another variant
├── MissingDependencyError  an optional package is not installed
├── InvalidGeometryError    a grid or resolution that does not fit the patch size
├── DescriptionError        engines.toml says something impossible
├── StorageError            a file or folder cannot be written, or not be read
├── TrainingError           students cannot be trained on these tokens
│   └── TrainingDivergedError  the loss or a weight is no longer a number
├── EngineError             TensorRT refuses a graph or an option
├── RuntimeUnavailableError a runtime that was asked for is not there, a GPU for one
├── ServerUnavailableError  the Triton server does not answer, or not with this model
├── ManifestError           an artefact is incomplete or not what its manifest says
└── ParityError             an artefact does not compute what PyTorch computes

Each is a wrong use or bad input for the command line (`exit_status` 2), but for ParityError,
whose answer is "no" (1), and ServerUnavailableError (3).
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 2


class UnknownVariantError(ExportError):
    """The named backbone is not in the table of variants."""


class CheckpointError(ExportError):
    """The weights cannot be used; the message names the file and what is wrong with it."""


class MissingDependencyError(ExportError):
    """A package of an optional extra is missing; the message says what to install."""


class InvalidGeometryError(ExportError):
    """The requested input size does not fit the backbone's patch size."""


class DescriptionError(ExportError):
    """The description of what to build is unreadable or contradicts itself."""


class StorageError(ExportError):
    """The system refuses to read a file, or to write an artefact; nothing of it is left behind."""


class TrainingError(ExportError):
    """Students cannot be trained or measured on these tokens; the message says why not."""


class TrainingDivergedError(TrainingError):
    """The loss or a weight is NaN or infinite; the last good checkpoint is left as it is."""


class EngineError(ExportError):
    """TensorRT cannot build an engine; the message carries what it said."""


class RuntimeUnavailableError(ExportError):
    """A runtime, or the GPU it needs, is not there."""


class ServerUnavailableError(ExportError):
    """The Triton server cannot be reached or refuses."""

    exit_status = 3


class ManifestError(ExportError):
    """An artefact's manifest is missing, damaged or does not describe its files."""


class ParityError(ExportError):
    """An exported graph disagrees with PyTorch beyond its tolerance."""

    exit_status = 1
