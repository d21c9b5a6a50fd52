"""The methods a product may be inspected by: how calls name one, and how people read it."""

from __future__ import annotations

from dinspect_client.errors import RequestRejected
from dinspect_client.wire import METHODS, Method


def checked_method(method: str) -> str:
    """Return a method if it is one of the contract's.

    Raises:
        RequestRejected: If it is none.
    """
    if method not in METHODS:
        raise RequestRejected(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    return method


def called(product: str, method: str) -> str:
    """What people read for a product by a method: ``screw``, or ``screw (l2bt)``."""
    return product if method == Method.ANOMALY_DINO else f"{product} ({method})"
