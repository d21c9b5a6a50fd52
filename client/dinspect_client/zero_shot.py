"""The client's call that needs no references: score the images of a folder against each other."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinspect_client import wire
from dinspect_client.codec import bytes_tensor, fault, image_parts, json_from_answer, naming
from dinspect_client.connection import FORGET_TIMEOUT_S, ZERO_SHOT, Connection, json_tensor
from dinspect_client.errors import InspectionError, RequestRejected, ServerFault
from dinspect_client.images import ImageSource, image_list, image_names
from dinspect_client.records import read_record
from dinspect_client.results import ZeroShotScore
from dinspect_client.versions import Backbone, ImageRecord
from dinspect_client.wire import ZeroShotOption

if TYPE_CHECKING:
    from dinspect_client.transport import Answer


@dataclass(frozen=True)
class _ScoreReport:
    """What the server says of one scored image besides the numbers."""

    index: int
    name: str
    sha256: str
    num_images: int
    num_bank_patches: int
    backbone: Backbone


class ZeroShot(Connection):
    """Scores images without references."""

    def zero_shot(
        self,
        images: Sequence[ImageSource],
        *,
        resolution: int | None = None,
        masking: str | None = None,
        alpha: float | None = None,
        statistic: str | None = None,
        image_score: str | None = None,
        with_map: bool = True,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Generator[ZeroShotScore, None, None]:
        """Score every image against all others, of which most should be good.

        All images are staged on the server first, in parts, when the first score is asked for;
        then each score is computed as it is asked for. The server forgets the images with the last
        one, or when the generator is closed or fails. What is None is the server's own choice.

        Source: AnomalyDINO, Appendix D.

        Args:
            images: At least two images of one camera, each as in ``inspect``; files are read one
                part at a time.
            resolution: Shorter edge in pixels.
            masking: ``test`` (the masking test on the first image decides), ``always`` or
                ``never``.
            alpha: Share in (0, 1) of the nearest distances that counts.
            statistic: ``max`` of them, as in the paper, or ``mean``, as in the authors' code.
            image_score: ``mean_top1p``, ``mean_top1p_foreground``, ``max`` or ``max_map``.
            with_map: Whether to have the map at each image's size.
            on_progress: Called after each staged part with the images staged and all images.

        Yields:
            The score of each image, in the order of the images.

        Raises:
            InvalidImageError: If an image cannot be read.
            RequestRejected: If the server refuses options or an image.
            InspectionError: Another subclass.
        """
        listed = image_list(images)
        if len(listed) < 2:
            raise RequestRejected(
                f"{len(listed)} images cannot be compared with each other, expected at least two"
            )
        options = {
            ZeroShotOption.RESOLUTION: resolution,
            ZeroShotOption.MASKING: masking,
            ZeroShotOption.ALPHA: alpha,
            ZeroShotOption.STATISTIC: statistic,
            ZeroShotOption.IMAGE_SCORE: image_score,
        }
        return self._stage_and_score(listed, options, with_map, on_progress)

    def _stage_and_score(
        self,
        images: list[ImageSource],
        options: dict[str, Any],
        with_map: bool,
        on_progress: Callable[[int, int], object] | None,
    ) -> Generator[ZeroShotScore, None, None]:
        session = uuid.uuid4().hex
        is_open = True
        try:
            staged, masked = self._stage(images, options, session, on_progress)
            for index, record in enumerate(staged):
                is_last = index == len(staged) - 1
                answer = self._score(session, index, with_map, close=is_last)
                is_open = not is_last
                yield _score_from_answer(answer, index, record, len(staged), masked, with_map)
        finally:
            if is_open:
                self._close(session)

    def _stage(
        self,
        images: list[ImageSource],
        options: dict[str, Any],
        session: str,
        on_progress: Callable[[int, int], object] | None,
    ) -> tuple[list[ImageRecord], bool]:
        """Send all images; return what was sent, and whether backgrounds are masked."""
        staged: list[ImageRecord] = []
        masked = False
        for part in image_parts(images, image_names(images)):
            given = options | {
                ZeroShotOption.SESSION: session,
                ZeroShotOption.NUM_STAGED: len(staged),
                ZeroShotOption.IMAGE_NAMES: [name for name, _ in part],
            }
            inputs = [
                (wire.ZERO_SHOT_IMAGES, bytes_tensor([data for _, data in part])),
                (wire.ZERO_SHOT_OPTIONS, json_tensor(given)),
            ]
            answer = self._ask(
                ZERO_SHOT,
                inputs,
                outputs=[wire.ZERO_SHOT_REPORT],
                timeout_s=self._enroll_timeout_s,
                retry=False,  # a part that did arrive would be staged twice
            )
            staged += [ImageRecord(name, hashlib.sha256(data).hexdigest()) for name, data in part]
            masked = _masked(answer, len(staged))
            if on_progress is not None:
                on_progress(len(staged), len(images))
        return staged, masked

    def _score(self, session: str, index: int, with_map: bool, *, close: bool) -> Answer:
        options = {
            ZeroShotOption.SESSION: session,
            ZeroShotOption.SCORE: index,
            ZeroShotOption.CLOSE: close,
        }
        return self._ask(
            ZERO_SHOT,
            [(wire.ZERO_SHOT_OPTIONS, json_tensor(options))],
            outputs=[
                spec for spec in wire.ZERO_SHOT_OUTPUTS if with_map or spec is not wire.ANOMALY_MAP
            ],
            timeout_s=self._enroll_timeout_s,
            retry=True,  # it was not taken when the server was not available
        )

    def _close(self, session: str) -> None:
        """Let the server forget the images, as far as it listens; it does so by itself later."""
        options = {ZeroShotOption.SESSION: session, ZeroShotOption.CLOSE: True}
        with contextlib.suppress(InspectionError):
            self._ask(
                ZERO_SHOT,
                [(wire.ZERO_SHOT_OPTIONS, json_tensor(options))],
                outputs=[wire.ZERO_SHOT_REPORT],
                timeout_s=FORGET_TIMEOUT_S,
                retry=False,
            )


def _masked(answer: Answer, num_sent: int) -> bool:
    """Whether the server masks backgrounds, if it holds as many images as were sent.

    Raises:
        ServerFault: If it holds another number.
    """
    report = json_from_answer(answer, wire.ZERO_SHOT_REPORT, dict)
    if report.get("num_staged") != num_sent:
        raise ServerFault(
            f"the server holds {report.get('num_staged')} images of {num_sent} sent; try again",
            model_name=answer.model_name,
            request_id=answer.request_id,
        )
    return bool(report.get("masked"))


def _score_from_answer(
    answer: Answer,
    index: int,
    sent: ImageRecord,
    num_images: int,
    masked: bool,
    with_map: bool,
) -> ZeroShotScore:
    """Make the score of a checked answer.

    Raises:
        ServerFault: If it is that of another image, or of another batch.
        ProtocolMismatch: If the report lacks something.
    """
    report = json_from_answer(answer, wire.ZERO_SHOT_REPORT, dict)
    with naming(answer):
        told = read_record(_ScoreReport, report, "zero-shot score")
    if (told.index, told.name, told.sha256) != (index, sent.name, sent.sha256):
        raise fault(answer, f"it is about image {told.index} {told.name!r}, asked was {index}")
    if told.num_images != num_images:
        raise fault(answer, f"{told.num_images} images were compared, {num_images} were sent")
    return ZeroShotScore(
        index=index,
        name=told.name,
        sha256=told.sha256,
        anomaly_score=answer.scalar(wire.ANOMALY_SCORE),
        patch_distances=answer.tensors[wire.PATCH_DISTANCES.name],
        anomaly_map=answer.tensors[wire.ANOMALY_MAP.name] if with_map else None,
        masked=masked,
        num_images=told.num_images,
        num_bank_patches=told.num_bank_patches,
        backbone=told.backbone,
        request_id=answer.request_id,
        latency_ms=answer.latency_ms,
    )
