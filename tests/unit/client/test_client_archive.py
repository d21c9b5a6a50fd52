from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
import zlib

import pytest

from dinspect_client import ProductFileError, archive
from dinspect_client.archive import open_archive, write_archive
from dinspect_client.wire import VERSION_FILES

BANK, PARTS = b"bank" * 1000, b"parts" * 100


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def record_bytes(**changes) -> bytes:
    record = {
        "product": "screw",
        "version": 3,
        "bank_sha256": digest(BANK),
        "good_parts_sha256": digest(PARTS),
    }
    return json.dumps(record | changes).encode()


def members(**contents: bytes) -> list[tuple[str, bytes]]:
    kinds = zip(VERSION_FILES, ("record", "bank", "good_parts"), strict=True)
    usual = {"record": record_bytes(), "bank": BANK, "good_parts": PARTS}
    return [(name, (usual | contents)[kind]) for name, kind in kinds]


def written(pairs, compression=zipfile.ZIP_STORED) -> bytes:
    """An archive as zipfile makes it, whatever its members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as made:
        for name, content in pairs:
            made.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def opened(tmp_path):
    """Opens bytes as an archive and returns its members' contents."""

    def read(data: bytes) -> dict[str, bytes]:
        path = tmp_path / "screw.zip"
        path.write_bytes(data)
        with open_archive(path) as found:
            return {name: b"".join(p for _, p in found.parts(name)) for name in VERSION_FILES}

    return read


def ours() -> bytes:
    buffer = io.BytesIO()
    write_archive(buffer, [(name, [data[:7], data[7:]]) for name, data in members()])
    return buffer.getvalue()


def test_archive_comes_back_as_it_was_written(tmp_path, opened) -> None:
    assert opened(ours()) == dict(members())
    with open_archive(tmp_path / "screw.zip") as found:
        assert found.product == "screw"
        assert found.num_bytes == sum(len(data) for _, data in members())
        assert found.digests == {"bank_sha256": digest(BANK), "good_parts_sha256": digest(PARTS)}


def test_any_zip_program_can_open_one(tmp_path) -> None:
    with zipfile.ZipFile(io.BytesIO(ours())) as found:
        assert found.testzip() is None
        assert found.namelist() == list(VERSION_FILES)
        assert {info.compress_type for info in found.infolist()} == {zipfile.ZIP_STORED}
        assert {info.external_attr >> 16 for info in found.infolist()} == {0o100644}


