"""The client's calls for every part on the line: inspect an image, list the products."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
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
from dinspect_client.methods import called, checked_method
from dinspect_client.products import Product
from dinspect_client.results import Inspection
from dinspect_client.wire import Method

if TYPE_CHECKING:
    from dinspect_client.transport import Answer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What one inspection asks for.

    Attributes:
        product: The product as the caller wrote it, perhaps pinned to a version.
        name: Its name alone.
        method: What it is to be inspected by.
        image: The image's tensor, encoded or decoded, in the shape of one item.
        with_map: Whether to have map and defect regions.
    """

    product: str
    name: str
    method: str
    image: tuple[wire.TensorSpec, NDArray[Any]]
    with_map: bool


class Inspecting(Connection):
    """Inspects images and lists products."""

    def inspect(
        self,
        product: str,
        image: ImageSource,
        *,
        method: str = Method.ANOMALY_DINO,
        with_map: bool = True,
    ) -> Inspection:
        """Inspect one image.

        Args:
            product: Name of a product, or pinned to a version by that method: ``screw@3``. A pinned
                version must be of the same input size as the current one.
            image: Encoded image, path of one, or ``(H, W, 3)`` uint8 RGB array.
            method: ``anomaly_dino``, by the product's memory bank, or ``l2bt``, by its trained
                students.
            with_map: Whether to have the map at the image's size and the defect regions in it; the
                server saves that step and the network its bytes when they are not needed.

        Returns:
            The complete answer.

        Raises:
            InvalidImageError: If the image cannot be sent.
            RequestRejected: If product and image cannot be inspected by this method; the message
                says why.
            InspectionError: Another subclass; in no case is there a verdict.
        """
        name, version = parse_reference(product)
        checked_method(method)
        payload: NDArray[Any]
        if isinstance(image, np.ndarray):
            spec, payload = wire.IMAGE_RGB, checked_rgb(image)
            image_size = (payload.shape[0], payload.shape[1])
        else:
            spec, payload, image_size = wire.IMAGE, bytes_tensor([encoded_image(image)]), None
        answer = self._inspect(_Asked(product, name, method, (spec, payload), with_map))
        return inspection_from_answer(
            answer,
            product=product,
            method=method,
            version=version,
            with_map=with_map,
            image_size=image_size,
        )

    def products(self, name: str | None = None) -> list[Product]:
        """List the products, each once per method it is inspected by.

        Args:
            name: Only this product; all when None.

        Returns:
            The products in the server's order; empty if there is none. One whose files are
            damaged is left out, with a warning in the log.

        Raises:
            RequestRejected: If there is none of that name, or it is damaged.
            InspectionError: The subclass that fits.
        """
        products, damaged = self._list_products(name)
        for product, reason in damaged.items():
            logger.warning("product %s: %s", called(*product), reason)
        return products

    def _list_products(self, name: str | None) -> tuple[list[Product], dict[tuple[str, str], str]]:
        """Products, and by name and method what is wrong with those that are damaged."""
        answer = self._ask(
            PRODUCTS,
            [(wire.PRODUCT, text_tensor(name or ""))],
            timeout_s=self._timeout_s,
            retry=True,
        )
        products: list[Product] = []
        damaged: dict[tuple[str, str], str] = {}
        for report in json_from_answer(answer, wire.PRODUCTS_REPORT, list):
            if isinstance(report, dict) and "error" in report:
                key = str(report.get("product")), str(report.get("method", Method.ANOMALY_DINO))
                damaged[key] = str(report["error"])
            else:
                with naming(answer):
                    products.append(Product.from_report(report))
        return products, damaged

    def _inspect(self, asked: _Asked) -> Answer:
        """Ask the ensemble that inspects the product, wherever it is served by now."""
        key = asked.name, asked.method
        ensemble = self._ensembles.get(key)
        was_cached = ensemble is not None
        if ensemble is None:
            ensemble = self._find_ensemble(*key)
        try:
            return self._infer(ensemble, asked)
        except (ModelUnavailable, RequestRejected):
            # Perhaps the product was made anew at another resolution since the last call, and
            # belongs to another ensemble now. A refusal's wording is not ours to interpret: ask.
            if not was_cached or self._find_ensemble(*key) == ensemble:
                raise
        return self._infer(self._ensembles[key], asked)

    def _find_ensemble(self, name: str, method: str) -> str:
        """Ask the server which ensemble inspects a product by a method, and remember it."""
        self._ensembles.pop((name, method), None)
        products, damaged = self._list_products(name)
        found = {product.method: product.ensemble for product in products if product.name == name}
        if method in found:
            self._ensembles[name, method] = found[method]
            return found[method]
        reason = damaged.get((name, method)) or _not_there(name, method, found)
        raise RequestRejected(reason, model_name=wire.PRODUCTS_MODEL)

    def _infer(self, ensemble: str, asked: _Asked) -> Answer:
        spec, _ = asked.image
        model_name = ensemble
        if spec is wire.IMAGE_RGB:
            model_name = raw_ensemble(ensemble, asked.name, asked.method)
        self._check_contract(model_name, (spec, wire.PRODUCT), wire.INSPECTION_OUTPUTS)
        # An output that is not asked for is not computed.
        outputs = [
            output
            for output in wire.INSPECTION_OUTPUTS
            if asked.with_map or output not in wire.MAP_OUTPUTS
        ]
        return self._transport.infer(
            model_name,
            [asked.image, (wire.PRODUCT, text_tensor(asked.product))],
            outputs,
            timeout_s=self._timeout_s,
            batched=True,
            retry=True,
        )


def _not_there(name: str, method: str, others: Iterable[str]) -> str:
    """Why a product cannot be inspected by a method that the server does not list it for.

    Args:
        name: The product.
        method: What was asked for.
        others: Methods that the product can be inspected by.
    """
    makes = "`dinspect train`" if method == Method.L2BT else "`dinspect enroll`"
    there = " and ".join(others)
    if there:
        return (
            f"product {name!r} cannot be inspected by {method}, only by {there}: ask for method "
            f"{there}, or make a version for {method} with {makes}"
        )
    return (
        f"product {name!r} is not enrolled on the server; `dinspect products` lists those that "
        f"are, {makes} adds one"
    )
