"""The client's calls that make versions from images: enrol a product, append to it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dinspect_client import wire
from dinspect_client.codec import (
    bytes_tensor,
    fault,
    image_parts,
    json_from_answer,
    version_from_answer,
)
from dinspect_client.connection import (
    ENROLL,
    FORGET_TIMEOUT_S,
    Connection,
    json_tensor,
    text_tensor,
)
from dinspect_client.errors import InspectionError, RequestRejected, ServerFault
from dinspect_client.images import ImageSource, image_list, image_names
from dinspect_client.versions import ImageRecord, ProductVersion
from dinspect_client.wire import EnrollOption, Method

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

REFERENCE, GOOD = "reference", "good"


class Enrolling(Connection):
    """Makes versions of products from images of good parts."""

    def enroll(
        self,
        product: str,
        images: Sequence[ImageSource],
        *,
        resolution: int | None = None,
        preprocessing: str | None = None,
        rotated: bool = False,
        texture: bool = False,
        num_neighbours: int | None = None,
        image_score: str | None = None,
        search: str | None = None,
        coreset_fraction: float | None = None,
        false_positive_rate: float | None = None,
        undecided_rate: float | None = None,
        threshold: float | None = None,
        normal_below: float | None = None,
        activate: bool = True,
        operator: str | None = None,
        good_images: Sequence[ImageSource] = (),
        on_progress: Callable[[int, int], object] | None = None,
    ) -> ProductVersion:
        """Enrol a product, or a new version of it, from images of good parts.

        The images travel in parts; the new version appears with the last one, or not at all. What
        is None is the server's own choice.

        Args:
            product: Name of the product: 1-64 letters, digits, ``_``, ``.``, ``-``.
            images: At least one reference, each as in ``inspect``; files are read one part at a
                time.
            resolution: Shorter edge in pixels.
            preprocessing: Masking and rotation of the references: ``agnostic`` (masking as a test
                decides, 8 rotations), ``informed`` (rotations only if ``rotated``),
                ``masking_only``, or a row of the paper's Table 9b: ``no_mask_no_rotation``,
                ``no_mask_rotation``, ``mask_no_rotation``, ``mask_rotation``.
            rotated: Parts come in any orientation; said with ``informed``.
            texture: Parts are a surface without background, which is never masked.
            num_neighbours: Rows of the bank each patch is compared with; the mean counts.
            image_score: ``mean_top1p``, ``mean_top1p_foreground``, ``max`` or ``max_map``.
            search: ``exact`` or ``ivf``, approximate and faster in large banks.
            coreset_fraction: Share in (0, 1] of the references' patches to keep.
            false_positive_rate: Share of good parts that may be called anomalous, in (0, 1).
            undecided_rate: Share of good parts that may be undecided besides, in [0, 1).
            threshold: Set by hand instead of calibrated, in the unit of the score.
            normal_below: The lower threshold by hand, with ``threshold`` and not above it.
            activate: Whether the new version is in force at once; a product's first always is.
            operator: Who enrols, recorded with the version.
            good_images: Other good images, for the thresholds only.
            on_progress: Called after each part with the images done and all images.

        Returns:
            The version that the server committed.

        Raises:
            InvalidImageError: If an image cannot be read.
            RequestRejected: If the server refuses name, options or an image; nothing is enrolled.
            InspectionError: Another subclass. Nothing is sent again: whether the last part was
                committed is unknown after RequestTimeout and ServerUnreachable, see ``products``.
        """
        references, others = image_list(images), image_list(good_images)
        if not references:
            raise RequestRejected(f"no image to enrol {product!r} from, expected at least one")
        options = {
            EnrollOption.RESOLUTION: resolution,
            EnrollOption.PREPROCESSING: preprocessing,
            EnrollOption.ROTATED: rotated or None,
            EnrollOption.TEXTURE: texture or None,
            EnrollOption.NUM_NEIGHBOURS: num_neighbours,
            EnrollOption.IMAGE_SCORE: image_score,
            EnrollOption.SEARCH: search,
            EnrollOption.CORESET_FRACTION: coreset_fraction,
            EnrollOption.FALSE_POSITIVE_RATE: false_positive_rate,
            EnrollOption.UNDECIDED_RATE: undecided_rate,
            EnrollOption.THRESHOLD: threshold,
            EnrollOption.NORMAL_BELOW: normal_below,
            EnrollOption.ACTIVATE: None if activate else False,
            EnrollOption.OPERATOR: operator,
        }
        return self._send_images(product, references, others, options, on_progress)

    def append(
        self,
        product: str,
        images: Sequence[ImageSource] = (),
        *,
        good_images: Sequence[ImageSource] = (),
        false_positive_rate: float | None = None,
        undecided_rate: float | None = None,
        threshold: float | None = None,
        normal_below: float | None = None,
        activate: bool = True,
        operator: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> ProductVersion:
        """Make a new version from the one in force and more images of good parts.

        Everything but the thresholds stays as it was enrolled; those are found anew, at the same
        rates unless said otherwise, or stay as set by hand.

        Args:
            product: Name of an enrolled product.
            images: More references; may be empty if there are good images.
            good_images: Good images for the thresholds only.
            false_positive_rate: As in ``enroll``; as it was when None, and so the following.
            undecided_rate: As in ``enroll``.
            threshold: As in ``enroll``.
            normal_below: As in ``enroll``.
            activate: Whether the new version is in force at once.
            operator: Who appends, recorded with the version.
            on_progress: As in ``enroll``.

        Returns:
            The version that the server committed.

        Raises:
            InspectionError: As in ``enroll``.
        """
        references, others = image_list(images), image_list(good_images)
        if not references and not others:
            raise RequestRejected(f"no image to append to {product!r}, expected at least one")
        options = {
            EnrollOption.APPEND: True,
            EnrollOption.FALSE_POSITIVE_RATE: false_positive_rate,
            EnrollOption.UNDECIDED_RATE: undecided_rate,
            EnrollOption.THRESHOLD: threshold,
            EnrollOption.NORMAL_BELOW: normal_below,
            EnrollOption.ACTIVATE: None if activate else False,
            EnrollOption.OPERATOR: operator,
        }
        return self._send_images(product, references, others, options, on_progress)

    def _send_images(
        self,
        product: str,
        references: list[ImageSource],
        others: list[ImageSource],
        options: dict[str, Any],
        on_progress: Callable[[int, int], object] | None,
    ) -> ProductVersion:
        """Send all images in parts of one session, and check what the last part made of them."""
        if not wire.is_product_name(product):
            raise RequestRejected(
                f"product {product!r} cannot be enrolled: expected a name of 1-64 letters, "
                "digits, '_', '.', '-', without a version"
            )
        options = options | {EnrollOption.SESSION: uuid.uuid4().hex}
        names = image_names([*references, *others])
        sent: dict[str, list[ImageRecord]] = {REFERENCE: [], GOOD: []}
        num_held = num_sent = 0
        try:
            for role, part in _parts(references, others, names):
                num_sent = num_held + len(part)
                given = _part_options(options, role, part, num_held, num_sent == len(names))
                answer = self._send_part(product, [data for _, data in part], given)
                if num_sent < len(names):
                    _check_staged(answer, product, num_sent)
                num_held = num_sent
                sent[role] += [ImageRecord(name, _sha256(data)) for name, data in part]
                if on_progress is not None:
                    on_progress(num_held, len(names))
        except BaseException as error:
            # What the server refused, it has forgotten; what stopped here, it would keep.
            if num_held < len(names) and getattr(error, "status", None) is None:
                # A part that was interrupted on its way may have arrived, or not.
                for number in sorted({num_sent, num_held} - {0}, reverse=True):
                    self._abandon(product, options[EnrollOption.SESSION], number)
            raise
        # The new version may be of another resolution.
        self._ensembles.pop((product, Method.ANOMALY_DINO), None)
        return _committed(answer, product, sent, appended=EnrollOption.APPEND in options)

    def _send_part(
        self,
        product: str,
        images: list[bytes],
        options: dict[str, Any],
        timeout_s: float | None = None,
    ) -> Answer:
        return self._ask(
            ENROLL,
            [
                (wire.PRODUCT, text_tensor(product)),
                (wire.ENROLL_IMAGES, bytes_tensor(images)),
                (wire.ENROLL_OPTIONS, json_tensor(options)),
            ],
            timeout_s=timeout_s or self._enroll_timeout_s,
            retry=False,  # a part that did arrive would be staged twice
        )

    def _abandon(self, product: str, session: str, num_held: int) -> None:
        """Let the server forget images that nobody will commit, as far as it listens.

        A part that fails ends its session: this one is no image.
        """
        options = {
            EnrollOption.SESSION: session,
            EnrollOption.NUM_STAGED: num_held,
            EnrollOption.IMAGE_NAMES: ["abandoned"],
            EnrollOption.COMMIT: False,
        }
        with contextlib.suppress(InspectionError):
            self._send_part(product, [b"-"], options, timeout_s=FORGET_TIMEOUT_S)


def _parts(
    references: list[ImageSource], others: list[ImageSource], names: list[str]
) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Parts of names and encoded images with their role; no part has images of both."""
    for role, images, called in (
        (REFERENCE, references, names[: len(references)]),
        (GOOD, others, names[len(references) :]),
    ):
        for part in image_parts(images, called):
            yield role, part


