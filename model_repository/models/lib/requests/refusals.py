"""The one exception by which the models refuse a request with a reason."""

from __future__ import annotations


class InspectionRefused(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """The request cannot be inspected; the message tells the caller why and what to do.

    It reaches the client word for word as an INVALID_ARGUMENT error, so it must hold no path and
    no internals. A refused request never gets a score.
    """
