"""The client's calls that bring a product from one server to another, by way of one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dinspect_client import wire
from dinspect_client.archive import (
    DIGEST_KEYS,
    MAX_RECORD_BYTES,
    RECORD_FILE,
    ProductArchive,
    open_archive,
    write_archive,
)
from dinspect_client.codec import (
    fault,
    json_from_answer,
    json_from_text,
    mismatch,
    parse_reference,
    version_from_answer,
)
from dinspect_client.errors import ProductFileError, RequestRejected, ServerFault
from dinspect_client.files import whole_file
from dinspect_client.uploading import FilePart, Uploading
from dinspect_client.versions import ProductVersion
from dinspect_client.wire import ManageKey, ManageOperation, Method

if TYPE_CHECKING:
    from dinspect_client.transport import Answer


class Transferring(Uploading):
    """Writes a version to a file and makes a version of such a file, part by part.

    That is for versions by ``anomaly_dino``: trained students are published, see publishing.py.
    """

    def export_product(
        self,
        product: str,
        file: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_progress: Callable[[int], object] | None = None,
    ) -> ProductVersion:
        """Write a version of a product to a file: a plain ZIP of exactly ``wire.VERSION_FILES``.

        Args:
            product: Name of the product for the version in force, or pinned: ``screw@3``.
            file: Name of the file; it appears when all of it is there and on the disk.
            overwrite: Whether it may replace an existing file.
            on_progress: Called after each part with the bytes done.

        Returns:
            The version that was written.

        Raises:
            ProductFileError: If the file cannot be written, or is there already.
            RequestRejected: If there is no such product or version.
            InspectionError: Another subclass; there is no file then.
        """
        parse_reference(product)
        shown = os.fspath(file)
        try:
            with whole_file(file, overwrite=overwrite, durable=True) as target:
                version = self._version_to_export(product)
                write_archive(target, self._members(version, on_progress))
        except FileExistsError as error:
            raise ProductFileError(
                f"{shown} exists already; name another file, or say that it may be overwritten"
            ) from error
        except OSError as error:
            raise ProductFileError(f"cannot write {shown}: {error.strerror or error}") from error
        return version

    def import_product(
        self,
        file: str | os.PathLike[str],
        product: str | None = None,
        *,
        operator: str | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> ProductVersion:
        """Make a version of what ``export_product`` wrote, on this server.

        Args:
            file: The file. All of it is checked before anything is sent.
            product: What to call the product; as it was called when None. If there is a product of
                that name, this becomes its newest version.
            operator: Who, recorded.
            on_progress: Called after each part with the bytes done.

        Returns:
            The new version, in force.

        Raises:
            ProductFileError: If the file cannot be read, or is no exported product.
            RequestRejected: If the server refuses it: made by a backbone that is not served, too
                large, contradicting itself.
            InspectionError: Another subclass. Whether the version was made is unknown after
                RequestTimeout and ServerUnreachable, see ``history``.
        """
        if product is not None and not wire.is_product_name(product):
            raise RequestRejected(f"{product!r} is no name to import a product under")
        with open_archive(file) as archive:
            name = product or archive.product
            asked = {
                ManageKey.OPERATION: ManageOperation.IMPORT,
                ManageKey.OPERATOR: operator,
            }
            answer = self._upload(name, asked, _parts(archive), archive.num_bytes, on_progress)
            self._ensembles.pop((name, Method.ANOMALY_DINO), None)
            version = version_from_answer(answer, wire.MANAGE_REPORT, ProductVersion, name)
            for key, digest in archive.digests.items():
                if getattr(version, key) != digest:
                    raise fault(answer, f"{version.reference} has another {key} than was sent")
        return version

    def _version_to_export(self, product: str) -> ProductVersion:
        """The version that a product's name stands for now; later parts are of that very one."""
        name, number = parse_reference(product)
        answer = self._read_part(product, RECORD_FILE, 0)
        told = answer.scalar(wire.BUNDLE_VERSION)
        if told != (number or told):
            raise fault(answer, f"{product!r} was answered by version {told}")
        text = b"".join(self._read_file(f"{name}@{told}", RECORD_FILE, MAX_RECORD_BYTES))
        version = ProductVersion.from_report(json_from_text(answer, text, RECORD_FILE, dict))
        if (version.product, version.version) != (name, told):
            raise fault(answer, f"{RECORD_FILE} of {name}@{told} is that of {version.reference}")
        return version

    def _members(
        self, version: ProductVersion, on_progress: Callable[[int], object] | None
    ) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Names and contents of a version's files, as they come; digests are checked."""
        num_done = 0

        def counted(name: str) -> Iterator[bytes]:
            nonlocal num_done
            digest = hashlib.sha256()
            for part in self._read_file(version.reference, name):
                digest.update(part)
                yield part
                num_done += len(part)
                if on_progress is not None:
                    on_progress(num_done)
            key = DIGEST_KEYS.get(name)
            if key is not None and digest.hexdigest() != getattr(version, key):
                raise ServerFault(
                    f"{name} of {version.reference} is not the one its record tells of; nothing "
                    "was exported",
                    model_name=wire.MANAGE_MODEL,
                )

        for name in wire.VERSION_FILES:
            yield name, counted(name)

    def _read_file(
        self, reference: str, name: str, max_bytes: int | None = None
    ) -> Iterator[bytes]:
        """One file of a pinned version in parts, complete or an error."""
        version = parse_reference(reference)[1]
        offset, size = 0, None
        while size is None or offset < size:
            answer = self._read_part(reference, name, offset)
            report = json_from_answer(answer, wire.MANAGE_REPORT, dict)
            told, content = report.get("file_bytes"), answer.scalar(wire.MANAGE_CONTENT)
            if not isinstance(told, int) or not isinstance(content, bytes):
                raise mismatch(answer, f"file_bytes is {told!r}, expected a number")
            if answer.scalar(wire.BUNDLE_VERSION) != version or told != (size or told):
                raise fault(answer, f"{name} of {reference} is another one than it was")
            if not 0 < len(content) <= min(told - offset, wire.MAX_CONTENT_BYTES):
                raise fault(
                    answer, f"{len(content)} bytes from {offset} on of a {name} of {told} bytes"
                )
            if max_bytes is not None and told > max_bytes:
                raise fault(answer, f"{name} of {reference} has {told} bytes, more than any has")
            size = told
            yield content
            offset += len(content)

    def _read_part(self, reference: str, name: str, offset: int) -> Answer:
        asked = {
            ManageKey.OPERATION: ManageOperation.READ,
            ManageKey.FILE: name,
            ManageKey.OFFSET: offset,
        }
        return self._manage(reference, asked, reads=True)


def _parts(archive: ProductArchive) -> Iterator[FilePart]:
    for name in wire.VERSION_FILES:
        for offset, content in archive.parts(name):
            yield FilePart(name, offset, content)
