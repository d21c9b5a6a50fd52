"""One enrolment in progress: references gathered part by part, then made a bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank_store import BankStore, Bundle
from calibration import (
    DEFAULT_FALSE_POSITIVE_RATE,
    leave_one_out_scores,
    rotations,
    threshold_at,
)
from image_preparation import PATCH_SIZE, backbone_pixels, decode_image, same_aspect
from image_score import top_fraction_mean
from nearest_neighbours import CosineSearch, unit_vectors
from refusals import InspectionRefused
from served_size import ServedSize

TokensOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Runs the served backbone: ``(H, W, 3)`` uint8 pixels to ``(N, D)`` float32 patch tokens."""

SESSION_TIMEOUT_S = 600.0
MAX_SESSIONS = 8
_MAX_TEXT = 200


@dataclass(frozen=True)
class EnrolOptions:
    """What the caller may choose; validated.

    Attributes:
        resolution: Shorter edge in pixels, None for the served one.
        false_positive_rate: Share of good parts that may be rejected, None for the default.
        threshold: Set by hand, None to calibrate.
        operator: Who enrols.
        image_names: Names of this part's images, as many as images.
        session: Joins the parts of one enrolment, empty for a single request.
        num_staged: Images that earlier parts of the session brought.
        commit: Whether this is the last part.
    """

    resolution: int | None = None
    false_positive_rate: float | None = None
    threshold: float | None = None
    operator: str | None = None
    image_names: tuple[str, ...] = ()
    session: str = ""
    num_staged: int = 0
    commit: bool = True

    def check_repeats(self, first: EnrolOptions) -> None:
        """Refuse a later part that asks for something else than the first did.

        Raises:
            InspectionRefused: Naming the option.
        """
        for key in ("resolution", "false_positive_rate", "threshold", "operator"):
            value = getattr(self, key)
            if value is not None and value != getattr(first, key):
                raise InspectionRefused(
                    f"option '{key}' is {value!r}, but the first part of the enrolment said "
                    f"{getattr(first, key)!r}; begin again with a new session"
                )

    @classmethod
    def from_json(cls, value: object) -> EnrolOptions:
        """Validate the request's options.

        Raises:
            InspectionRefused: If a key is unknown or a value of the wrong kind.
        """
        if not isinstance(value, dict):
            raise InspectionRefused("options must be a JSON object")
        unknown = set(value) - set(cls.__dataclass_fields__)
        if unknown:
            raise InspectionRefused(
                f"unknown options {sorted(unknown)}; known are {sorted(cls.__dataclass_fields__)}"
            )
        given = {key: item for key, item in value.items() if item is not None}
        names = given.get("image_names", [])
        _require(isinstance(names, list), "image_names", "a list of strings", names)
        options = cls(**(given | {"image_names": tuple(str(name) for name in names)}))
        _require(isinstance(options.commit, bool), "commit", "true or false", options.commit)
        rate, threshold = options.false_positive_rate, options.threshold
        _require(
            rate is None or (_is_number(rate) and 0 < rate < 1),
            "false_positive_rate",
            "a number between 0 and 1",
            rate,
        )
        _require(
            threshold is None or (_is_number(threshold) and 0 <= threshold <= 2),
            "threshold",
            "a cosine distance in [0, 2]",
            threshold,
        )
        for key, lowest in (("resolution", 1), ("num_staged", 0)):
            number = getattr(options, key)
            fits = isinstance(number, int) and not isinstance(number, bool) and number >= lowest
            _require(number is None or fits, key, f"an integer of at least {lowest}", number)
        _require(
            options.resolution is None or options.resolution % PATCH_SIZE == 0,
            "resolution",
            f"a multiple of the {PATCH_SIZE} px patch",
            options.resolution,
        )
        for key in ("operator", "session"):
            text = getattr(options, key)
            fits = isinstance(text, str) and len(text) <= _MAX_TEXT
            _require(text is None or fits, key, "a short string", text)
        if "session" in given and "num_staged" not in given:
            raise InspectionRefused(
                "a part of a session must say in 'num_staged' how many images it follows (0 for "
                "the first part), so that a lost part is noticed"
            )
        return options


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, key: str, expected: str, got: object) -> None:
    if not condition:
        raise InspectionRefused(f"option '{key}' is {got!r}, expected {expected}")


