"""What arrives in parts: open pieces of work by the caller's session name."""

from __future__ import annotations

import time
from typing import Generic, Protocol, TypeVar

from refusals import InspectionRefused

SESSION_TIMEOUT_S = 600.0
MAX_SESSIONS = 8


class Open(Protocol):
    """One piece of work that is not finished.

    Attributes:
        touched_s: Monotonic time of its last part.
    """

    touched_s: float

    def close(self) -> None:
        """Free what it holds."""


WorkT = TypeVar("WorkT", bound=Open)


class Sessions(Generic[WorkT]):
    """Open work by session name; what nobody touches for `SESSION_TIMEOUT_S` is forgotten.

    Args:
        what: What is open, in the plural, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._open: dict[str, WorkT] = {}

    def get(self, session: str) -> WorkT | None:
        """The open work of that name; abandoned work is forgotten first."""
        now = time.monotonic()
        for name, work in list(self._open.items()):
            if now - work.touched_s > SESSION_TIMEOUT_S:
                self.drop(name)
        return self._open.get(session)

    def put(self, session: str, work: WorkT) -> None:
        """Keep work open.

        Raises:
            InspectionRefused: If too much is open; the work is closed.
        """
        if session not in self._open and len(self._open) >= MAX_SESSIONS:
            work.close()
            raise InspectionRefused(
                f"{MAX_SESSIONS} {self._what} are open already; finish one or wait "
                f"{SESSION_TIMEOUT_S:.0f} s"
            )
        self._open[session] = work

    def drop(self, session: str) -> None:
        """Forget and close the work of that name, if there is any."""
        work = self._open.pop(session, None)
        if work is not None:
            work.close()
