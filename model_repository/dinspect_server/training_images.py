"""The good images of a product, as files whose content is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dinspect_server.errors import TrainingInputError


@dataclass(frozen=True)
class TrainingImages:
    """Good images of a product, known by their digests.

    Attributes:
        training: Paths of those to train on.
        calibrating: Paths of those for the thresholds only.
        records: ``name`` and ``sha256`` of each, training images first.
    """

    training: tuple[Path, ...]
    calibrating: tuple[Path, ...]
    records: list[dict[str, str]]

    @property
    def all(self) -> tuple[Path, ...]:
        """Training images, then the others: the order of the cache's indices."""
        return self.training + self.calibrating

    def read(self, index: int) -> bytes:
        """An image's file, which must still be the one whose digest was taken.

        Raises:
            TrainingInputError: If it is not.
        """
        path = self.all[index]
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.records[index]["sha256"]:
            raise TrainingInputError(f"{path} changed while it was read; run the command again")
        return content

    @property
    def training_indices(self) -> range:
        """Which of the cache's images are trained on."""
        return range(len(self.training))

    @property
    def calibrating_indices(self) -> range:
        """Which of the cache's images only set the thresholds."""
        return range(len(self.training), len(self.all))


def read_images(
    training: tuple[Path, ...], calibrating: tuple[Path, ...], min_training: int
) -> TrainingImages:
    """Take the digests of a product's images.

    Args:
        training: Those to train on.
        calibrating: Those that only set the thresholds.
        min_training: Images that it takes to train and calibrate on the same ones.

    Raises:
        TrainingInputError: If there are too few, one is there twice, or one cannot be read.
    """
    if not training + calibrating:
        raise TrainingInputError("no good image is given, expected at least one")
    if training and not calibrating and len(training) < min_training:
        raise TrainingInputError(
            "a single image cannot both train students and show how good parts score; give more "
            "images, or others with --good"
        )
    records: list[dict[str, str]] = []
    names: dict[str, Path] = {}
    for path in training + calibrating:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise TrainingInputError(f"cannot read {path}: {error.strerror}") from error
        if digest in names:
            raise TrainingInputError(
                f"{path} is the same file as {names[digest]}; give each image once"
            )
        names[digest] = path
        records.append({"name": path.name, "sha256": digest})
    return TrainingImages(training, calibrating, records)
