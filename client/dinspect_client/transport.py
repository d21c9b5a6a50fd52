"""The only user of tritonclient: tensors of the contract in, checked tensors or an error out."""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import (
    MAX_GRPC_MESSAGE_SIZE,
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
)
from tritonclient.utils import InferenceServerException

from dinspect_client.errors import (
    InspectionError,
    ModelUnavailable,
    ProtocolMismatch,
    ServerFault,
    error_from_status,
)
from dinspect_client.wire import TensorSpec

RETRY_PAUSE_S = 0.25
_READY_TIMEOUT_S = 2.0
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_GRPC_MESSAGE_SIZE),
    # gRPC's own pause between attempts grows to two minutes: a line that waits for a server that
    # restarted in ten seconds would stand for all of them.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Answer:
    """The outputs asked for, all present, in the contract's type and rank, and finite.

    Attributes:
        model_name: The model or ensemble that answered.
        tensors: By name, without the batch dimension; read-only.
        request_id: The id sent with the request.
        latency_ms: Time from sending the request to having the answer, in milliseconds.
    """

    model_name: str
    tensors: Mapping[str, NDArray[Any]]
    request_id: str
    latency_ms: float

    def scalar(self, spec: TensorSpec) -> Any:
        """Return the only element of an output of shape ``(1,)`` as a Python value."""
        return self.tensors[spec.name].item()


class GrpcTransport:
    """One connection to one server, for one thread."""

    def __init__(self, url: str) -> None:
        self.url = url
        arguments = list(_CHANNEL_ARGUMENTS)
        if url.rpartition(":")[0] in _LOOPBACK:
            arguments.append(("grpc.enable_http_proxy", 0))  # no proxy leads to this machine
        self._client = InferenceServerClient(url, channel_args=arguments)
        self._checked: dict[str, frozenset[TensorSpec]] = {}  # by model, the tensors it has

    def close(self) -> None:
        """Close the connection; further calls fail."""
        self._client.close()

    def server_version(self, timeout_s: float) -> str:
        """Return the version of Triton that answers."""
        metadata = self._call(lambda: self._client.get_server_metadata(client_timeout=timeout_s))
        return str(metadata.version)

    def infer(
        self,
        model_name: str,
        inputs: Sequence[tuple[TensorSpec, NDArray[Any]]],
        outputs: Sequence[TensorSpec],
        *,
        timeout_s: float,
        batched: bool,
        retry: bool,
    ) -> Answer:
        """Send one item and check what comes back.

        Args:
            model_name: The model or ensemble.
            inputs: Each tensor of the request, in the shape of one item.
            outputs: Which outputs to ask for; the server leaves out steps that nobody needs.
            timeout_s: How long to wait for the answer, in seconds.
            batched: Whether the model's tensors have a batch dimension, here of 1.
            retry: Whether to send again when the server was not available.

        Raises:
            InspectionError: The subclass that fits; never an answer that lacks something.
        """
        request_id = uuid.uuid4().hex
        request = [_encode(spec, array, batched=batched) for spec, array in inputs]
        requested = [InferRequestedOutput(spec.name) for spec in outputs]

        def send() -> tuple[Any, float]:
            started = time.perf_counter()
            result = self._client.infer(
                model_name,
                request,
                outputs=requested,
                request_id=request_id,
                client_timeout=timeout_s,
            )
            return result, (time.perf_counter() - started) * 1e3

        result, latency_ms = self._call(
            send, model_name=model_name, request_id=request_id, retry=retry
        )
        try:
            tensors = {spec.name: _decode(result, spec, batched=batched) for spec in outputs}
        except InspectionError as error:
            error.model_name, error.request_id = model_name, request_id
            raise
        return Answer(model_name, tensors, request_id, latency_ms)

    def check_contract(
        self,
        model_name: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        timeout_s: float,
    ) -> None:
        """Compare what a model serves with the contract, at the first use of each tensor.

        Raises:
            ProtocolMismatch: If a tensor is missing, has another datatype, or the model demands
                an input that the contract does not know.
            InspectionError: If the server does not describe the model.
        """
        before, asked = self._checked.get(model_name, frozenset()), frozenset((*inputs, *outputs))
        if asked <= before:
            return
        metadata = self._call(
            lambda: self._client.get_model_metadata(model_name, client_timeout=timeout_s),
            model_name=model_name,
            retry=True,
        )
        served_inputs = {tensor.name: tensor.datatype for tensor in metadata.inputs}
        served_outputs = {tensor.name: tensor.datatype for tensor in metadata.outputs}
        problems = _differences("input", inputs, served_inputs)
        problems += _differences("output", outputs, served_outputs)
        unknown = sorted(served_inputs.keys() - {spec.name for spec in inputs})
        problems += [f"it demands an unknown input {name!r}" for name in unknown]
        if problems:
            raise ProtocolMismatch(
                f"model {model_name!r} at {self.url} is not the one this client was made for: "
                + "; ".join(problems),
                model_name=model_name,
            )
        self._checked[model_name] = before | asked

    def _call(
        self,
        send: Callable[[], T],
        *,
        model_name: str | None = None,
        request_id: str | None = None,
        retry: bool = False,
    ) -> T:
        """Run a call; send it once more if the server was not available and that is harmless."""
        try:
            return send()
        except InferenceServerException as error:
            if not (retry and error.status() == "StatusCode.UNAVAILABLE"):
                raise self._translated(error, model_name, request_id) from error
        time.sleep(RETRY_PAUSE_S)
        try:
            return send()
        except InferenceServerException as error:
            raise self._translated(error, model_name, request_id) from error

    def _translated(
        self, error: InferenceServerException, model_name: str | None, request_id: str | None
    ) -> InspectionError:
        # These two mean different things from the server and from a model inside it.
        ambiguous = error.status() in ("StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE")
        translated = error_from_status(
            error.status(),
            error.message(),
            url=self.url,
            model_name=model_name,
            request_id=request_id,
            model_ready=self._is_ready(model_name) if model_name and ambiguous else None,
        )
        if isinstance(translated, ModelUnavailable) and model_name:
            # It may come back with other tensors.
            self._checked.pop(model_name, None)
        return translated

    def _is_ready(self, model_name: str) -> bool | None:
        try:
            return bool(self._client.is_model_ready(model_name, client_timeout=_READY_TIMEOUT_S))
        except InferenceServerException:
            return None


