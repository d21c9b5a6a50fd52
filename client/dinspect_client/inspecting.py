"""The client's calls for every part on the line: inspect an image, list the products."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinspect_client import wire
from dinspect_client.codec import (
    bytes_tensor,
    inspection_from_answer,
    json_from_answer,
    naming,
    parse_reference,
    raw_ensemble,
)
from dinspect_client.connection import PRODUCTS, Connection, text_tensor
from dinspect_client.errors import ModelUnavailable, RequestRejected
from dinspect_client.images import ImageSource, checked_rgb, encoded_image
from dinspect_client.products import Product
from dinspect_client.results import Inspection

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

logger = logging.getLogger(__name__)


class Inspecting(Connection):
    """Inspects images and lists products."""

    def inspect(self, product: str, image: ImageSource, *, with_map: bool = True) -> Inspection:
        """Inspect one image.

        Args:
            product: Name of an enrolled product, or pinned to a version: ``screw@3``. A pinned
                version must be of the same input size as the current one.
            image: Encoded image, path of one, or ``(H, W, 3)`` uint8 RGB array.
            with_map: Whether to have the map at the image's size and the defect regions in it; the
                server saves that step and the network its bytes when they are not needed.

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
        answer = self._ask(
            PRODUCTS,
            [(wire.PRODUCT, text_tensor(name or ""))],
            timeout_s=self._timeout_s,
            retry=True,
        )
        products = []
        for report in json_from_answer(answer, wire.PRODUCTS_REPORT, list):
            if isinstance(report, dict) and "error" in report:
                logger.warning("product %s: %s", report.get("product"), report["error"])
            else:
                with naming(answer):
                    products.append(Product.from_report(report))
        return products

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
            spec for spec in wire.INSPECTION_OUTPUTS if with_map or spec not in wire.MAP_OUTPUTS
        ]
        return self._transport.infer(
            model_name,
            [image, (wire.PRODUCT, text_tensor(product))],
            outputs,
            timeout_s=self._timeout_s,
            batched=True,
            retry=True,
        )
