"""The client's calls for the life of a product after its enrolment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dinspect_client import wire
from dinspect_client.codec import (
    bytes_tensor,
    fault,
    json_from_answer,
    mismatch,
    naming,
    parse_reference,
    version_from_answer,
)
from dinspect_client.connection import MANAGE, Connection, json_tensor, text_tensor
from dinspect_client.errors import RequestRejected
from dinspect_client.images import ImageSource, encoded_image
from dinspect_client.methods import checked_method
from dinspect_client.products import DamagedVersion, ProductHistory
from dinspect_client.versions import VERSION_KINDS, ProductVersion, VersionRecord
from dinspect_client.wire import ManageKey, ManageOperation, Method

if TYPE_CHECKING:
    from dinspect_client.transport import Answer


class Managing(Connection):
    """Looks back at a product's versions and changes what is in force.

    Each method has versions of its own, which the other's calls neither see nor change. Whatever
    decides a verdict differently is a new version, so every change can be taken back by
    ``activate``. Nothing is sent again: whether a change was made is unknown after RequestTimeout
    and ServerUnreachable, see ``history``.
    """

    def history(self, product: str, *, method: str = Method.ANOMALY_DINO) -> ProductHistory:
        """Return all versions of a product by a method, and the record of changes.

        Args:
            product: Name of the product.
            method: ``anomaly_dino`` or ``l2bt``.

        Raises:
            RequestRejected: If there is none of that name and method.
            InspectionError: The subclass that fits.
        """
        name = _plain_name(product)
        asked = {ManageKey.OPERATION: ManageOperation.HISTORY, ManageKey.METHOD: _said(method)}
        answer = self._manage(name, asked, reads=True)
        report = json_from_answer(answer, wire.MANAGE_REPORT, dict)
        with naming(answer):
            history = ProductHistory.from_report(report)
        if history.product != name:
            raise fault(answer, f"it is about {history.product!r}, asked was {name!r}")
        for one in history.versions:
            if not isinstance(one, DamagedVersion) and one.method != method:
                raise fault(answer, f"{one.reference} is a version by {one.method}, not {method}")
        return history

    def activate(
        self,
        product: str,
        version: int,
        *,
        method: str = Method.ANOMALY_DINO,
        operator: str | None = None,
    ) -> VersionRecord:
        """Put a version in force: the way back, and forward again.

        Args:
            product: Name of the product.
            version: One of its versions by that method.
            method: ``anomaly_dino`` or ``l2bt``.
            operator: Who, recorded.

        Returns:
            The version, which answers from the next request on: a `ProductVersion` or, for
            ``l2bt``, a `StudentsVersion`.

        Raises:
            RequestRejected: If there is no such version, or it is damaged.
            InspectionError: Another subclass.
        """
        name = _plain_name(product)
        asked = {
            ManageKey.OPERATION: ManageOperation.ACTIVATE,
            ManageKey.METHOD: _said(method),
            ManageKey.OPERATOR: operator,
        }
        answer = self._manage(_pinned(name, version), asked)
        self._ensembles.pop((name, method), None)  # it may be of another resolution
        kind = VERSION_KINDS[method]
        return version_from_answer(answer, wire.MANAGE_REPORT, kind, name, version)

    def delete(
        self,
        product: str,
        version: int | None = None,
        *,
        method: str = Method.ANOMALY_DINO,
        operator: str | None = None,
    ) -> tuple[int, ...]:
        """Delete a version that is not in force, or all versions of a product by a method.

        Args:
            product: Name of the product.
            version: The version; None for all of them.
            method: ``anomaly_dino`` or ``l2bt``; what the other one has stays.
            operator: Who, recorded.

        Returns:
            The versions deleted. Their numbers are never given again.

        Raises:
            RequestRejected: If there is none, or the version is in force.
            InspectionError: Another subclass.
        """
        name = _plain_name(product)
        reference = name if version is None else _pinned(name, version)
        asked = {
            ManageKey.OPERATION: ManageOperation.DELETE,
            ManageKey.METHOD: _said(method),
            ManageKey.OPERATOR: operator,
        }
        answer = self._manage(reference, asked)
        self._ensembles.pop((name, method), None)
        deleted = json_from_answer(answer, wire.MANAGE_REPORT, dict).get("deleted")
        if not isinstance(deleted, list) or not all(isinstance(one, int) for one in deleted):
            raise mismatch(answer, f"deleted is {deleted!r}, expected a list of versions")
        if version is not None and deleted != [version]:
            raise fault(answer, f"asked was to delete {reference}, deleted were {deleted}")
        return tuple(deleted)

    def set_thresholds(
        self,
        product: str,
        *,
        threshold: float | None = None,
        normal_below: float | None = None,
        false_positive_rate: float | None = None,
        undecided_rate: float | None = None,
        method: str = Method.ANOMALY_DINO,
        operator: str | None = None,
    ) -> VersionRecord:
        """Set the thresholds by hand, or find them anew at other rates, without any image.

        Args:
            product: Name of the product.
            threshold: Score above which a part is anomalous, by hand.
            normal_below: Score up to which a part is normal, by hand, with ``threshold`` and not
                above it; the threshold itself when None.
            false_positive_rate: Share of good parts that may be called anomalous, in (0, 1); as it
                was when None.
            undecided_rate: Share of good parts that may be undecided besides, in [0, 1); as it
                was when None.
            method: ``anomaly_dino`` or ``l2bt``.
            operator: Who, recorded.

        Returns:
            The new version, in force: a `ProductVersion` or, for ``l2bt``, a `StudentsVersion`. It
            shares bank or students with the one before.

        Raises:
            RequestRejected: If nothing is asked for, or the server refuses a value.
            InspectionError: Another subclass.
        """
        asked = {
            ManageKey.OPERATION: ManageOperation.THRESHOLD,
            ManageKey.METHOD: _said(method),
            ManageKey.THRESHOLD: threshold,
            ManageKey.NORMAL_BELOW: normal_below,
            ManageKey.FALSE_POSITIVE_RATE: false_positive_rate,
            ManageKey.UNDECIDED_RATE: undecided_rate,
            ManageKey.OPERATOR: operator,
        }
        name = _plain_name(product)
        answer = self._manage(name, asked)
        return version_from_answer(answer, wire.MANAGE_REPORT, VERSION_KINDS[method], name)

    def set_region(
        self,
        product: str,
        *,
        roi_px: Sequence[int] | None = None,
        ignore_mask: ImageSource | None = None,
        clear_ignore_mask: bool = False,
        min_defect_area_px: int | None = None,
        operator: str | None = None,
    ) -> ProductVersion:
        """Change which part of the image counts for ``anomaly_dino``. What is None stays as it is.

        The thresholds are found anew for what counts then, unless they were set by hand.

        Args:
            product: Name of the product.
            roi_px: ``x, y, width, height`` of the region of interest in pixels of the references;
                empty for the whole image.
            ignore_mask: Image of the same aspect ratio as the references, as in ``inspect``,
                bright where nothing counts.
            clear_ignore_mask: Whether to inspect again what a mask left out.
            min_defect_area_px: Smaller defect regions do not count; pixels of the references,
                0 for any.
            operator: Who, recorded.

        Returns:
            The new version, in force. It shares the bank with the one before.

        Raises:
            InvalidImageError: If the mask cannot be read.
            RequestRejected: If nothing is asked for, or it does not fit the product's images.
            InspectionError: Another subclass.
        """
        if ignore_mask is not None and clear_ignore_mask:
            raise RequestRejected("a new ignore mask and clearing it exclude each other")
        asked = {
            ManageKey.OPERATION: ManageOperation.REGION,
            ManageKey.ROI_PX: None if roi_px is None else list(roi_px),
            ManageKey.CLEAR_IGNORE_MASK: clear_ignore_mask or None,
            ManageKey.MIN_DEFECT_AREA_PX: min_defect_area_px,
            ManageKey.OPERATOR: operator,
        }
        mask = None if ignore_mask is None else encoded_image(ignore_mask)
        name = _plain_name(product)
        answer = self._manage(name, asked, content=mask)
        return version_from_answer(answer, wire.MANAGE_REPORT, ProductVersion, name)

    def _manage(
        self,
        reference: str,
        asked: dict[str, Any],
        *,
        content: bytes | None = None,
        reads: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request to the ``manage`` model.

        Args:
            reference: Product, or a version of it.
            asked: The request; what is None is left out.
            content: Bytes that go with it.
            reads: Whether it changes nothing: then it is quick and may be sent again.
            timeout_s: How long to wait, in seconds; by what it does when None.
        """
        inputs = [
            (wire.PRODUCT, text_tensor(reference)),
            (wire.MANAGE_REQUEST, json_tensor(asked)),
        ]
        if content is not None:
            inputs.append((wire.MANAGE_CONTENT_IN, bytes_tensor([content])))
        usual_s = self._timeout_s if reads else self._enroll_timeout_s
        return self._ask(MANAGE, inputs, timeout_s=timeout_s or usual_s, retry=reads)


def _said(method: str) -> str | None:
    """A method as a request says it; the default one needs no word, as with older servers.

    Raises:
        RequestRejected: If it is none.
    """
    return None if checked_method(method) == Method.ANOMALY_DINO else method


def _plain_name(product: str) -> str:
    """The name of a product that is not pinned to a version.

    Raises:
        RequestRejected: If it is none.
    """
    name, version = parse_reference(product)
    if version is not None:
        raise RequestRejected(f"product {product!r} names a version, expected the product: {name}")
    return name


def _pinned(name: str, version: int) -> str:
    """A version of a product.

    Raises:
        RequestRejected: If no version can have that number.
    """
    reference = f"{name}@{version}"
    parse_reference(reference)
    return reference