def _encode(spec: TensorSpec, array: NDArray[Any], *, batched: bool) -> InferInput:
    data = array[np.newaxis] if batched else array
    tensor = InferInput(spec.name, list(data.shape), spec.datatype)
    tensor.set_data_from_numpy(data)
    return tensor


def _decode(result: Any, spec: TensorSpec, *, batched: bool) -> NDArray[Any]:
    """Take one output from an answer; whatever is not exactly as agreed is an error."""
    output = result.get_output(spec.name)
    if output is None:
        raise ProtocolMismatch(f"the answer lacks output {spec.name!r}")
    if output.datatype != spec.datatype:
        raise ProtocolMismatch(
            f"output {spec.name!r} has datatype {output.datatype}, expected {spec.datatype}"
        )
    try:
        array: NDArray[Any] = result.as_numpy(spec.name)
    except (ValueError, struct.error) as error:
        # Seen with a server whose interpreter has an unfit numpy: the shape without the bytes.
        raise ServerFault(
            f"output {spec.name!r} does not hold what its shape {list(output.shape)} says: {error}"
        ) from error
    expected = (1, *spec.shape) if batched else spec.shape
    fits = array.ndim == len(expected) and all(
        size > 0 if wanted == -1 else size == wanted
        for size, wanted in zip(array.shape, expected, strict=True)
    )
    if not fits:
        raise ProtocolMismatch(
            f"output {spec.name!r} has shape {list(array.shape)}, expected {list(expected)}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ServerFault(f"output {spec.name!r} holds values that are not finite")
    return array[0] if batched else array


def _differences(kind: str, expected: Sequence[TensorSpec], served: Mapping[str, str]) -> list[str]:
    problems = []
    for spec in expected:
        datatype = served.get(spec.name)
        if datatype is None and not spec.optional:
            problems.append(f"{kind} {spec.name!r} is missing")
        elif datatype not in (None, spec.datatype):
            problems.append(f"{kind} {spec.name!r} is {datatype}, expected {spec.datatype}")
    return problems
