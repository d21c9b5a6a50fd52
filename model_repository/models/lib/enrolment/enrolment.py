"""One enrolment in progress: images of good parts gathered part by part, then made a version."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_search import bank_size_bytes
from bundle import Bundle
from coreset import coreset_size
from enrol_options import EnrolOptions
from foreground import foreground_mask
from image_preparation import backbone_pixels, decode_image, same_aspect
from inverted_lists import default_num_lists
from masking_test import masking_test
from memory_bank import MemoryBank, RowFile
from nearest_neighbours import unit_tokens
from preprocessing import DEFAULT_SETTING, ROTATIONS_DEG, check_setting, rotate, rotations_of
from refusals import InspectionRefused
from search_loss import MAX_PROBES
from served_size import ServedSize, TokensOf


@dataclass
class Enrolment:
    """Images of one product on their way into a version.

    Attributes:
        product: Product name.
        served: The input size in use.
        image_size: Height and width of the references in pixels.
        options: Of the first part.
        rotations_deg: Angles at which each reference enters the bank, 0 first.
        masked: Whether backgrounds are masked; None until the first reference decides.
        reference_rows: Unit patch tokens of the references, all rotations.
        good_rows: Unit patch tokens of the good images that are not references.
        search_precision: Of the search that will score.
        max_bank_bytes: What the server can load; a larger bank is refused here and not later.
        base: The version that is appended to; None for a new enrolment.
        masking_test: Outcome of the test, if there was one.
        first_image: The first reference, for calibration when it stays the only one.
        references, good_images: ``name`` and ``sha256`` of each.
        reference_foreground, good_foreground: ``(rows, columns)`` bool of each.
        probes: ``(N, D)`` unit tokens of mirrored references, to measure what a search loses.
        touched_s: Monotonic time of the last part.
    """

    product: str
    served: ServedSize
    image_size: tuple[int, int]
    options: EnrolOptions
    rotations_deg: tuple[int, ...]
    masked: bool | None
    reference_rows: RowFile
    good_rows: RowFile
    search_precision: str
    max_bank_bytes: int
    base: Bundle | None = None
    masking_test: dict[str, Any] | None = None
    first_image: NDArray[np.uint8] | None = None
    references: list[dict[str, str]] = field(default_factory=list)
    good_images: list[dict[str, str]] = field(default_factory=list)
    reference_foreground: list[NDArray[np.bool_]] = field(default_factory=list)
    probes: list[NDArray[np.float32]] = field(default_factory=list)
    good_foreground: list[NDArray[np.bool_]] = field(default_factory=list)
    touched_s: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(
        cls,
        product: str,
        served: ServedSize,
        image_size: tuple[int, int],
        options: EnrolOptions,
        **limits: Any,
    ) -> Enrolment:
        """A new enrolment; its first reference decides what a masking test must.

        Args:
            product: Product name.
            served: The input size.
            image_size: Height and width of the first image.
            options: Of the first part.
            **limits: ``reference_rows``, ``good_rows``, ``search_precision``, ``max_bank_bytes``.
        """
        rotated, texture = bool(options.rotated), bool(options.texture)
        name = options.preprocessing or DEFAULT_SETTING
        setting = check_setting(name, rotated=rotated, texture=texture)
        decided = {"always": True, "never": False, "test": False if texture else None}
        return cls(
            product,
            served,
            image_size,
            options,
            rotations_of(setting, rotated=rotated),
            decided[setting.masking],
            **limits,
        )

    @classmethod
    def continued(
        cls,
        base: Bundle,
        bank: MemoryBank,
        served: ServedSize,
        options: EnrolOptions,
        **limits: Any,
    ) -> Enrolment:
        """An enrolment that begins with the references of an existing version.

        Raises:
            InspectionRefused: If patches of that version were thinned out.
        """
        if base.scoring.coreset_fraction < 1:
            raise InspectionRefused(
                f"the bank of '{base.product}' is a coreset, {base.scoring.coreset_fraction:g} of "
                "its references' patches; the others are gone, so enrol again with all images"
            )
        size = (base.image_size[0], base.image_size[1])
        begun = cls(
            base.product,
            served,
            size,
            options,
            tuple(base.preprocessing.rotations_deg),
            base.preprocessing.masked,
            **limits,
            base=base,
            masking_test=base.preprocessing.masking_test,
            references=list(base.references),
            reference_foreground=list(bank.reference_foreground),
        )
        begun.reference_rows.append(bank.tokens)
        return begun

    def add(self, name: str, encoded: bytes, role: str, tokens_of: TokensOf) -> None:
        """Add one image.

        Args:
            name: What to call it.
            encoded: The file's bytes.
            role: ``reference`` or ``good``.
            tokens_of: The backbone.

        Raises:
            InspectionRefused: If it cannot be decoded, is of another geometry than the first, or
                makes the bank too large; the message begins with its name.
        """
        what = "reference" if role == "reference" else "good image"
        try:
            image = decode_image(encoded)
            size = (image.shape[0], image.shape[1])
            if not same_aspect(size, self.image_size):
                raise InspectionRefused(
                    f"{size[1]} x {size[0]} px has another aspect ratio than the first reference, "
                    f"{self.image_size[1]} x {self.image_size[0]} px; a product has one camera "
                    "geometry"
                )
            record = {"name": name, "sha256": self._new_digest(encoded)}
            if role == "reference":
                self._add_reference(image, record, tokens_of)
            else:
                self._add_good(image, record, tokens_of)
        except InspectionRefused as refusal:
            raise InspectionRefused(f"{what} {name}: {refusal}") from None
        self.touched_s = time.monotonic()

    def _add_reference(
        self, image: NDArray[np.uint8], record: dict[str, str], tokens_of: TokensOf
    ) -> None:
        rows_each = len(self.rotations_deg) * self.served.grid[0] * self.served.grid[1]
        for angle_deg in self.rotations_deg:
            tokens = tokens_of(backbone_pixels(rotate(image, angle_deg), self.served.grid))
            if angle_deg == 0:
                self._check_size(rows_each, tokens.shape[1])
                self._decide_masking(tokens)
                self.reference_foreground.append(self.foreground(tokens))
            self.reference_rows.append(unit_tokens(tokens))
        if self._loses() and len(self.probes) < MAX_PROBES:
            mirrored = np.ascontiguousarray(image[:, ::-1])
            tokens = tokens_of(backbone_pixels(mirrored, self.served.grid))
            self.probes.append(unit_tokens(tokens))
        if self.first_image is None:
            self.first_image = image
        self.references.append(record)

    def _add_good(
        self, image: NDArray[np.uint8], record: dict[str, str], tokens_of: TokensOf
    ) -> None:
        if not self.references:
            raise InspectionRefused("good images that are no references come after the references")
        tokens = tokens_of(backbone_pixels(image, self.served.grid))
        self.good_foreground.append(self.foreground(tokens))
        self.good_rows.append(unit_tokens(tokens))
        self.good_images.append(record)

    def foreground(self, tokens: NDArray[np.float32]) -> NDArray[np.bool_]:
        """``(rows, columns)`` bool of an image's tokens; all True when nothing is masked."""
        if self.masked:
            return foreground_mask(tokens, self.served.grid)
        return np.ones(self.served.grid, bool)

    def _decide_masking(self, tokens: NDArray[np.float32]) -> None:
        if self.masked is None:
            test = masking_test(tokens, self.served.grid)
            self.masked, self.masking_test = test.passed, test.to_dict()

    def _loses(self) -> bool:
        """Whether the search will be anything but exact in all patches."""
        if self.base is not None:
            return self.base.scoring.search != "exact"
        return self.options.search == "ivf" or (self.options.coreset_fraction or 1) < 1

    def _check_size(self, rows_each: int, dim: int) -> None:
        fraction = self.options.coreset_fraction or 1.0
        num_rows = coreset_size((len(self.references) + 1) * rows_each, fraction)
        searched = self.base.scoring.search if self.base else self.options.search
        num_lists = default_num_lists(num_rows) if searched == "ivf" else 0
        size_bytes = bank_size_bytes(num_rows, dim, self.search_precision, num_lists)
        if size_bytes > self.max_bank_bytes:
            turned = len(self.rotations_deg) == len(ROTATIONS_DEG)
            hint = "'preprocessing' without rotations, " if turned else ""
            raise InspectionRefused(
                f"{len(self.references) + 1} images make a memory bank of {num_rows} patches, "
                f"{size_bytes} bytes when loaded, the server allows {self.max_bank_bytes}; enrol "
                f"fewer, {hint}a smaller 'coreset_fraction', or assemble with a larger "
                "--max-bank-bytes"
            )

    def _new_digest(self, encoded: bytes) -> str:
        digest = hashlib.sha256(encoded).hexdigest()
        kept = self.base.calibration.good_images if self.base and self.keeps_bank else []
        for known in (*self.references, *self.good_images, *kept):
            if known["sha256"] == digest:
                raise InspectionRefused(
                    f"it is the same file as {known['name']}; an image that is there twice scores "
                    "0 against itself and spoils the threshold"
                )
        return digest

    @property
    def keeps_bank(self) -> bool:
        """Whether the bank is still that of the version this continues."""
        return self.base is not None and len(self.references) == self.base.num_references

    @property
    def num_staged(self) -> int:
        """Images this enrolment brought so far, without those of the version it continues."""
        kept = len(self.base.references) if self.base else 0
        return len(self.references) + len(self.good_images) - kept

    def close(self) -> None:
        """Free its space on disk."""
        self.reference_rows.close()
        self.good_rows.close()
