"""Between tensors and values: what the methods of the client put into a request and read from it.

Pure functions. The transport has checked names, datatypes and ranks of an answer by then; here it
is checked that its values make sense together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.errors import InspectionError, ProtocolMismatch, RequestRejected, ServerFault
from dinspect_client.images import ImageSource, encoded_image, image_name
from dinspect_client.results import Inspection

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

# One part of an enrolment: small enough that the server answers it well within the timeout and
# that progress is seen, large enough that the round trips do not count.
IMAGES_PER_PART = 8
BYTES_PER_PART = 32 * 2**20

JsonT = TypeVar("JsonT", dict[str, Any], list[Any])


def bytes_tensor(values: Sequence[bytes]) -> NDArray[np.object_]:
    """Return a BYTES tensor of shape ``(len(values),)``."""
    # Not np.array(values): that makes fixed-width strings, which lose zero bytes at the end.
    tensor = np.empty(len(values), dtype=np.object_)
    tensor[:] = values
    return tensor


def parse_reference(product: str) -> tuple[str, int | None]:
    """Split ``screw@3`` into name and version, refusing what no server can know.

    Raises:
        RequestRejected: If it is neither a name nor a pinned name.
    """
    try:
        return wire.parse_product(product)
    except ValueError as error:
        raise RequestRejected(str(error)) from error


def raw_ensemble(ensemble: str) -> str:
    """Return the ensemble for decoded images that goes with one for encoded images."""
    label = ensemble.removeprefix(wire.anomaly_dino_model(""))
    return wire.anomaly_dino_model(label, raw=True)


def image_parts(images: Sequence[ImageSource]) -> Iterator[list[tuple[str, bytes]]]:
    """Cut the images of an enrolment into parts of names and encoded images.

    Files are read when their part is due, so that memory holds one part whatever the number.

    Yields:
        Non-empty parts of at most ``IMAGES_PER_PART`` images and ``BYTES_PER_PART`` bytes; a
        larger image travels alone.

    Raises:
        InvalidImageError: If an image cannot be read.
    """
    part: list[tuple[str, bytes]] = []
    part_bytes = 0
    for number, image in enumerate(images, start=1):
        data = encoded_image(image)
        if part and (len(part) == IMAGES_PER_PART or part_bytes + len(data) > BYTES_PER_PART):
            yield part
            part, part_bytes = [], 0
        part.append((image_name(image, number), data))
        part_bytes += len(data)
    if part:
        yield part


def json_from_answer(answer: Answer, spec: wire.TensorSpec, kind: type[JsonT]) -> JsonT:
    """Read a report: a BYTES tensor of one JSON object or list.

    Raises:
        ProtocolMismatch: If it is not JSON, or JSON of another kind.
    """
    text = answer.scalar(spec)
    try:
        value = json.loads(text)
    except ValueError as error:  # of the text's encoding, too
        raise _mismatch(answer, f"output {spec.name!r} is not JSON: {error}") from error
    if not isinstance(value, kind):
        found = type(value).__name__
        raise _mismatch(answer, f"output {spec.name!r} is a JSON {found}, expected {kind.__name__}")
    return value


def inspection_from_answer(
    answer: Answer,
    *,
    product: str,
    version: int | None,
    with_map: bool,
    image_size: tuple[int, int] | None,
) -> Inspection:
    """Make the inspection of a checked answer.

    Args:
        answer: Has every output that was asked for.
        product: The product as the caller wrote it.
        version: The version the caller pinned, else None.
        with_map: Whether the map was asked for.
        image_size: ``(height, width)`` of the image, where the client knows it.

    Raises:
        ServerFault: If another version answered than was pinned, the map has another size than
            the image, or the verdict passes a part whose score is above the threshold.
        ProtocolMismatch: If the verdict is none of the contract's.
    """
    code = answer.scalar(wire.VERDICT)
    if code not in {verdict.value for verdict in wire.Verdict}:
        raise _mismatch(answer, f"verdict is {code}, expected one of 0, 1, 2")
    inspection = Inspection(
        product=product,
        bundle_version=answer.scalar(wire.BUNDLE_VERSION),
        anomaly_score=answer.scalar(wire.ANOMALY_SCORE),
        threshold=answer.scalar(wire.THRESHOLD),
        verdict=wire.Verdict(code),
        patch_distances=answer.tensors[wire.PATCH_DISTANCES.name],
        anomaly_map=answer.tensors[wire.ANOMALY_MAP.name] if with_map else None,
        request_id=answer.request_id,
        latency_ms=answer.latency_ms,
    )
    if version is not None and inspection.bundle_version != version:
        raise _fault(answer, f"{product!r} was answered by version {inspection.bundle_version}")
    if inspection.anomaly_map is not None and image_size is not None:
        map_size = inspection.anomaly_map.shape
        if map_size != image_size:
            raise _fault(answer, f"the map is {map_size} for an image of {image_size} pixels")
    # Whatever the thresholds, nothing above one of them is normal. Both numbers are rounded to
    # FP32 from what the server compared, and rounding keeps their order.
    if (
        inspection.verdict is wire.Verdict.NORMAL
        and inspection.anomaly_score > inspection.threshold
    ):
        raise _fault(
            answer,
            f"the verdict is normal, but score {inspection.anomaly_score} is above "
            f"threshold {inspection.threshold}",
        )
    return inspection


def _mismatch(answer: Answer, message: str) -> InspectionError:
    return ProtocolMismatch(message, model_name=answer.model_name, request_id=answer.request_id)


def _fault(answer: Answer, message: str) -> InspectionError:
    return ServerFault(
        f"the answer contradicts itself: {message}",
        model_name=answer.model_name,
        request_id=answer.request_id,
    )
