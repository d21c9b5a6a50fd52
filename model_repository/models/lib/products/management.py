"""What can be done to a product by whichever method: look back, put in force, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic

from arriving_files import Arrivals, ArrivingFiles
from change_log import now
from option_checks import is_flag, is_integer, require
from refusals import InspectionRefused
from version_record import VersionRecord, VersionT
from version_store import VersionStore
from wire import ManageOperation, is_product_name, parse_product


@dataclass(frozen=True)
class Asked:
    """One request to `manage`.

    Attributes:
        reference: Product, or a version of it.
        options: The request's object.
        content: Bytes that came with it.
    """

    reference: str
    options: dict[str, Any]
    content: bytes

    @property
    def operator(self) -> str:
        """Who asks."""
        return str(self.options.get("operator", ""))

    def chosen(self, keys: tuple[str, ...]) -> dict[str, Any]:
        """Those of some options that are said."""
        return {key: self.options[key] for key in keys if key in self.options}

    def pinned(self) -> tuple[str, int | None]:
        """Product and version of the reference.

        Raises:
            InspectionRefused: If it is none.
        """
        try:
            return parse_product(self.reference)
        except ValueError as error:
            raise InspectionRefused(str(error)) from None


@dataclass(frozen=True)
class Done:
    """The answer to a request.

    Attributes:
        version: The version it is about; 0 for none.
        report: What was done or found, ready for JSON.
        content: Bytes that go with it.
    """

    version: int
    report: dict[str, Any]
    content: bytes = b""

    @classmethod
    def made(cls, record: VersionRecord) -> Done:
        """A version was made, or came into force."""
        return cls(record.version, asdict(record))


Operation = Callable[[Asked], Done]


class Management(Generic[VersionT]):
    """The life of the products of one method.

    Args:
        store: The products.
    """

    def __init__(self, store: VersionStore[VersionT]) -> None:
        self.store = store
        store.remove_leftovers()

    def operations(self) -> dict[str, Operation]:
        """What can be asked for, by `wire.ManageOperation`."""
        return {
            ManageOperation.HISTORY: self.history,
            ManageOperation.ACTIVATE: self.activate,
            ManageOperation.DELETE: self.delete,
        }

    def check_servable(self, record: VersionT) -> None:
        """Refuse to put in force what could not answer on this server.

        Raises:
            InspectionRefused: Saying why.
        """

    def history(self, asked: Asked) -> Done:
        """Every version's record and the record of changes."""
        product, current = self.store.resolve(asked.pinned()[0])
        report = {
            "product": product,
            "current": current,
            "versions": [self._record(product, one) for one in self.store.versions(product)],
            "changes": self.store.changes(product),
        }
        return Done(current, report)

    def activate(self, asked: Asked) -> Done:
        """Put a version in force."""
        product, version = asked.pinned()
        if version is None:
            raise InspectionRefused(f"say which version of '{product}' to activate: {product}@3")
        check = self.check_servable
        return Done.made(self.store.activate(product, version, asked.operator, now(), check))

    def delete(self, asked: Asked) -> Done:
        """Delete a version, or the product as a whole."""
        product, version = asked.pinned()
        deleted = self.store.delete(product, version, asked.operator, now())
        return Done(version or 0, {"product": product, "deleted": deleted})

    def in_force(self, asked: Asked) -> VersionT:
        """The record of the version in force, which is the one to change."""
        product, version = asked.pinned()
        if version is not None:
            raise InspectionRefused(
                f"what is changed is the version in force; activate {asked.reference} first"
            )
        return self.store.read_bundle(*self.store.resolve(product))

    def arrive(
        self, arrivals: Arrivals, asked: Asked, publish: Callable[[ArrivingFiles], VersionT]
    ) -> Done:
        """Take part of a version's file that arrives; the last one makes it a version.

        Args:
            arrivals: Where it arrives.
            asked: The request.
            publish: Makes the version of what arrived.

        Raises:
            InspectionRefused: If the part does not fit, or no version can be made; what arrived
                is forgotten then.
        """
        session, offset = asked.options.get("session", ""), asked.options.get("offset", 0)
        commit = asked.options.get("commit", False)
        if not is_product_name(asked.reference):
            raise InspectionRefused(f"{asked.reference!r} is no name for a product")
        require(bool(session), "session", "a name that joins the parts", session)
        require(is_integer(offset, 0), "offset", "0 or more", offset)
        require(is_flag(commit), "commit", "true or false", commit)
        arriving = arrivals.get(session, asked.reference)
        try:
            arriving.add(asked.options.get("file"), offset, asked.content)
            if not commit:
                received = offset + len(asked.content)
                return Done(0, {"product": asked.reference, "received": received})
            made = publish(arriving)
        except BaseException:
            arrivals.drop(session)
            raise
        arrivals.drop(session)
        return Done.made(made)

    def _record(self, product: str, version: int) -> dict[str, Any]:
        """One damaged version must not hide the others."""
        try:
            return asdict(self.store.read_bundle(product, version))
        except InspectionRefused as refusal:
            return {"product": product, "version": version, "error": str(refusal)}
