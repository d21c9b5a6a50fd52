"""Between tensors and values: what the methods of the client put into a request and read from it.

Pure functions. The transport has checked names, datatypes and ranks of an answer by then; here it
is checked that its values make sense together.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.errors import InspectionError, ProtocolMismatch, RequestRejected, ServerFault
from dinspect_client.images import ImageSource, encoded_image
from dinspect_client.records import read_record
from dinspect_client.results import DefectRegion, Inspection
from dinspect_client.versions import VersionT
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

# One part of many images: small enough that the server answers it well within the timeout and that
# progress is seen, large enough that the round trips do not count.
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


def raw_ensemble(ensemble: str, product: str, method: str) -> str:
    """Return the ensemble for decoded images that goes with a product's for encoded images."""
    if method == Method.L2BT:
        label = ensemble.removeprefix(wire.l2bt_model(product, ""))
        return wire.l2bt_model(product, label, raw=True)
    label = ensemble.removeprefix(wire.anomaly_dino_model(""))
    return wire.anomaly_dino_model(label, raw=True)


def image_parts(
    images: Sequence[ImageSource], names: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    """Cut many images into parts of names and encoded images.

    Files are read when their part is due, so that memory holds one part whatever the number.

    Args:
        images: The images.
        names: What each is called.

    Yields:
        Non-empty parts of at most ``IMAGES_PER_PART`` images and ``BYTES_PER_PART`` bytes; a
        larger image travels alone.

    Raises:
        InvalidImageError: If an image cannot be read.
    """
    part: list[tuple[str, bytes]] = []
    part_bytes = 0
    for image, name in zip(images, names, strict=True):
        data = encoded_image(image)
        if part and (len(part) == IMAGES_PER_PART or part_bytes + len(data) > BYTES_PER_PART):
            yield part
            part, part_bytes = [], 0
        part.append((name, data))
        part_bytes += len(data)
    if part:
        yield part


def json_from_answer(answer: Answer, spec: wire.TensorSpec, kind: type[JsonT]) -> JsonT:
    """Read a report: a BYTES tensor of one JSON object or list.

    Raises:
        ProtocolMismatch: If it is not JSON, or JSON of another kind.
    """
    return json_from_text(answer, answer.scalar(spec), f"output {spec.name!r}", kind)


def json_from_text(answer: Answer, text: Any, what: str, kind: type[JsonT]) -> JsonT:
    """Read JSON that an answer brought.

    Args:
        answer: What brought it.
        text: UTF-8.
        what: What to call it in an error.
        kind: ``dict`` or ``list``.

    Raises:
        ProtocolMismatch: If it is not JSON, or JSON of another kind.
    """
    try:
        value = json.loads(text)
    except ValueError as error:  # of the text's encoding, too
        raise mismatch(answer, f"{what} is not JSON: {error}") from error
    if not isinstance(value, kind):
        found = type(value).__name__
        raise mismatch(answer, f"{what} is a JSON {found}, expected {kind.__name__}")
    return value


@contextlib.contextmanager
def naming(answer: Answer) -> Iterator[None]:
    """Let an error of this package, raised while reading an answer, name model and request."""
    try:
        yield
    except InspectionError as error:
        error.model_name, error.request_id = answer.model_name, answer.request_id
        raise


def version_from_answer(
    answer: Answer,
    spec: wire.TensorSpec,
    kind: type[VersionT],
    product: str,
    number: int | None = None,
) -> VersionT:
    """Read the version of a product that a request made, or put in force.

    Args:
        answer: Has the report and ``bundle_version``.
        spec: The report.
        kind: Record of the method that was asked for.
        product: Name of the product that was asked for.
        number: The version that was asked for; None for a new one.

    Raises:
        ServerFault: If it is of another product, number or method, or report and tensor differ.
        ProtocolMismatch: If the report is not the record of a version.
    """
    report = json_from_answer(answer, spec, dict)
    # First, because the fields of another method are others.
    method = report.get("method", kind.METHOD)
    if method != kind.METHOD:
        raise fault(answer, f"it is about a version by {method}, asked was {kind.METHOD}")
    with naming(answer):
        version = kind.from_report(report)
    is_other = version.version < 1 if number is None else version.version != number
    if version.product != product or is_other:
        asked = product if number is None else f"{product}@{number}"
        raise fault(answer, f"it is about {version.reference}, asked was {asked}")
    told = answer.scalar(wire.BUNDLE_VERSION)
    if told != version.version:
        raise fault(answer, f"bundle_version is {told}, the report is of {version.reference}")
    return version


def inspection_from_answer(
    answer: Answer,
    *,
    product: str,
    method: str,
    version: int | None,
    with_map: bool,
    image_size: tuple[int, int] | None,
) -> Inspection:
    """Make the inspection of a checked answer.

    Args:
        answer: Has every output that was asked for.
        product: The product as the caller wrote it.
        method: What it was inspected by.
        version: The version the caller pinned, else None.
        with_map: Whether the map and its defect regions were asked for.
        image_size: ``(height, width)`` of the image, where the client knows it.

    Raises:
        ServerFault: If another version answered than was pinned, the map has another size than
            the image, a region is not one of the map, or score, thresholds and verdict
            contradict each other.
        ProtocolMismatch: If the verdict is none of the contract's, or a region lacks something.
    """
    code = answer.scalar(wire.VERDICT)
    if code not in {verdict.value for verdict in wire.Verdict}:
        raise mismatch(answer, f"verdict is {code}, expected one of 0, 1, 2")
    anomaly_map = answer.tensors[wire.ANOMALY_MAP.name] if with_map else None
    if anomaly_map is not None and image_size is not None and anomaly_map.shape != image_size:
        raise fault(answer, f"the map is {anomaly_map.shape} for an image of {image_size} pixels")
    inspection = Inspection(
        product=product,
        method=method,
        bundle_version=answer.scalar(wire.BUNDLE_VERSION),
        anomaly_score=answer.scalar(wire.ANOMALY_SCORE),
        threshold=answer.scalar(wire.THRESHOLD),
        normal_below=answer.scalar(wire.NORMAL_BELOW),
        verdict=wire.Verdict(code),
        patch_distances=answer.tensors[wire.PATCH_DISTANCES.name],
        anomaly_map=anomaly_map,
        defect_regions=None if anomaly_map is None else _defect_regions(answer, anomaly_map),
        request_id=answer.request_id,
        latency_ms=answer.latency_ms,
    )
    if version is not None and inspection.bundle_version != version:
        raise fault(answer, f"{product!r} was answered by version {inspection.bundle_version}")
    _check_verdict(answer, inspection)
    return inspection


def _check_verdict(answer: Answer, inspection: Inspection) -> None:
    """Refuse a verdict that lets through what the thresholds of the same answer do not.

    The server compared other numbers than these, which are rounded to FP32; but rounding keeps
    their order. A server may have reasons besides the score to call a part anomalous or
    undecided, but none to pass it: so nothing is asked of verdicts that are too strict.
    """
    score, threshold = inspection.anomaly_score, inspection.threshold
    if inspection.normal_below > threshold:
        raise fault(
            answer, f"normal_below {inspection.normal_below} is above threshold {threshold}"
        )
    limits = {
        wire.Verdict.NORMAL: ("normal_below", inspection.normal_below),
        wire.Verdict.UNDECIDED: ("threshold", threshold),
    }
    name, limit = limits.get(inspection.verdict, ("", math.inf))
    if score > limit:
        said = inspection.verdict.name.lower()
        raise fault(answer, f"the verdict is {said}, but score {score} is above {name} {limit}")


def _defect_regions(answer: Answer, anomaly_map: NDArray[np.float32]) -> tuple[DefectRegion, ...]:
    found = json_from_answer(answer, wire.DEFECT_REGIONS, list)
    with naming(answer):
        regions = tuple(read_record(DefectRegion, one, "list of defect regions") for one in found)
    for region in regions:
        if not _is_of_map(region, anomaly_map):
            raise fault(answer, f"{region} is none of a map of {anomaly_map.shape} pixels")
    if any(first.peak < second.peak for first, second in pairwise(regions)):
        raise fault(answer, "the defect regions do not begin with the highest peak")
    return regions


def _is_of_map(region: DefectRegion, anomaly_map: NDArray[np.float32]) -> bool:
    """Whether box, area and peak can be those of a region of a map."""
    x, y, width, height = region.box_px
    peak_x, peak_y = region.peak_at_px
    return (
        0 <= x <= peak_x < x + width <= anomaly_map.shape[1]
        and 0 <= y <= peak_y < y + height <= anomaly_map.shape[0]
        and 1 <= region.area_px <= width * height
        and math.isclose(region.peak, anomaly_map[peak_y, peak_x], rel_tol=1e-6)
    )


def mismatch(answer: Answer, message: str) -> InspectionError:
    """Make the error for an answer that is not of the contract's form."""
    return ProtocolMismatch(message, model_name=answer.model_name, request_id=answer.request_id)


def fault(answer: Answer, message: str) -> InspectionError:
    """Make the error for an answer of the right form that cannot be true."""
    return ServerFault(
        f"the answer contradicts itself: {message}",
        model_name=answer.model_name,
        request_id=answer.request_id,
    )
