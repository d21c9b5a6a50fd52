"""Between Triton's request objects and plain values, and between exceptions and Triton's errors."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from refusals import InspectionRefused
from wire import TensorSpec

_MAX_REASON = 2000
_MAX_REASON_NOT_ASCII = 600
"""An error's text travels in a gRPC header, of which clients take 8 KiB; beyond ASCII, a character
takes up to 12 bytes there."""


def start(args: dict[str, str]) -> dict[str, str]:
    """Check that tensors survive this interpreter and read the model's parameters.

    Args:
        args: What Triton hands to `initialize`.

    Returns:
        The parameters of the model's config, name to string.

    Raises:
        RuntimeError: If a tensor does not come back as it was made. Triton 2.51's stub does that
            with numpy 2, silently: every element then equals the first.
    """
    made = np.arange(64, dtype=np.float32).reshape(4, 16)
    # By way of DLPack, so that the array is built by the stub as it builds a request's inputs.
    received = pb_utils.Tensor.from_dlpack("received", pb_utils.Tensor("made", made)).as_numpy()
    if not np.array_equal(received, made):
        raise RuntimeError(
            f"this server's Python backend garbles tensors with numpy {np.__version__}; install "
            "the numpy it was built for in the server's interpreter: pip install 'numpy<2'"
        )
    parameters = json.loads(args["model_config"])["parameters"]
    return {name: value["string_value"] for name, value in parameters.items()}


class DurationCounters:
    """Time that a model spends on parts of its work, as counters among Triton's Prometheus metrics.

    Triton itself counts what a model takes as a whole. A part's counter is called
    ``dinspect_<part>_duration_us`` and has, like Triton's own, the labels ``model`` and
    ``version``.

    Args:
        args: What Triton hands to `initialize`.
        parts: Part to what it is.
    """

    def __init__(self, args: dict[str, str], parts: Mapping[str, str]) -> None:
        # A metric's family must outlive it.
        self._families = {
            part: pb_utils.MetricFamily(
                name=f"dinspect_{part}_duration_us",
                description=f"Cumulative duration of {meaning}, in microseconds",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            for part, meaning in parts.items()
        }
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._counters = {
            part: family.Metric(labels=labels) for part, family in self._families.items()
        }
        # An increment is a message to the server that waits for its reply, some 50 us. No answer
        # should wait for that.
        self._thread = ThreadPoolExecutor(max_workers=1)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add what passes inside to a part, also if it fails."""
        started_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            duration_us = (time.perf_counter_ns() - started_ns) / 1e3
            self._thread.submit(self._counters[part].increment, duration_us)

    def close(self) -> None:
        """Report what is not reported yet; before the model ends."""
        self._thread.shutdown()


def answer_each(requests: Sequence[Any], answer: Callable[[Any], list[Any]]) -> list[Any]:
    """Answer every request on its own, so that a bad one never fails its batch.

    Args:
        requests: Triton's requests.
        answer: Computes one request's output tensors; raises `InspectionRefused` to refuse it.

    Returns:
        One response per request, in order.
    """
    return [_response(request, answer) for request in requests]


def _response(request: Any, answer: Callable[[Any], list[Any]]) -> Any:
    try:
        return pb_utils.InferenceResponse(output_tensors=answer(request))
    except InspectionRefused as refusal:
        error = pb_utils.TritonError(_shortened(str(refusal)), pb_utils.TritonError.INVALID_ARG)
    except Exception as fault:
        # The caller gets the kind of fault; the details, which may name paths, go to the log.
        pb_utils.Logger.log_error(f"request failed:\n{traceback.format_exc()}")
        error = pb_utils.TritonError(
            f"internal fault ({type(fault).__name__}); the server's log has the details",
            pb_utils.TritonError.INTERNAL,
        )
    return pb_utils.InferenceResponse(error=error)


def _shortened(reason: str) -> str:
    """A reason may quote what was sent, or name hundreds of products."""
    limit = _MAX_REASON if reason.isascii() else _MAX_REASON_NOT_ASCII
    if len(reason) <= limit:
        return reason
    return f"{reason[: limit // 2]} ... {reason[-limit // 2 :]}"


def array(request: Any, name: str) -> np.ndarray[Any, Any]:
    """One input of a request as a NumPy array.

    Raises:
        InspectionRefused: If the request lacks it.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        raise InspectionRefused(f"the request has no input '{name}'")
    return tensor.as_numpy()


def texts(request: Any, spec: TensorSpec) -> list[str]:
    """A BYTES input as strings, flattened.

    Raises:
        InspectionRefused: If it is missing or no UTF-8.
    """
    try:
        return [value.decode("utf-8") for value in array(request, spec.name).reshape(-1)]
    except UnicodeDecodeError:
        raise InspectionRefused(f"input '{spec.name}' is not UTF-8 text") from None


def tensor(name: str, values: Any, dtype: Any) -> Any:
    """An output tensor; contiguous, as the stub requires."""
    return pb_utils.Tensor(name, np.ascontiguousarray(values, dtype=dtype))


def text_tensor(name: str, values: Sequence[str], shape: tuple[int, ...] = (-1,)) -> Any:
    """A BYTES output tensor with one element per string."""
    encoded = np.array([value.encode("utf-8") for value in values], dtype=object)
    return pb_utils.Tensor(name, encoded.reshape(shape))
