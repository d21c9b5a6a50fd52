from __future__ import annotations

import json
import os
import resource
import signal
import time
import zipfile
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_server import FakeTriton, Fault, bytes_array, decode_inputs, serving

from dinspect_client import (
    InspectionClient,
    ProductFileError,
    ProtocolMismatch,
    RequestRejected,
    ServerFault,
    ServerUnreachable,
    archive,
)
from dinspect_client.wire import VERSION_FILES


@pytest.fixture
def file(client, tmp_path) -> Path:
    """Version 3 of the fake server's screw."""
    client.export_product("screw", tmp_path / "screw.zip")
    return tmp_path / "screw.zip"


def requests(triton) -> list[tuple[str, dict]]:
    inputs = [decode_inputs(request) for request in triton.requests_to("manage")]
    return [(one["product"][0].decode(), json.loads(one["request"][0])) for one in inputs]


def test_exported_file_holds_the_versions_files(client, triton, tmp_path) -> None:
    progress: list[int] = []

    version = client.export_product("screw", tmp_path / "screw.zip", on_progress=progress.append)

    stored = triton.store.files["screw", 3]
    with zipfile.ZipFile(tmp_path / "screw.zip") as found:
        assert {name: found.read(name) for name in found.namelist()} == stored
    assert version.reference == "screw@3"
    assert [path.name for path in tmp_path.iterdir()] == ["screw.zip"]
    assert progress == sorted(progress)
    assert progress[-1] == sum(map(len, stored.values()))
    assert len(progress) > 5  # the bank alone takes several parts


def test_pinned_version_is_exported_and_another_left_alone(client, triton, tmp_path) -> None:
    assert client.export_product("screw@1", tmp_path / "a.zip").version == 1

    with zipfile.ZipFile(tmp_path / "a.zip") as found:
        assert found.read("bank.safetensors") == triton.store.files["screw", 1]["bank.safetensors"]


def test_version_that_changes_meanwhile_does_not_mix(client, triton, tmp_path) -> None:
    """All parts are of the version that was in force at first."""
    version = client.export_product(
        "screw",
        tmp_path / "a.zip",
        on_progress=lambda _: triton.store.current.update(screw=1),
    )

    assert version.version == 3
    assert {product for product, _ in requests(triton)[1:]} == {"screw@3"}