@dataclass
class Enrolment:
    """References of one product on their way into a bundle.

    Attributes:
        product: Product name.
        served: The input size in use.
        image_size: Height and width of the first reference.
        first_image: That reference, decoded, for calibration when it stays the only one.
        options: Of the first part.
        max_bank_bytes: What the server can load; a larger bank is refused here and not later.
        tokens: Unit patch tokens ``(N, D)`` per reference.
        references: Name and SHA-256 per reference.
        touched_s: Monotonic time of the last part.
    """

    product: str
    served: ServedSize
    image_size: tuple[int, int]
    first_image: NDArray[np.uint8]
    options: EnrolOptions
    max_bank_bytes: int
    tokens: list[NDArray[np.float32]] = field(default_factory=list)
    references: list[dict[str, str]] = field(default_factory=list)
    touched_s: float = field(default_factory=time.monotonic)

    def add(self, name: str, encoded: bytes, tokens_of: TokensOf) -> None:
        """Add one reference image.

        Raises:
            InspectionRefused: If it cannot be decoded or is of another geometry than the first;
                the message begins with its name.
        """
        try:
            image = decode_image(encoded)
            size = (image.shape[0], image.shape[1])
            if not same_aspect(size, self.image_size):
                raise InspectionRefused(
                    f"{size[1]} x {size[0]} px has another aspect ratio than the first reference, "
                    f"{self.image_size[1]} x {self.image_size[0]} px; a product has one camera "
                    "geometry"
                )
            digest = self._new_digest(encoded)
            pixels = backbone_pixels(image, self.served.grid)
        except InspectionRefused as refusal:
            raise InspectionRefused(f"reference {name}: {refusal}") from None
        tokens = unit_vectors(tokens_of(pixels))
        size_bytes = (len(self.tokens) + 1) * tokens.nbytes
        if size_bytes > self.max_bank_bytes:
            raise InspectionRefused(
                f"reference {name}: {len(self.tokens) + 1} images make a memory bank of "
                f"{size_bytes} bytes, the server allows {self.max_bank_bytes}; enrol fewer, or "
                "assemble with a larger --max-bank-bytes"
            )
        self.tokens.append(tokens)
        self.references.append({"name": name, "sha256": digest})
        self.touched_s = time.monotonic()

    def _new_digest(self, encoded: bytes) -> str:
        digest = hashlib.sha256(encoded).hexdigest()
        for reference in self.references:
            if reference["sha256"] == digest:
                raise InspectionRefused(
                    f"it is the same file as {reference['name']}; a reference that is there twice "
                    "scores 0 against itself and spoils the threshold"
                )
        return digest

    def publish(
        self,
        store: BankStore,
        runtime: Mapping[str, str],
        search_precision: str,
        tokens_of: TokensOf,
    ) -> Bundle:
        """Calibrate and write the bundle.

        Args:
            store: Where to write.
            runtime: ``runtime`` and ``precision`` of the backbone that computed the tokens.
            search_precision: Of the search the server will score with.
            tokens_of: For the rotations of a single reference.
        """
        references = np.stack(self.tokens)
        served = self.served
        return store.publish(
            self.product,
            references.reshape(-1, references.shape[-1]),
            method="anomaly_dino",
            ensemble=served.ensemble,
            grid=list(served.grid),
            image_size=list(self.image_size),
            layer=served.layer,
            num_references=len(self.tokens),
            **self._calibrate(references, search_precision, tokens_of),
            backbone={
                "name": served.name,
                "onnx_sha256": served.onnx_sha256,
                "weights_sha256": served.weights_sha256,
                **runtime,
                "search_precision": search_precision,
            },
            references=self.references,
            operator=self.options.operator or "",
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def _calibrate(
        self, references: NDArray[np.float32], precision: str, tokens_of: TokensOf
    ) -> dict[str, Any]:
        """The bundle's thresholds and how they were found."""
        if self.options.threshold is not None:
            by_hand = float(self.options.threshold)
            return {
                "threshold": by_hand,
                "normal_below": by_hand,
                "calibration": {
                    "method": "by_hand",
                    "false_positive_rate": None,
                    "reference_scores": [],
                },
            }
        alone = len(references) == 1
        if alone:
            scores = self._rotation_scores(references[0], precision, tokens_of)
        else:
            scores = leave_one_out_scores(references, precision)
        rate = self.options.false_positive_rate or DEFAULT_FALSE_POSITIVE_RATE
        threshold = threshold_at(scores, rate)
        return {
            "threshold": threshold,
            "normal_below": 0.0 if alone else threshold,
            "calibration": {
                "method": "rotations_of_the_only_reference" if alone else "leave_one_out",
                "false_positive_rate": rate,
                "reference_scores": [float(score) for score in scores],
            },
        }

    def _rotation_scores(
        self, tokens: NDArray[np.float32], precision: str, tokens_of: TokensOf
    ) -> NDArray[np.float64]:
        search = CosineSearch(tokens, len(tokens), precision)
        return np.array(
            [
                top_fraction_mean(search.distances(unit_vectors(tokens_of(pixels))))
                for pixels in self._rotated_pixels()
            ]
        )

    def _rotated_pixels(self) -> Iterator[NDArray[np.uint8]]:
        for image in rotations(self.first_image):
            yield backbone_pixels(image, self.served.grid)


class Sessions:
    """Enrolments that arrive in parts, by the caller's session name."""

    def __init__(self) -> None:
        self._open: dict[str, Enrolment] = {}

    def get(self, session: str) -> Enrolment | None:
        """The open enrolment of that name; abandoned ones are forgotten first."""
        now = time.monotonic()
        for name, enrolment in list(self._open.items()):
            if now - enrolment.touched_s > SESSION_TIMEOUT_S:
                del self._open[name]
        return self._open.get(session)

    def put(self, session: str, enrolment: Enrolment) -> None:
        """Keep an enrolment open.

        Raises:
            InspectionRefused: If too many are open.
        """
        if session not in self._open and len(self._open) >= MAX_SESSIONS:
            raise InspectionRefused(
                f"{MAX_SESSIONS} enrolments are open already; finish one or wait "
                f"{SESSION_TIMEOUT_S:.0f} s"
            )
        self._open[session] = enrolment

    def drop(self, session: str) -> None:
        """Forget an enrolment."""
        self._open.pop(session, None)
