"""How long a request takes outside the server's models: encoding, gRPC both ways, decoding.

It is measured by itself, with a model that answers at once: the same server, client, request and
answer, but no work. What such a request takes by the client's clock beyond what Triton counts for
it is transport.

Each of these requests follows a real one, which is not timed. Sent one after the other they would
find everything in the caches and the processor awake, and take about half the time.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dinspect_bench.errors import StatisticsError
from dinspect_bench.latency.single_stream import run_single_stream, summarize
from dinspect_bench.latency.statistics import settled_duration
from dinspect_client import InspectionClient, InspectionError, wire

if TYPE_CHECKING:
    from dinspect_bench.latency.subject import Subject

ANSWER_MODEL = "bench_answer"
MAX_REQUESTS = 30
_SOURCE = Path(__file__).with_name("answer_model") / "model.py"
_ANSWER_FILE = "answer.npz"
_ADMIN_HEADER = "triton-grpc-protocol-admin-key"
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class TransportTimes:
    """Mean times of requests without work, in milliseconds.

    Attributes:
        count: Requests.
        client_ms: By the client's clock.
        server_ms: Of that, what Triton counts.
    """

    count: int
    client_ms: float
    server_ms: float

    @property
    def transport_ms(self) -> float:
        """What is left: outside the server."""
        return self.client_ms - self.server_ms


class _AnswerClient(InspectionClient):
    """Asks the model without work, whatever the product."""

    def _find_ensemble(self, name: str, method: str) -> str:
        return ANSWER_MODEL


def measure_transport(
    client: InspectionClient,
    grpc_url: str,
    admin_key: str,
    subject: Subject,
    images: Sequence[bytes],
    *,
    num_requests: int = MAX_REQUESTS,
    on_request: Callable[[], object] | None = None,
) -> TransportTimes:
    """Measure requests without work between real ones.

    The model without work is uploaded to the server and removed again. It answers as the product's
    ensemble did to the first image.

    Args:
        client: Connected client; its inspections come in between.
        grpc_url: The same server.
        admin_key: Of the server, without which no model is loaded.
        subject: What is inspected, and how.
        images: Encoded images, sent in turn.
        num_requests: Requests without work, at least 1.
        on_request: Called after each of them.

    Raises:
        StatisticsError: If the server refuses the model or a request to it.
        InspectionError: If a real request fails.
    """
    from dinspect_server.embedded import grpc_client

    in_turn = itertools.cycle(images)

    def inspect(by: InspectionClient, image: bytes) -> None:
        by.inspect(subject.product, image, method=subject.method, with_map=subject.with_map)

    def in_between() -> None:
        inspect(client, next(in_turn))
        if on_request is not None:
            on_request()

    with contextlib.ExitStack() as stack:
        triton = stack.enter_context(contextlib.closing(grpc_client(grpc_url)))
        stack.enter_context(_uploaded(triton, admin_key, subject, images[0]))
        without_work = stack.enter_context(_AnswerClient(grpc_url))
        inspect(without_work, images[0])  # the first one asks for the model's tensors
        inspect(client, next(in_turn))
        before = settled_duration(triton, ANSWER_MODEL)
        samples = run_single_stream(
            lambda index: inspect(without_work, images[index % len(images)]),
            num_samples=num_requests,
            failure_types=(InspectionError,),
            on_sample=in_between,
        )
        after = settled_duration(triton, ANSWER_MODEL)
    count = after.count - before.count
    if samples.failures or count != num_requests:
        reason = samples.failures[0] if samples.failures else f"it counted {count}"
        raise StatisticsError(f"of {num_requests} requests without work not all counted: {reason}")
    server_ms = (after.total_ns - before.total_ns) / count / _NS_PER_MS
    return TransportTimes(count, summarize(samples).mean, server_ms)


@contextlib.contextmanager
def _uploaded(triton: Any, admin_key: str, subject: Subject, image: bytes) -> Iterator[None]:
    """Have the model on the server, with an ensemble's own answer to an image."""
    headers = {_ADMIN_HEADER: admin_key}
    with _refusals():
        config = triton.get_model_config(subject.ensemble, as_json=True)["config"]
        answer = _answer(triton, subject, image)
        triton.load_model(
            ANSWER_MODEL,
            headers=headers,
            config=answer_model_config(config),
            files={
                "file:1/model.py": _SOURCE.read_bytes(),
                f"file:1/{_ANSWER_FILE}": answer,
            },
        )
    try:
        yield
    finally:
        with _refusals():
            triton.unload_model(ANSWER_MODEL, headers=headers)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn tritonclient's error into ours."""
    from tritonclient.utils import InferenceServerException

    try:
        yield
    except InferenceServerException as error:
        raise StatisticsError(f"the server refuses a model without work: {error}") from error


def answer_model_config(ensemble_config: dict[str, Any]) -> str:
    """The config of a model that takes and answers what an ensemble does, as JSON.

    Args:
        ensemble_config: As Triton gives it.
    """
    config = {key: ensemble_config[key] for key in ("max_batch_size", "input", "output")}
    config |= {
        "name": ANSWER_MODEL,
        "backend": "python",
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
        "dynamic_batching": {},
    }
    return json.dumps(config)


def _answer(triton: Any, subject: Subject, image: bytes) -> bytes:
    """All outputs of the ensemble for one image, as a file of NumPy's without pickled objects."""
    from tritonclient.grpc import InferInput

    inputs = []
    for spec, value in ((wire.IMAGE, image), (wire.PRODUCT, subject.product.encode())):
        tensor = InferInput(spec.name, [1, 1], spec.datatype)
        tensor.set_data_from_numpy(np.array([[value]], dtype=object))
        inputs.append(tensor)
    result = triton.infer(subject.ensemble, inputs)
    arrays = {}
    for spec in wire.INSPECTION_OUTPUTS:
        array = result.as_numpy(spec.name)
        arrays[spec.name] = array.astype(bytes) if array.dtype == object else array
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
