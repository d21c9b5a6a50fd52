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
from image_preparation import backbone_pixels, decode_image, same_aspect
from image_score import top_fraction_mean
from nearest_neighbours import CosineSearch, unit_vectors
from refusals import InspectionRefused

TokensOf = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Runs the served backbone: ``(H, W, 3)`` uint8 pixels to ``(N, D)`` float32 patch tokens."""

SESSION_TIMEOUT_S = 600.0
MAX_SESSIONS = 8


@dataclass(frozen=True)
class ServedSize:
    """One input size that this server can enrol for.

    Attributes:
        label: ``448`` or ``448x588``.
        ensemble: Model that will inspect.
        backbone: Model that computes patch tokens.
        grid: Patch grid.
        layer: One-based block whose tokens are compared.
        name, onnx_sha256, weights_sha256: Identity of the backbone.
        native_runtime: Triton backend that runs it; empty when the model itself tells.
    """

    label: str
    ensemble: str
    backbone: str
    grid: tuple[int, int]
    layer: int
    name: str
    onnx_sha256: str
    weights_sha256: str
    native_runtime: str

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ServedSize:
        """Read what `assemble` put into the model's parameters."""
        rows, columns = value["grid"]
        return cls(**(value | {"grid": (rows, columns)}))


@dataclass(frozen=True)
class EnrolOptions:
    """What the caller may choose; validated.

    Attributes:
        resolution: Shorter edge in pixels, None for the served one.
        false_positive_rate: Share of good parts that may be rejected.
        threshold: Set by hand, None to calibrate.
        operator: Who enrols.
        image_names: Names of this part's images, as many as images.
        session: Joins the parts of one enrolment, empty for a single request.
        commit: Whether this is the last part.
    """

    resolution: int | None = None
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE
    threshold: float | None = None
    operator: str = ""
    image_names: tuple[str, ...] = ()
    session: str = ""
    commit: bool = True

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
        given["image_names"] = tuple(str(name) for name in given.get("image_names", ()))
        options = cls(**given)
        _require(isinstance(options.commit, bool), "commit", "true or false", options.commit)
        _require(
            _is_number(options.false_positive_rate) and 0 < options.false_positive_rate < 1,
            "false_positive_rate",
            "a number between 0 and 1",
            options.false_positive_rate,
        )
        _require(
            options.threshold is None
            or (_is_number(options.threshold) and 0 <= options.threshold <= 2),
            "threshold",
            "a cosine distance in [0, 2]",
            options.threshold,
        )
        _require(
            options.resolution is None or isinstance(options.resolution, int),
            "resolution",
            "an integer number of pixels",
            options.resolution,
        )
        for key in ("operator", "session"):
            text = getattr(options, key)
            _require(isinstance(text, str) and len(text) <= 200, key, "a short string", text)
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
        tokens: Unit patch tokens ``(N, D)`` per reference.
        references: Name and SHA-256 per reference.
        touched_s: Monotonic time of the last part.
    """

    product: str
    served: ServedSize
    image_size: tuple[int, int]
    first_image: NDArray[np.uint8]
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
            pixels = backbone_pixels(image, self.served.grid)
        except InspectionRefused as refusal:
            raise InspectionRefused(f"reference {name}: {refusal}") from None
        self.tokens.append(unit_vectors(tokens_of(pixels)))
        self.references.append({"name": name, "sha256": hashlib.sha256(encoded).hexdigest()})
        self.touched_s = time.monotonic()

    def publish(
        self,
        store: BankStore,
        options: EnrolOptions,
        runtime: Mapping[str, str],
        search_precision: str,
        tokens_of: TokensOf,
    ) -> Bundle:
        """Calibrate and write the bundle.

        Args:
            store: Where to write.
            options: Of the committing part.
            runtime: ``runtime`` and ``precision`` of the backbone that computed the tokens.
            search_precision: Of the search the server will score with.
            tokens_of: For the rotations of a single reference.
        """
        references = np.stack(self.tokens)
        threshold, calibration = self._calibrate(references, options, search_precision, tokens_of)
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
            threshold=threshold,
            calibration=calibration,
            backbone={
                "name": served.name,
                "onnx_sha256": served.onnx_sha256,
                "weights_sha256": served.weights_sha256,
                **runtime,
            },
            references=self.references,
            operator=options.operator,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def _calibrate(
        self,
        references: NDArray[np.float32],
        options: EnrolOptions,
        precision: str,
        tokens_of: TokensOf,
    ) -> tuple[float, dict[str, Any]]:
        if options.threshold is not None:
            return float(options.threshold), {
                "method": "by_hand",
                "false_positive_rate": None,
                "reference_scores": [],
            }
        if len(references) > 1:
            method = "leave_one_out"
            scores = leave_one_out_scores(references, precision)
        else:
            method = "rotations_of_the_only_reference"
            search = CosineSearch(references[0], references.shape[1], precision)
            scores = np.array(
                [
                    top_fraction_mean(search.distances(unit_vectors(tokens_of(pixels))))
                    for pixels in self._rotated_pixels()
                ]
            )
        rate = options.false_positive_rate
        return threshold_at(scores, rate), {
            "method": method,
            "false_positive_rate": rate,
            "reference_scores": [float(score) for score in scores],
        }

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
