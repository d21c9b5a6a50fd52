"""Everything that can go wrong between a caller and the inspection server.

::

    InspectionError            no answer that may be used; the part was NOT inspected
    ├── InvalidImageError      the local image is missing, unreadable or of a wrong form
    ├── ProductFileError       a product's file, or a training's, cannot be written, read or used
    ├── ServerUnreachable      no server took the request: no connection, queue full, no access
    ├── RequestTimeout         no answer in time; whether the work was done is unknown
    ├── ModelUnavailable       the server answers, but does not serve this model now
    ├── RequestRejected        the request itself is at fault, and the message says why
    ├── ServerFault            the server broke while working on the request
    └── ProtocolMismatch       what is served is not what ``wire.py`` describes

None of them carries a verdict, so a caller that forgets to handle one stops instead of passing a
part. ``exit_status`` is what the command line returns for it.
"""

from __future__ import annotations

import re

# Triton names the ensemble before the reason of the model inside it, once per nesting.
_ENSEMBLE_PREFIX = re.compile(r"(?:in ensemble '[^']*',\s*)+")


class InspectionError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        status: Name of the gRPC status, such as ``INVALID_ARGUMENT``; None for a local error.
        status_message: What the server or gRPC said, word for word; None for a local error.
        model_name: The model or ensemble that was asked; None when none was.
        request_id: The id sent with the request, to be found in the server's log.
    """

    exit_status = 3

    def __init__(
        self,
        message: str,
        *,
        status: str | None = None,
        status_message: str | None = None,
        model_name: str | None = None,
        request_id: str | None = None,
    ) -> None:
        # Only the message goes to `args`: together with the instance's __dict__ that is what
        # pickle needs to rebuild the error in another process.
        super().__init__(message)
        self.status = status
        self.status_message = status_message
        self.model_name = model_name
        self.request_id = request_id


class InvalidImageError(InspectionError):
    """The caller's image is missing, unreadable, empty, or an array of a wrong form."""

    exit_status = 2


class ProductFileError(InspectionError):
    """A file of a product or of a training is in the way, cannot be written or read, or is none."""

    exit_status = 2


class ServerUnreachable(InspectionError):  # noqa: N818  a state, named as callers speak of it
    """No server took the request: no connection, shutting down, queue full, access refused."""


class RequestTimeout(InspectionError):  # noqa: N818
    """No answer came in time. The server may still have done the work."""


class ModelUnavailable(InspectionError):  # noqa: N818
    """The server answers, but does not have this model, or has it not ready."""


class RequestRejected(InspectionError):  # noqa: N818
    """The request cannot be served as it is: unknown product, unfit image or options."""

    exit_status = 2


class ServerFault(InspectionError):  # noqa: N818
    """The server failed, or answered something that no healthy server would."""


class ProtocolMismatch(InspectionError):  # noqa: N818
    """Served tensors or reports differ from the contract; client and server do not fit."""


# Every gRPC status has its line; a test holds the table to grpc.StatusCode.
_ERROR_BY_STATUS: dict[str, type[InspectionError]] = {
    "OK": ServerFault,  # an error that says "OK" is one more fault
    "CANCELLED": ServerUnreachable,  # Triton cancels what it holds when it shuts down
    "UNAVAILABLE": ServerUnreachable,
    "UNAUTHENTICATED": ServerUnreachable,
    "PERMISSION_DENIED": ServerUnreachable,
    "DEADLINE_EXCEEDED": RequestTimeout,
    "NOT_FOUND": ModelUnavailable,
    "INVALID_ARGUMENT": RequestRejected,
    "ALREADY_EXISTS": RequestRejected,
    "FAILED_PRECONDITION": RequestRejected,
    "OUT_OF_RANGE": RequestRejected,
    "ABORTED": RequestRejected,
    "UNIMPLEMENTED": RequestRejected,  # a Python model's TritonError.UNSUPPORTED
    "RESOURCE_EXHAUSTED": RequestRejected,  # a message over the size that one side allows
    "INTERNAL": ServerFault,
    "UNKNOWN": ServerFault,
    "DATA_LOSS": ServerFault,
}


def error_from_status(
    status: object,
    status_message: str | None,
    *,
    url: str,
    model_name: str | None = None,
    request_id: str | None = None,
    model_ready: bool | None = None,
) -> InspectionError:
    """Make the error that a gRPC status stands for. Only the status decides, never the wording.

    Args:
        status: A ``grpc.StatusCode``, its text such as ``"StatusCode.NOT_FOUND"``, or None.
        status_message: The reason as received.
        url: ``host:port`` that was asked, for the message.
        model_name: The model that was asked.
        request_id: The id sent with the request.
        model_ready: What the server said of the model afterwards, None when it was not asked or
            did not answer. Tells a missing model from a model's own "not found", and a model
            that is loading from a server that is gone.

    Returns:
        The error, not yet raised. Its message is the server's reason without the names of the
        ensembles it passed through.
    """
    name = "UNKNOWN" if status is None else str(status).removeprefix("StatusCode.")
    kind = _ERROR_BY_STATUS.get(name, ServerFault)
    if name == "NOT_FOUND" and model_ready:
        kind = RequestRejected
    elif name == "UNAVAILABLE" and model_ready is False:
        kind = ModelUnavailable
    return kind(
        _sentence(kind, _reason(status_message), url=url, model_name=model_name),
        status=name,
        status_message=status_message,
        model_name=model_name,
        request_id=request_id,
    )


def _reason(status_message: str | None) -> str:
    """First line of the reason, without ensembles: the rest of a fault is the server's stack."""
    text = _ENSEMBLE_PREFIX.sub("", (status_message or "").strip(), count=1)
    return text.splitlines()[0].strip() if text else "no reason given"


def _sentence(kind: type[InspectionError], reason: str, *, url: str, model_name: str | None) -> str:
    """What people read: who did not do what, and why."""
    model = f"model {model_name!r}" if model_name else "the server"
    if kind is RequestRejected:
        return reason  # written for people by the model that gave it
    if kind is ServerUnreachable:
        return (
            f"the server at {url} took no request: {reason}; is it running (dinspect serve), and "
            "is this its gRPC port?"
        )
    if kind is RequestTimeout:
        return f"{model} at {url} gave no answer in time: {reason}; allow more, or see its load"
    if kind is ModelUnavailable:
        return (
            f"{model} is not served at {url}: {reason}. A model whose process died is loaded again "
            "within seconds: try again, then see the server's log"
        )
    return f"{model} at {url} failed: {reason}"