def test_two_exports_of_a_version_are_the_same_file(client, file, tmp_path) -> None:
    client.export_product("screw@3", tmp_path / "again.zip")

    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_existing_file_is_not_overwritten_unless_asked(client, triton, tmp_path) -> None:
    path = tmp_path / "screw.zip"
    path.write_bytes(b"precious")

    with pytest.raises(ProductFileError, match="exists already"):
        client.export_product("screw", path)
    assert path.read_bytes() == b"precious"
    assert triton.requests == []

    client.export_product("screw", path, overwrite=True)
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize("where", ["missing/screw.zip", "file/screw.zip", "x" * 256])
def test_target_that_cannot_be_written_is_told(client, triton, tmp_path, where) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ProductFileError, match="cannot write .*(No such|Not a dir|name too long)"):
        client.export_product("screw", tmp_path / where)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_full_disk_is_told_and_leaves_nothing(client, triton, tmp_path) -> None:
    """The system itself refuses to write more than 2,000 bytes to one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ProductFileError, match=r"cannot write .*File too large"):
            client.export_product("screw", tmp_path / "screw.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


def test_interrupted_export_leaves_nothing(client, tmp_path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.export_product("screw", tmp_path / "screw.zip", on_progress=interrupt)

    assert list(tmp_path.iterdir()) == []


def test_real_interrupt_of_the_command_leaves_nothing(triton, start_command, tmp_path) -> None:
    triton.store.part_bytes = 10
    triton.delay_s = 0.05
    process = start_command("export-product", "screw", tmp_path / "screw.zip")
    deadline = time.monotonic() + 30
    while len(triton.requests) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    process.send_signal(signal.SIGINT)

    process.communicate(timeout=30)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_server_that_dies_in_the_middle_leaves_nothing(client, triton, tmp_path) -> None:
    def die(_: int) -> None:
        triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "gone", times=9)

    with pytest.raises(ServerUnreachable, match="gone"):
        client.export_product("screw", tmp_path / "screw.zip", on_progress=die)

    assert list(tmp_path.iterdir()) == []


def test_part_is_asked_for_again_when_unavailable_once(client, triton, tmp_path) -> None:
    def stumble(_: int) -> None:
        if not triton.faults:
            triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "busy", times=1)

    assert client.export_product("screw", tmp_path / "a.zip", on_progress=stumble).version == 3


def tampered(triton, change) -> None:
    """Let the server do its work and say something else."""
    original = triton._manage

    def tampering(inputs):
        outputs = original(inputs)
        asked, report = json.loads(inputs["request"][0]), json.loads(outputs["report"][0])
        change(asked, report, outputs)
        outputs["report"] = bytes_array(json.dumps(report))
        return outputs

    triton._manage = tampering


def content(data: bytes) -> np.ndarray:
    return np.array([data], dtype=np.object_)


def cut_short(asked, report, outputs) -> None:
    if asked["offset"]:
        outputs["content"] = content(b"")


def grow(asked, report, outputs) -> None:
    report["file_bytes"] += asked["offset"]


def overflow(asked, report, outputs) -> None:
    report["file_bytes"] = 10


def answer_by_another(asked, report, outputs) -> None:
    if asked["file"] != "bundle.json":
        outputs["bundle_version"] = np.array([2])


def flip(asked, report, outputs) -> None:
    if asked["file"] == "good_parts.safetensors":
        outputs["content"] = content(outputs["content"][0][::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_short, "0 bytes from 1000 on"),
        (grow, "is another one than it was"),
        (overflow, "1000 bytes from 0 on of a bundle.json of 10 bytes"),
        (answer_by_another, "is another one than it was"),
        (flip, "good_parts.safetensors of screw@3 is not the one its record tells of"),
    ],
)
def test_file_that_does_not_arrive_whole_is_not_written(
    client, triton, tmp_path, change, message
) -> None:
    tampered(triton, change)

    with pytest.raises(ServerFault, match=message):
        client.export_product("screw", tmp_path / "screw.zip")

    assert list(tmp_path.iterdir()) == []


def test_other_version_than_pinned_is_not_exported(client, triton, tmp_path) -> None:
    tampered(triton, lambda asked, report, outputs: outputs.update(bundle_version=np.array([2])))

    with pytest.raises(ServerFault, match="'screw@3' was answered by version 2"):
        client.export_product("screw@3", tmp_path / "screw.zip")


def test_record_of_another_version_is_not_exported(client, triton, tmp_path) -> None:
    files = triton.store.files
    files["screw", 3]["bundle.json"] = files["screw", 1]["bundle.json"]

    with pytest.raises(ServerFault, match=r"bundle\.json of screw@3 is that of screw@1"):
        client.export_product("screw", tmp_path / "screw.zip")


@pytest.mark.parametrize("size", [None, "10", 1.5])
def test_malformed_report_of_a_part_is_a_mismatch(client, triton, tmp_path, size) -> None:
    tampered(triton, lambda asked, report, outputs: report.update(file_bytes=size))

    with pytest.raises(ProtocolMismatch, match="expected a number"):
        client.export_product("screw", tmp_path / "screw.zip")


def test_record_of_any_length_is_not_read_into_memory(client, triton, tmp_path) -> None:
    tampered(triton, lambda asked, report, outputs: report.update(file_bytes=10**12))

    with pytest.raises(ServerFault, match="more than any has"):
        client.export_product("screw", tmp_path / "screw.zip")


def test_import_on_another_server_brings_the_same_files(file, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_CONTENT_BYTES", 700)
    other = FakeTriton()
    del other.store.versions["screw"]
    progress: list[int] = []
    with serving(other) as url, InspectionClient(url) as client:
        version = client.import_product(file, operator="ada", on_progress=progress.append)

    assert version.reference == "screw@1"
    assert version.change.origin == "screw@1"
    sent = [asked for _, asked in requests(other)]
    assert [asked["file"] for asked in sent] == sorted(
        (asked["file"] for asked in sent), key=VERSION_FILES.index
    )
    assert [asked["commit"] for asked in sent] == [False] * (len(sent) - 1) + [True]
    assert len({asked["session"] for asked in sent}) == 1
    assert {asked["operator"] for asked in sent} == {"ada"}
    assert len(progress) == len(sent) > 5
    with zipfile.ZipFile(file) as exported:
        for name in VERSION_FILES[1:]:
            assert other.store.files["screw", 1][name] == exported.read(name)


def test_import_under_another_name_makes_that_product(client, triton, file) -> None:
    version = client.import_product(file, "nut")

    assert version.reference == "nut@1"
    assert triton.store.versions["nut"][1]["bank_sha256"] == version.bank_sha256


def test_import_of_an_existing_product_is_its_newest_version(client, file) -> None:
    assert client.import_product(file).reference == "screw@4"


@pytest.mark.parametrize("name", ["", "screw@3", "x" * 65, "../screw"])
def test_unfit_name_is_refused_before_anything_is_sent(client, triton, file, name) -> None:
    triton.requests.clear()

    with pytest.raises(RequestRejected, match="no name to import a product under"):
        client.import_product(file, name)

    assert triton.requests == []


def test_damaged_file_is_refused_before_anything_is_sent(client, triton, file) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(b"partsparts")] ^= 1
    file.write_bytes(data)
    triton.requests.clear()

    with pytest.raises(ProductFileError, match=r"good_parts\.safetensors cannot be read"):
        client.import_product(file)

    assert triton.requests == []


def test_refused_import_is_told_and_not_repeated(client, triton, file) -> None:
    message = "the product was enrolled with backbone abababab, this server has cdcdcdcd"
    triton.requests.clear()
    triton.faults["manage"] = Fault(grpc.StatusCode.INVALID_ARGUMENT, message)

    with pytest.raises(RequestRejected, match="this server has"):
        client.import_product(file)

    assert len(triton.requests_to("manage")) == 1


def test_lost_part_is_noticed_and_nothing_imported(client, triton, file) -> None:
    def lose(asked, report, outputs) -> None:
        if asked["operation"] == "import" and "received" in report:
            report["received"] -= 1

    tampered(triton, lose)

    with pytest.raises(ServerFault, match=r"of \d+ sent of bundle\.json; no version was made"):
        client.import_product(file)

    assert list(triton.store.versions["screw"]) == [1, 2, 3]
    assert triton.store.imports == {}


def test_interrupted_import_is_forgotten_on_the_server(client, triton, file) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.import_product(file, on_progress=interrupt)

    assert list(triton.store.versions["screw"]) == [1, 2, 3]
    assert triton.store.imports == {}


@pytest.mark.parametrize("key", ["bank_sha256", "good_parts_sha256"])
def test_version_of_another_bank_than_sent_is_never_returned(client, triton, file, key) -> None:
    tampered(
        triton,
        lambda asked, report, outputs: report.update({key: "00"}) if key in report else None,
    )

    with pytest.raises(ServerFault, match=f"has another {key} than was sent"):
        client.import_product(file)


def test_part_of_an_import_is_never_sent_twice(client, triton, file) -> None:
    triton.requests.clear()
    triton.faults["manage"] = Fault(grpc.StatusCode.UNAVAILABLE, "queue full", times=1)

    with pytest.raises(ServerUnreachable, match="queue full"):
        client.import_product(file)

    assert len(triton.requests_to("manage")) == 1


def test_file_gets_the_rights_that_others_have(client, tmp_path) -> None:
    previous = os.umask(0o027)
    try:
        client.export_product("screw", tmp_path / "screw.zip")
    finally:
        os.umask(previous)

    assert (tmp_path / "screw.zip").stat().st_mode & 0o777 == 0o640
