"""One zero-shot batch: images gathered part by part, then each scored against all others."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreground import foreground_mask
from image_preparation import backbone_pixels, decode_image, same_aspect
from image_score import DEFAULT_IMAGE_SCORE, image_score
from masking_test import masking_test
from memory_bank import RowFile
from mutual_scoring import DEFAULT_ALPHA, num_nearest, tail_distances
from nearest_neighbours import unit_tokens
from refusals import InspectionRefused
from served_size import ServedSize, TokensOf
from zero_shot_options import ZeroShotOptions


@dataclass(frozen=True)
class Member:
    """One image of a batch.

    Attributes:
        name: What the caller calls it.
        sha256: Of its encoded bytes.
        image_size: Height and width in pixels.
        foreground: ``(rows, columns)`` bool, all True when nothing is masked.
    """

    name: str
    sha256: str
    image_size: tuple[int, int]
    foreground: NDArray[np.bool_]


@dataclass
class Batch:
    """Images of one camera that are scored against each other.

    Attributes:
        served: The input size in use.
        image_size: Height and width of the first image in pixels.
        options: Of the first part.
        runtime: ``runtime`` and ``precision`` of the backbone.
        rows: Unit patch tokens of all images, on disk.
        masked: Whether backgrounds are masked; None until the first image decides.
        masking_test: Outcome of the test, if there was one.
        members: The images.
        touched_s: Monotonic time of the last request.
    """

    served: ServedSize
    image_size: tuple[int, int]
    options: ZeroShotOptions
    runtime: dict[str, str]
    rows: RowFile
    masked: bool | None
    masking_test: dict[str, Any] | None = None
    members: list[Member] = field(default_factory=list)
    touched_s: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        served: ServedSize,
        image_size: tuple[int, int],
        options: ZeroShotOptions,
        runtime: dict[str, str],
        rows: RowFile,
    ) -> Batch:
        """A batch without images; arguments are the attributes of the same names."""
        decided = {"always": True, "never": False, "test": None}
        masked = decided[options.masking or "test"]
        return cls(served, image_size, options, runtime, rows, masked)

    def add(self, names: tuple[str, ...], encoded: list[bytes], tokens_of: TokensOf) -> None:
        """Add the images of one part, all of them or none.

        Args:
            names: What to call them.
            encoded: The files' bytes.
            tokens_of: The backbone.

        Raises:
            InspectionRefused: If one cannot be decoded, is of another geometry than the first or
                is there already, or the disk is full; the message begins with its name.
        """
        self.rows.require_room(len(encoded) * self.num_patches)
        prepared: list[tuple[Member, NDArray[np.uint8]]] = []
        for name, content in zip(names, encoded, strict=True):
            try:
                prepared.append(self._prepared(name, content, [one for one, _ in prepared]))
            except InspectionRefused as refusal:
                raise InspectionRefused(f"image {name}: {refusal}") from None
        for member, pixels in prepared:
            tokens = tokens_of(pixels)
            if self.masked is None:
                test = masking_test(tokens, self.served.grid)
                self.masked, self.masking_test = test.passed, test.to_dict()
            if self.masked:
                member.foreground[:] = foreground_mask(tokens, self.served.grid)
            self.rows.append(unit_tokens(tokens))
            self.members.append(member)
        self.touched_s = time.monotonic()

    def distances(self, index: int) -> NDArray[np.float32]:
        """Patch distances of one image to all others, ``(rows, columns)``, 0 where masked.

        Raises:
            InspectionRefused: If there is no such image, or nothing to compare it with.
        """
        self.touched_s = time.monotonic()
        if not 0 <= index < len(self.members):
            raise InspectionRefused(
                f"there is no image {index}; the batch has {len(self.members)}, from 0"
            )
        if len(self.members) < 2:
            raise InspectionRefused("a batch of one image has nothing to compare it with")
        own = slice(index * self.num_patches, (index + 1) * self.num_patches)
        flat = tail_distances(self.rows, own, self.num_nearest, self.options.statistic or "max")
        distances = flat.reshape(self.served.grid)
        return np.where(self.members[index].foreground, distances, np.float32(0))

    def score(self, index: int, distances: NDArray[np.float32]) -> float:
        """The image score of one image's distances (Equation 4 by default).

        A score of the map is of the map at the first image's size, so that all can be compared.
        """
        member = self.members[index]
        everywhere = np.ones(self.served.grid, bool)
        name = self.options.image_score or DEFAULT_IMAGE_SCORE
        return image_score(name, distances, member.foreground, everywhere, self.image_size)

    @property
    def num_patches(self) -> int:
        """Patches of one image."""
        return self.served.grid[0] * self.served.grid[1]

    @property
    def num_bank_patches(self) -> int:
        """Patches that an image is compared with: of all others."""
        return (len(self.members) - 1) * self.num_patches

    @property
    def num_nearest(self) -> int:
        """Distances that count for each patch."""
        alpha = DEFAULT_ALPHA if self.options.alpha is None else self.options.alpha
        return num_nearest(self.num_bank_patches, alpha)

    def close(self) -> None:
        """Free its space on disk."""
        self.rows.close()

    def _prepared(
        self, name: str, content: bytes, before: list[Member]
    ) -> tuple[Member, NDArray[np.uint8]]:
        image = decode_image(content)
        size = (image.shape[0], image.shape[1])
        if not same_aspect(size, self.image_size):
            raise InspectionRefused(
                f"{size[1]} x {size[0]} px has another aspect ratio than the first image, "
                f"{self.image_size[1]} x {self.image_size[0]} px; a batch has one camera geometry"
            )
        digest = hashlib.sha256(content).hexdigest()
        for known in (*self.members, *before):
            if known.sha256 == digest:
                raise InspectionRefused(
                    f"it is the same file as {known.name}; each would vouch for the other"
                )
        member = Member(name, digest, size, np.ones(self.served.grid, bool))
        return member, backbone_pixels(image, self.served.grid)
