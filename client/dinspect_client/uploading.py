"""Files on their way to the server, part by part, that become a version with the last part."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dinspect_client import wire
from dinspect_client.codec import json_from_answer
from dinspect_client.connection import FORGET_TIMEOUT_S
from dinspect_client.errors import InspectionError, ServerFault
from dinspect_client.managing import Managing
from dinspect_client.wire import ManageKey

if TYPE_CHECKING:
    from dinspect_client.transport import Answer


@dataclass(frozen=True)
class FilePart:
    """Part of a file.

    Attributes:
        file: Name of the file, as the contract has it.
        offset: Bytes of the file before this part.
        content: Its bytes: at least one, at most ``wire.MAX_CONTENT_BYTES``.
    """

    file: str
    offset: int
    content: bytes


class Uploading(Managing):
    """Sends files in parts of one session, of which the server keeps all or nothing."""

    def _upload(
        self,
        product: str,
        asked: Mapping[str, Any],
        parts: Iterable[FilePart],
        num_bytes: int,
        on_progress: Callable[[int], object] | None,
        *,
        with_last: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send all parts, each once; whatever stops that in between is forgotten by the server.

        Args:
            product: What the version will be called.
            asked: What each part's request says besides the part.
            parts: All parts, those of a file one after the other.
            num_bytes: Bytes of all parts.
            on_progress: Called after each part with the bytes done.
            with_last: What the last part's request says besides.

        Returns:
            The answer to the last part.

        Raises:
            ServerFault: If the server holds something else than was sent.
            InspectionError: Another subclass, also of those that ``parts`` raises.
        """
        asked = {**asked, ManageKey.SESSION: uuid.uuid4().hex}
        part: FilePart | None = None
        num_done = 0
        try:
            for part in parts:
                num_done += len(part.content)
                is_last = num_done == num_bytes
                given = {**asked, **(with_last or {})} if is_last else asked
                answer = self._send_file_part(product, given, part, commit=is_last)
                if not is_last:
                    _check_received(answer, part)
                if on_progress is not None:
                    on_progress(num_done)
        except BaseException as error:
            # What the server refused, it has forgotten; what stopped here, it would keep.
            if part is not None and getattr(error, "status", None) is None:
                self._abandon_upload(product, asked, part.file, num_bytes)
            raise
        return answer

    def _send_file_part(
        self,
        product: str,
        asked: Mapping[str, Any],
        part: FilePart,
        *,
        commit: bool,
        timeout_s: float | None = None,
    ) -> Answer:
        given = {
            **asked,
            ManageKey.FILE: part.file,
            ManageKey.OFFSET: part.offset,
            ManageKey.COMMIT: commit,
        }
        return self._manage(product, given, content=part.content, timeout_s=timeout_s)

    def _abandon_upload(
        self, product: str, asked: Mapping[str, Any], file: str, num_bytes: int
    ) -> None:
        """Let the server forget parts that nobody will commit, as far as it listens.

        A part that fails ends its session: this one lies behind the end of all files.
        """
        beyond = FilePart(file, num_bytes + 1, b"")
        with contextlib.suppress(InspectionError):
            self._send_file_part(product, asked, beyond, commit=False, timeout_s=FORGET_TIMEOUT_S)


def _check_received(answer: Answer, part: FilePart) -> None:
    num_sent = part.offset + len(part.content)
    received = json_from_answer(answer, wire.MANAGE_REPORT, dict).get("received")
    if received != num_sent:
        raise ServerFault(
            f"the server holds {received} bytes of {num_sent} sent of {part.file}; no version was "
            "made, try again",
            model_name=answer.model_name,
            request_id=answer.request_id,
        )