def test_equal_versions_make_equal_files_at_any_time() -> None:
    assert ours() == ours()
    with zipfile.ZipFile(io.BytesIO(ours())) as found:
        assert {info.date_time for info in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_archive_of_another_zip_program_is_read(opened) -> None:
    assert opened(written(reversed(members()))) == dict(members())


def test_parts_are_small_and_tell_where_they_begin(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_CONTENT_BYTES", 1000)
    path = tmp_path / "screw.zip"
    path.write_bytes(ours())

    with open_archive(path) as found:
        parts = list(found.parts("bank.safetensors"))

    assert [(offset, len(part)) for offset, part in parts] == [
        (0, 1000), (1000, 1000), (2000, 1000), (3000, 1000),
    ]  # fmt: skip


def test_memory_holds_a_part_and_never_the_file(tmp_path) -> None:
    """A bank of 64 MiB is written and read with a fraction of that."""
    import tracemalloc

    num_parts, part = 16, bytes(4 * 2**20)
    whole = hashlib.sha256()
    for _ in range(num_parts):
        whole.update(part)
    contents = {
        "bundle.json": [record_bytes(bank_sha256=whole.hexdigest())],
        "bank.safetensors": (part for _ in range(num_parts)),
        "good_parts.safetensors": [PARTS],
    }
    path = tmp_path / "screw.zip"
    tracemalloc.start()
    try:
        with path.open("wb") as file:
            write_archive(file, contents.items())
        with open_archive(path) as found:
            for _ in found.parts("bank.safetensors"):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert path.stat().st_size > 64 * 2**20
    assert peak < 40 * 2**20


EVIL = {
    "one is missing": (members()[:2], "expected exactly"),
    "nothing": ([], "holds nothing"),
    "one too many": ([*members(), ("run.sh", b"rm -rf")], "'run.sh'"),
    "path upwards": ([("../bundle.json", record_bytes()), *members()[1:]], r"'\.\./bundle\.json'"),
    "absolute path": ([("/bundle.json", record_bytes()), *members()[1:]], "'/bundle.json'"),
    "in a folder": ([(f"screw/{n}", data) for n, data in members()], "'screw/b"),
    "backslash": ([("..\\bundle.json", record_bytes()), *members()[1:]], "holds"),
    "other case": ([("BUNDLE.JSON", record_bytes()), *members()[1:]], "'BUNDLE.JSON'"),
    "folder besides": ([*members(), ("folder/", b"")], "'folder/'"),
    "empty bank": (members(bank=b""), "bank.safetensors is empty"),
    "another bank": (members(bank=BANK[::-1]), "bank.safetensors is not the one"),
    "other good parts": (members(good_parts=b"x"), "good_parts.safetensors is not the one"),
    "record is no JSON": (members(record=b"nonsense"), "bundle.json is not JSON"),
    "record is no text": (members(record=b"\xff\xfe\xfa"), "bundle.json is not JSON"),
    "record is deep": (members(record=b"[" * 100_000), "bundle.json is not JSON"),
    "record is a list": (members(record=b"[]"), "bundle.json lacks"),
    "record lacks a digest": (members(record=b'{"product": "screw"}'), "bundle.json lacks"),
    "digest is a number": (members(record=record_bytes(bank_sha256=3)), "lacks"),
    "name is a path": (members(record=record_bytes(product="../x")), "no name of a product"),
    "name is long": (members(record=record_bytes(product="x" * 65)), "no name of a product"),
    "name has a version": (members(record=record_bytes(product="x@2")), "no name of a"),
}


@pytest.mark.parametrize(("pairs", "message"), EVIL.values(), ids=EVIL)
def test_foreign_archive_is_refused_with_the_reason(opened, pairs, message) -> None:
    with pytest.raises(ProductFileError, match=message):
        opened(written(pairs))


def test_name_that_only_begins_right_is_refused(opened) -> None:
    """zipfile cuts names at a null byte; what the file says is what counts."""
    name = b"bundle.json\0.evil"
    data = written([("bundle.json-evil!", record_bytes()), *members()[1:]])
    data = data.replace(b"bundle.json-evil!", name)

    with pytest.raises(ProductFileError, match="evil"):
        opened(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_is_there_twice_is_refused(opened) -> None:
    with pytest.raises(ProductFileError, match="expected exactly"):
        opened(written([*members(), ("bundle.json", record_bytes(product="other"))]))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressed_archive_is_refused(opened, compression) -> None:
    """A few bytes could become many."""
    with pytest.raises(ProductFileError, match="compressed or encrypted"):
        opened(written(members(), compression))


def test_encrypted_archive_is_refused(opened) -> None:
    data = bytearray(ours())
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[at + 8] |= 1

    with pytest.raises(ProductFileError, match="compressed or encrypted"):
        opened(bytes(data))


def test_members_that_share_their_bytes_are_refused(opened) -> None:
    """The directory tells of three members of the size of the whole file."""
    data = bytearray(written(members()))
    at = 0
    for _ in VERSION_FILES:
        at = data.index(b"PK\x01\x02", at) + 4
        data[at + 16 : at + 24] = len(data).to_bytes(4, "little") * 2

    with pytest.raises(ProductFileError, match="overlap or are cut short"):
        opened(bytes(data))


def test_flipped_bit_in_the_bank_is_found(opened) -> None:
    data = bytearray(ours())
    data[data.index(BANK) + 1234] ^= 1

    with pytest.raises(ProductFileError, match="bank.safetensors cannot be read"):
        opened(bytes(data))


def test_flipped_bit_with_a_fitting_checksum_is_found_by_the_digest(opened) -> None:
    changed = bytearray(BANK)
    changed[1234] ^= 1
    data = written(members(bank=bytes(changed)))
    assert zlib.crc32(changed).to_bytes(4, "little") in data

    with pytest.raises(ProductFileError, match="not the one that its bundle.json tells of"):
        opened(data)


def test_record_of_any_length_is_not_read_into_memory(opened, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_RECORD_BYTES", 100)

    with pytest.raises(ProductFileError, match="more than 100 bytes"):
        opened(ours())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_truncated_archive_is_refused(opened, share) -> None:
    data = ours()

    with pytest.raises(ProductFileError, match="no exported product"):
        opened(data[: int(share * len(data))])


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"not a zip", bytes(100_000), b"PK\x05\x06" + bytes(18)]
)
def test_other_file_is_refused(opened, data) -> None:
    with pytest.raises(ProductFileError, match="no exported product"):
        opened(data)


def test_missing_file_and_folder_are_told(tmp_path) -> None:
    with pytest.raises(ProductFileError, match="No such file"), open_archive(tmp_path / "no.zip"):
        pass
    with pytest.raises(ProductFileError, match="Is a directory"), open_archive(tmp_path):
        pass


def test_damage_anywhere_is_refused_or_harmless(opened) -> None:
    """Whatever is changed in the file, what is read is what was written, or an error of ours."""
    whole = ours()
    generator = random.Random(0)
    num_refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(generator.choice((1, 1, 2, 8))):
            # Names, sizes and offsets are at both ends: most of the damage goes there.
            at = generator.choice((generator.randrange(100), generator.randrange(-400, 0)))
            data[generator.choice((at, generator.randrange(len(data))))] = generator.randrange(256)
        try:
            assert opened(bytes(data)) == dict(members())
        except ProductFileError:
            num_refused += 1

    assert num_refused > 300
