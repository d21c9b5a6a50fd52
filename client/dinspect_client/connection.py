"""What every call of the client needs: the connection, its timeouts, and the contract's models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.codec import bytes_tensor

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

DEFAULT_URL = "localhost:8001"
FORGET_TIMEOUT_S = 10.0
"""How long to wait for a server to forget what will not be finished, in seconds."""

ConnectionT = TypeVar("ConnectionT", bound="Connection")


def is_host_port(url: str) -> bool:
    """Whether a url has the form that gRPC takes: ``host:port``, without a scheme."""
    host, _, port = url.rpartition(":")
    return bool(host) and "/" not in url and port.isdecimal() and 0 < int(port) < 2**16


@dataclass(frozen=True)
class ServedModel:
    """A model of the contract that takes no batch.

    Attributes:
        name: Its name on the server.
        inputs: Its inputs.
        outputs: Its outputs.
    """

    name: str
    inputs: tuple[wire.TensorSpec, ...]
    outputs: tuple[wire.TensorSpec, ...]


PRODUCTS = ServedModel(wire.PRODUCTS_MODEL, wire.PRODUCTS_INPUTS, wire.PRODUCTS_OUTPUTS)
ENROLL = ServedModel(wire.ENROLL_MODEL, wire.ENROLL_INPUTS, wire.ENROLL_OUTPUTS)
MANAGE = ServedModel(wire.MANAGE_MODEL, wire.MANAGE_INPUTS, wire.MANAGE_OUTPUTS)
ZERO_SHOT = ServedModel(wire.ZERO_SHOT_MODEL, wire.ZERO_SHOT_INPUTS, wire.ZERO_SHOT_OUTPUTS)


class Connection:
    """A connection to one inspection server over gRPC; its subclasses say what can be asked.

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        timeout_s: How long to wait for any one answer, in seconds.
        enroll_timeout_s: The same for whatever makes a version: one part of an enrolment (the last
            one calibrates), a change of thresholds or region, an import, published students.

    Raises:
        ValueError: If the url has another form or a timeout is not positive.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 30.0,
        enroll_timeout_s: float = 600.0,
    ) -> None:
        if not is_host_port(url):
            raise ValueError(f"url is {url!r}, expected HOST:PORT such as {DEFAULT_URL}")
        if timeout_s <= 0 or enroll_timeout_s <= 0:
            raise ValueError(
                f"timeouts are {timeout_s} s and {enroll_timeout_s} s, expected more than 0"
            )
        # Here and not above: gRPC takes most of this package's import time, and asking for a
        # command's help or reading a result needs none of it.
        from dinspect_client.transport import GrpcTransport

        self._transport = GrpcTransport(url)
        self._timeout_s = timeout_s
        self._enroll_timeout_s = enroll_timeout_s
        self._ensembles: dict[tuple[str, str], str] = {}  # by product, without version, and method

    def __enter__(self: ConnectionT) -> ConnectionT:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The client cannot be used afterwards."""
        self._transport.close()

    def server_version(self) -> str:
        """Return the version of the Triton server.

        Raises:
            InspectionError: If it does not answer.
        """
        return self._transport.server_version(self._timeout_s)

    def _ask(
        self,
        model: ServedModel,
        inputs: Sequence[tuple[wire.TensorSpec, NDArray[Any]]],
        *,
        timeout_s: float,
        retry: bool,
        outputs: Sequence[wire.TensorSpec] | None = None,
    ) -> Answer:
        """Send one request to a model without batches; all its outputs are asked for when None."""
        self._check_contract(model.name, model.inputs, model.outputs)
        return self._transport.infer(
            model.name,
            inputs,
            model.outputs if outputs is None else outputs,
            timeout_s=timeout_s,
            batched=False,
            retry=retry,
        )

    def _check_contract(
        self,
        model_name: str,
        inputs: Sequence[wire.TensorSpec],
        outputs: Sequence[wire.TensorSpec],
    ) -> None:
        self._transport.check_contract(model_name, inputs, outputs, timeout_s=self._timeout_s)


def text_tensor(text: str) -> NDArray[np.object_]:
    """Return a BYTES tensor of one text."""
    return bytes_tensor([text.encode()])


def json_tensor(options: Mapping[str, Any]) -> NDArray[np.object_]:
    """Return a BYTES tensor of one JSON object, without what is None; NumPy's numbers are numbers.

    Raises:
        TypeError: If JSON has no form for a value.
    """
    given = {key: value for key, value in options.items() if value is not None}
    return text_tensor(json.dumps(given, default=plain_number))


def plain_number(value: Any) -> Any:
    """Return one of NumPy's numbers as Python's: a ``default`` of ``json.dumps``.

    Raises:
        TypeError: If it is no number of NumPy's.
    """
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} has no form in JSON")
