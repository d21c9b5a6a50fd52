"""A version of a product as one file: a plain ZIP of exactly the version's files, uncompressed.

Any ZIP program can open one. Nothing in it is believed before it was checked: which members it
has, how they are stored, and their digests, which the record among them holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from dinspect_client.errors import ProductFileError
from dinspect_client.wire import MAX_CONTENT_BYTES, VERSION_FILES, is_product_name

RECORD_FILE, BANK_FILE, GOOD_PARTS_FILE = VERSION_FILES
MAX_RECORD_BYTES = 64 * 2**20
"""A record is read as a whole. That of 10,000 references has about 2 MB."""

DIGEST_KEYS = {BANK_FILE: "bank_sha256", GOOD_PARTS_FILE: "good_parts_sha256"}
"""Where the record holds the digest of each other file."""

# What zipfile raises, or lets through from its parts, for files that are no sound archive.
_UNSOUND = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest a ZIP knows: equal versions make equal files


def write_archive(file: BinaryIO, members: Iterable[tuple[str, Iterable[bytes]]]) -> None:
    """Write the members one after the other, each in parts as they come.

    Args:
        file: Open for writing, at its beginning.
        members: Names and contents.

    Raises:
        OSError: If it cannot be written.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, parts in members:
            info = zipfile.ZipInfo(name, _TIME)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            with archive.open(info, "w", force_zip64=True) as member:
                for part in parts:
                    member.write(part)


class ProductArchive:
    """An archive that was checked as a whole, open for reading.

    Attributes:
        product: Name of the product it was exported from.
        num_bytes: Bytes of all members.
        digests: SHA-256 of each other file than the record, by its key in there.
    """

    def __init__(self, path: str, archive: zipfile.ZipFile, num_bytes_on_disk: int) -> None:
        self._path = path
        self._archive = archive
        self._members = self._checked_members(num_bytes_on_disk)
        self.num_bytes = sum(info.file_size for info in self._members.values())
        record = self._read_record()
        self.product = str(record["product"])
        self.digests = {key: str(record[key]) for key in DIGEST_KEYS.values()}
        for name, key in DIGEST_KEYS.items():
            digest = hashlib.sha256()
            for _, part in self.parts(name):
                digest.update(part)
            if digest.hexdigest() != self.digests[key]:
                raise self._error(f"its {name} is not the one that its {RECORD_FILE} tells of")

    def parts(self, name: str) -> Iterator[tuple[int, bytes]]:
        """Read a member in parts.

        Yields:
            Offset and content of each part, none empty, of at most ``MAX_CONTENT_BYTES``.

        Raises:
            ProductFileError: If it cannot be read, or its checksum is wrong.
        """
        offset = 0
        try:
            with self._archive.open(self._members[name]) as member:
                while part := member.read(MAX_CONTENT_BYTES):
                    yield offset, part
                    offset += len(part)
        except _UNSOUND as error:
            raise self._error(f"its {name} cannot be read ({error})") from error
        if offset != self.size(name):
            raise self._error(f"its {name} ends early")

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._members[name].file_size

    def _checked_members(self, num_bytes_on_disk: int) -> dict[str, zipfile.ZipInfo]:
        infos = self._archive.infolist()
        # The name as it is stored: zipfile's own is changed to be fit for unpacking.
        names = sorted(info.orig_filename for info in infos)
        if names != sorted(VERSION_FILES):
            shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
            raise self._error(
                f"it holds {shown or 'nothing'}, expected exactly {', '.join(VERSION_FILES)}"
            )
        for info in infos:
            plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if not plain or info.file_size != info.compress_size:
                raise self._error(f"its {info.filename} is compressed or encrypted")
            if info.file_size == 0:
                raise self._error(f"its {info.filename} is empty")
        if sum(info.file_size for info in infos) > num_bytes_on_disk:
            raise self._error("its members overlap or are cut short")
        return {info.orig_filename: info for info in infos}

    def _read_record(self) -> dict[str, Any]:
        """The record, as far as an import needs it; the server judges the rest."""
        if self.size(RECORD_FILE) > MAX_RECORD_BYTES:
            raise self._error(f"its {RECORD_FILE} has more than {MAX_RECORD_BYTES} bytes")
        try:
            record = json.loads(b"".join(part for _, part in self.parts(RECORD_FILE)))
        except (ValueError, RecursionError) as error:  # a ValueError of the text's encoding, too
            raise self._error(f"its {RECORD_FILE} is not JSON ({error})") from error
        keys = {"product", *DIGEST_KEYS.values()}
        if not isinstance(record, dict) or not all(isinstance(record.get(k), str) for k in keys):
            raise self._error(f"its {RECORD_FILE} lacks {', '.join(sorted(keys))}")
        if not is_product_name(record["product"]):
            raise self._error(f"{record['product']!r} is no name of a product")
        return record

    def _error(self, reason: str) -> ProductFileError:
        return ProductFileError(f"{self._path} is no exported product: {reason}")


@contextlib.contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[ProductArchive]:
    """Open an exported product and check all of it.

    Raises:
        ProductFileError: If it cannot be read, or is not exactly what ``write_archive`` makes of a
            version's files.
    """
    shown = os.fspath(path)
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(open(path, "rb"))
        except OSError as error:
            raise ProductFileError(f"cannot read {shown}: {error.strerror}") from error
        try:
            archive = opened.enter_context(zipfile.ZipFile(file))
        except _UNSOUND as error:
            raise ProductFileError(f"{shown} is no exported product: {error}") from error
        yield ProductArchive(shown, archive, os.fstat(file.fileno()).st_size)
