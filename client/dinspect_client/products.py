"""What the server knows of a product: its state now, its versions, and who changed it when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinspect_client.records import JSON_KEY, read_record, record_to_json
from dinspect_client.versions import ProductVersion, StudentsVersion, VersionRecord
from dinspect_client.wire import Method


@dataclass(frozen=True)
class Product:
    """One product by one method; all but ``versions`` describes its current version.

    Attributes:
        name: Name of the product.
        method: What it is inspected by here: ``anomaly_dino`` or ``l2bt``. A product of both is two
            of these, each with versions of its own.
        current: The version that answers when none is named.
        versions: All versions kept, in the server's order.
        ensemble: The ensemble that inspects this product.
        grid: Patches per column and row, ``(gh, gw)``.
        image_size: ``(height, width)`` of the reference images in pixels.
        threshold: Score above which a part is anomalous.
        normal_below: Score up to which a part is normal.
        preprocessing: Name of the preprocessing setting; ``pad`` for ``l2bt``.
        masked: Whether the background of inspected images is masked.
        num_references: Number of reference images.
        num_patches: Number of patches in the memory bank, or that the students were trained on.
        loaded_bytes: Memory of the server that bank or students take when loaded, as the server
            estimates it.
        created_at: ISO 8601 time with zone.
        backbone_sha256: Digest of the exported backbone that it was made with.
    """

    name: str = field(metadata={JSON_KEY: "product"})
    method: str
    current: int
    versions: tuple[int, ...]
    ensemble: str
    grid: tuple[int, int]
    image_size: tuple[int, int]
    threshold: float
    normal_below: float
    preprocessing: str
    masked: bool
    num_references: int
    num_patches: int
    loaded_bytes: int
    created_at: str
    backbone_sha256: str

    @classmethod
    def from_report(cls, report: object) -> Product:
        """Read one object of the ``products`` model's list.

        Raises:
            ProtocolMismatch: If a field is missing or has another form.
        """
        return read_record(cls, report, "product list")

    def to_dict(self) -> dict[str, Any]:
        """Return the product for JSON, in the form of the server's list."""
        found: dict[str, Any] = record_to_json(self)
        return found


@dataclass(frozen=True)
class DamagedVersion:
    """A version whose record the server cannot read.

    Attributes:
        product: Name of the product.
        version: Its number.
        error: What is wrong with it, in the server's words.
    """

    product: str
    version: int
    error: str


@dataclass(frozen=True)
class LoggedChange:
    """One line of the server's record of changes.

    Attributes:
        at: ISO 8601 time with zone.
        operator: Who, as the client said; empty when it said nothing.
        action: As of `Change`, or ``activated`` or ``deleted``.
        product: Name of the product.
        version: The version; None for the product as a whole.
        in_force: Whether the version was in force from then on.
    """

    at: str
    operator: str
    action: str
    product: str
    version: int | None
    in_force: bool


@dataclass(frozen=True)
class ProductHistory:
    """All versions of a product by one method, and everything that was changed about them.

    Attributes:
        product: Name of the product.
        current: The version in force.
        versions: Every version kept, in the server's order, damaged ones too; the others are each
            a `ProductVersion` or, for ``l2bt``, a `StudentsVersion`.
        changes: The record of changes, oldest first.
    """

    product: str
    current: int
    versions: tuple[VersionRecord | DamagedVersion, ...]
    changes: tuple[LoggedChange, ...]

    @property
    def in_force(self) -> VersionRecord | DamagedVersion:
        """The version in force; damaged if the server has no version of that number."""
        for one in self.versions:
            if one.version == self.current:
                return one
        return DamagedVersion(self.product, self.current, "the server has no such version")

    def version_before(self) -> int | None:
        """The version to go back to: in force before the current one.

        Going back takes back everything since, as undoing does: after a rollback from 3 to 2 the
        version before 2 is what preceded it, and not 3, which was left for a reason.

        Returns:
            The version, or None if there is none that is kept, or the record of changes does not
            tell how the current one came into force.
        """
        way: list[int] = []
        for change in self.changes:
            if change.version is None:  # the product as a whole was deleted
                way.clear()
            elif change.action == "deleted":
                way = [version for version in way if version != change.version]
            elif change.in_force:
                if change.version in way:
                    del way[way.index(change.version) :]
                way.append(change.version)
        if self.current not in way:
            return None
        before = way[: way.index(self.current)]
        return (
            before[-1] if before and before[-1] in {one.version for one in self.versions} else None
        )

    @classmethod
    def from_report(cls, report: object) -> ProductHistory:
        """Read the report of ``manage`` on a product's history.

        Raises:
            ProtocolMismatch: If a field is missing or has another form.
        """
        history = read_record(_HistoryReport, report, "history of a product")
        versions = tuple(_version(one) for one in history.versions)
        return cls(history.product, history.current, versions, history.changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the history for JSON, in the form of the server's report."""
        found: dict[str, Any] = record_to_json(self)
        return found


@dataclass(frozen=True)
class _HistoryReport:
    """The report as it comes, before it is told which versions are damaged."""

    product: str
    current: int
    versions: tuple[Mapping[str, Any], ...]
    changes: tuple[LoggedChange, ...]


def _version(report: Mapping[str, Any]) -> VersionRecord | DamagedVersion:
    if "error" in report:
        return read_record(DamagedVersion, report, "history of a product")
    if report.get("method") == Method.L2BT:
        return StudentsVersion.from_report(report)
    return ProductVersion.from_report(report)
