"""The client: inspect, enrol and list products on a served dinspect repository.

with InspectionClient("localhost:8001") as client:
    client.enroll("screw", ["good/000.png", "good/001.png"])
    inspection = client.inspect("screw", "part.png")
    if inspection.verdict is not Verdict.NORMAL:
        ...
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.codec import (
    bytes_tensor,
    image_parts,
    inspection_from_answer,
    json_from_answer,
    parse_reference,
    raw_ensemble,
)
from dinspect_client.errors import ModelUnavailable, RequestRejected, ServerFault
from dinspect_client.images import ImageSource, checked_rgb, encoded_image
from dinspect_client.results import Enrollment, Inspection, Product

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

logger = logging.getLogger(__name__)

DEFAULT_URL = "localhost:8001"


def is_host_port(url: str) -> bool:
    """Whether a url has the form that gRPC takes: ``host:port``, without a scheme."""
    host, _, port = url.rpartition(":")
    return bool(host) and "/" not in url and port.isdecimal() and 0 < int(port) < 2**16


class InspectionClient:
    """A connection to one inspection server over gRPC.

    One client serves one thread: give each thread its own. It may live as long as the process; it
    finds a restarted server again by itself.

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        timeout_s: How long to wait for any one answer, in seconds.
        enroll_timeout_s: The same for one part of an enrolment; the last part calibrates.

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
        self._ensembles: dict[str, str] = {}  # by product name, without version

    def __enter__(self) -> InspectionClient:
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

    def inspect(self, product: str, image: ImageSource, *, with_map: bool = True) -> Inspection:
        """Inspect one image.

        Args:
            product: Name of an enrolled product, or pinned to a version: ``screw@3``. A pinned
                version must be of the same input size as the current one.
            image: Encoded image, path of one, or ``(H, W, 3)`` uint8 RGB array.
            with_map: Whether to have the map at the image's size; the server saves that step and
                the network its bytes when it is not needed.

        Returns:
            The complete answer.

        Raises:
            InvalidImageError: If the image cannot be sent.
            RequestRejected: If product and image cannot be inspected; the message says why.
            InspectionError: Another subclass; in no case is there a verdict.
        """
        name, version = parse_reference(product)
        payload: NDArray[Any]
        if isinstance(image, np.ndarray):
            spec, payload = wire.IMAGE_RGB, checked_rgb(image)
            image_size = (payload.shape[0], payload.shape[1])
        else:
            spec, payload, image_size = wire.IMAGE, bytes_tensor([encoded_image(image)]), None
        ensemble = self._ensembles.get(name)
        was_cached = ensemble is not None
        if ensemble is None:
            ensemble = self._find_ensemble(name)
        try:
            answer = self._infer_inspection(ensemble, product, (spec, payload), with_map)
        except (ModelUnavailable, RequestRejected):
            # Perhaps the product was enrolled anew at another resolution since the last call, and
            # belongs to another ensemble now. A refusal's wording is not ours to interpret: ask.
            if not was_cached or self._find_ensemble(name) == ensemble:
                raise
            ensemble = self._ensembles[name]
            answer = self._infer_inspection(ensemble, product, (spec, payload), with_map)
        return inspection_from_answer(
            answer, product=product, version=version, with_map=with_map, image_size=image_size
        )

    def enroll(
        self,
        product: str,
        images: Sequence[ImageSource],
        *,
        resolution: int | None = None,
        false_positive_rate: float | None = None,
        threshold: float | None = None,
        operator: str | None = None,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Enrollment:
        """Enrol a product, or a new version of it, from images of good parts.

        The images travel in parts; the new version appears with the last one, or not at all.

        Args:
            product: Name of the product: 1-64 letters, digits, ``_``, ``.``, ``-``.
            images: At least one, each as in ``inspect``; files are read one part at a time.
            resolution: Shorter edge in pixels; the server's own when None.
            false_positive_rate: Share of good parts that may be rejected, in (0, 1).
            threshold: Set by hand instead of calibrated, in the unit of the score.
            operator: Who enrols, recorded with the version.
            on_progress: Called after each part with the images done and all images.

        Returns:
            What the server committed.

        Raises:
            InvalidImageError: If an image cannot be read.
            RequestRejected: If the server refuses name, options or an image; nothing is enrolled.
            InspectionError: Another subclass. Nothing is sent again: whether the last part was
                committed is unknown after RequestTimeout and ServerUnreachable, see ``products``.
        """
        if not wire.is_product_name(product):
            raise RequestRejected(
                f"product {product!r} cannot be enrolled: expected a name of 1-64 letters, "
                "digits, '_', '.', '-', without a version"
            )
        if not images:
            raise RequestRejected(f"no image to enrol {product!r} from, expected at least one")
        self._check_contract(wire.ENROLL_MODEL, wire.ENROLL_INPUTS, wire.ENROLL_OUTPUTS)
        given = {
            wire.EnrollOption.RESOLUTION: resolution,
            wire.EnrollOption.FALSE_POSITIVE_RATE: false_positive_rate,
            wire.EnrollOption.THRESHOLD: threshold,
            wire.EnrollOption.OPERATOR: operator,
        }
        options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        options[wire.EnrollOption.SESSION] = uuid.uuid4().hex
        num_done = 0
        for part in image_parts(images):
            options[wire.EnrollOption.NUM_STAGED] = num_done
            num_done += len(part)
            options[wire.EnrollOption.IMAGE_NAMES] = [name for name, _ in part]
            options[wire.EnrollOption.COMMIT] = num_done == len(images)
            answer = self._send_part(product, [data for _, data in part], options)
            report = json_from_answer(answer, wire.ENROLL_REPORT, dict)
            if not options[wire.EnrollOption.COMMIT] and report.get("num_staged") != num_done:
                raise ServerFault(
                    f"the server holds {report.get('num_staged')} images of {num_done} sent; "
                    f"{product!r} was not enrolled, try again",
                    model_name=wire.ENROLL_MODEL,
                    request_id=answer.request_id,
                )
            if on_progress is not None:
                on_progress(num_done, len(images))
        self._ensembles.pop(product, None)  # the new version may be of another resolution
        enrollment = Enrollment.from_report(report)
        if enrollment.num_references != len(images):
            raise ServerFault(
                f"version {enrollment.bundle_version} of {product!r} was enrolled from "
                f"{enrollment.num_references} images, {len(images)} were sent; do not use it",
                model_name=wire.ENROLL_MODEL,
            )
        return enrollment

    def products(self, name: str | None = None) -> list[Product]:
        """List the enrolled products.

        Args:
            name: Only this product; all when None.

        Returns:
            The products in the server's order; empty if there is none. One whose files are
            damaged is left out of the list of all, with a warning in the log.

        Raises:
            RequestRejected: If there is none of that name, or it is damaged.
            InspectionError: The subclass that fits.
        """
        self._check_contract(wire.PRODUCTS_MODEL, wire.PRODUCTS_INPUTS, wire.PRODUCTS_OUTPUTS)
        answer = self._transport.infer(
            wire.PRODUCTS_MODEL,
            [(wire.PRODUCT, bytes_tensor([(name or "").encode()]))],
            wire.PRODUCTS_OUTPUTS,
            timeout_s=self._timeout_s,
            batched=False,
            retry=True,
        )
        products = []
        for report in json_from_answer(answer, wire.PRODUCTS_REPORT, list):
            if isinstance(report, dict) and "error" in report:
                logger.warning("product %s: %s", report.get("product"), report["error"])
            else:
                products.append(Product.from_report(report))
        return products

    def _check_contract(
        self,
        model_name: str,
        inputs: Sequence[wire.TensorSpec],
        outputs: Sequence[wire.TensorSpec],
    ) -> None:
        self._transport.check_contract(model_name, inputs, outputs, timeout_s=self._timeout_s)

    def _find_ensemble(self, name: str) -> str:
        """Ask the server which ensemble inspects a product, and remember it."""
        self._ensembles.pop(name, None)
        for product in self.products(name):
            if product.name == name:
                self._ensembles[name] = product.ensemble
                return product.ensemble
        raise RequestRejected(
            f"product {name!r} is not enrolled on the server; `dinspect products` lists those "
            "that are, `dinspect enroll` adds one",
            model_name=wire.PRODUCTS_MODEL,
        )

    def _infer_inspection(
        self,
        ensemble: str,
        product: str,
        image: tuple[wire.TensorSpec, NDArray[Any]],
        with_map: bool,
    ) -> Answer:
        image_spec, _ = image
        model_name = raw_ensemble(ensemble) if image_spec is wire.IMAGE_RGB else ensemble
        self._check_contract(model_name, (image_spec, wire.PRODUCT), wire.INSPECTION_OUTPUTS)
        # An output that is not asked for is not computed.
        outputs = [
            spec for spec in wire.INSPECTION_OUTPUTS if with_map or spec is not wire.ANOMALY_MAP
        ]
        return self._transport.infer(
            model_name,
            [image, (wire.PRODUCT, bytes_tensor([product.encode()]))],
            outputs,
            timeout_s=self._timeout_s,
            batched=True,
            retry=True,
        )

    def _send_part(self, product: str, images: list[bytes], options: dict[str, Any]) -> Answer:
        return self._transport.infer(
            wire.ENROLL_MODEL,
            [
                (wire.PRODUCT, bytes_tensor([product.encode()])),
                (wire.ENROLL_IMAGES, bytes_tensor(images)),
                (wire.ENROLL_OPTIONS, bytes_tensor([json.dumps(options).encode()])),
            ],
            wire.ENROLL_OUTPUTS,
            timeout_s=self._enroll_timeout_s,
            batched=False,
            retry=False,  # a part that did arrive would be staged twice
        )