def _part_options(
    options: dict[str, Any],
    role: str,
    part: list[tuple[str, bytes]],
    num_staged: int,
    commit: bool,
) -> dict[str, Any]:
    """Options of one part: those of the enrolment, which may be repeated, and its own."""
    return options | {
        EnrollOption.NUM_STAGED: num_staged,
        EnrollOption.ROLE: None if role == REFERENCE else role,
        EnrollOption.IMAGE_NAMES: [name for name, _ in part],
        EnrollOption.COMMIT: commit,
    }


def _check_staged(answer: Answer, product: str, num_done: int) -> None:
    num_staged = json_from_answer(answer, wire.ENROLL_REPORT, dict).get("num_staged")
    if num_staged != num_done:
        raise ServerFault(
            f"the server holds {num_staged} images of {num_done} sent; {product!r} was not "
            "enrolled, try again",
            model_name=answer.model_name,
            request_id=answer.request_id,
        )


def _committed(
    answer: Answer, product: str, sent: dict[str, list[ImageRecord]], *, appended: bool
) -> ProductVersion:
    """The version the last part made, if it was made from what was sent.

    Raises:
        ServerFault: If it was made from other images, or is told differently in two places.
    """
    version = version_from_answer(answer, wire.ENROLL_REPORT, ProductVersion, product)
    told = answer.scalar(wire.THRESHOLD)
    if not math.isclose(told, version.threshold, rel_tol=1e-6):
        raise fault(answer, f"the threshold is {told}, the report says {version.threshold}")
    if len(version.references) != version.num_references:
        raise fault(
            answer, f"{version.num_references} references, but {len(version.references)} named"
        )
    for role, made_from in (
        (REFERENCE, version.references),
        (GOOD, version.calibration.good_images),
    ):
        expected = tuple(sent[role])
        # An appended version begins with the images of the one before.
        num_before = max(len(made_from) - len(expected), 0) if appended else 0
        if made_from[num_before:] != expected:
            raise ServerFault(
                f"{version.reference} was made from {len(made_from)} {role} images that are not "
                f"the {len(expected)} that were sent; do not use it",
                model_name=answer.model_name,
                request_id=answer.request_id,
            )
    return version


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
