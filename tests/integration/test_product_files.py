"""Products from one server to another: the files of a version, part by part."""

from __future__ import annotations

import json

import pytest
import tritonclient.grpc as triton
from integration.triton_calls import PLAIN, enroll, inspect, listed, manage, read_version, same
from tritonclient.utils import InferenceServerException

from dinspect_client.wire import MAX_CONTENT_BYTES

PART_BYTES = 1 << 20


@pytest.fixture(scope="module")
def client(served_fp32):
    with triton.InferenceServerClient(served_fp32.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def other(second_fp32):
    """A server with the same graph and a store of its own."""
    with triton.InferenceServerClient(second_fp32.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def foreign(served_sizes):
    """A server of other graphs."""
    with triton.InferenceServerClient(served_sizes.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def second_fp32(artefacts_dir, tmp_path_factory):
    from dinspect_server.assemble import ServingOptions, assemble
    from dinspect_server.embedded import EmbeddedTriton

    folder = tmp_path_factory.mktemp("second")
    (folder / "artefacts").mkdir()
    (folder / "artefacts" / "square").symlink_to(artefacts_dir / "dinov2_vits14_448")
    options = ServingOptions(precision="fp32", max_bank_bytes=64 << 20)
    assemble(folder / "artefacts", folder / "repository", options)
    with EmbeddedTriton(folder / "repository") as server:
        yield server


@pytest.fixture(scope="module")
def images(split):
    return [path.read_bytes() for path in split.enrolled[:4]]


@pytest.fixture(scope="module")
def exported(client, images, split):
    """A version that has been through a life, its files, and what it answers."""
    enroll(
        client, "travels", images[:2], operator="ada", num_neighbours=3, image_score="max_map",
        preprocessing="mask_rotation",
    )  # fmt: skip
    manage(client, "travels", "region", roi_px=[30, 30, 200, 200], min_defect_area_px=20)
    version, report, _ = manage(client, "travels", "threshold", threshold=0.3, normal_below=0.2)
    parts = [path.read_bytes() for path in (*split.defective[:2], split.functional[0])]
    answers = [inspect(client, "travels", part) for part in parts]
    return report, read_version(client, f"travels@{version}"), parts, answers


def send(client, product, files, session="s", operator=""):
    """Import files in parts; the report of the last one."""
    parts = [
        (name, offset, content[offset : offset + PART_BYTES])
        for name, content in files.items()
        for offset in range(0, len(content), PART_BYTES)
    ]
    for number, (name, offset, content) in enumerate(parts, start=1):
        answer = manage(
            client, product, "import", content=content, file=name, offset=offset, session=session,
            commit=number == len(parts), operator=operator,
        )  # fmt: skip
    return answer


def test_imported_product_gives_the_same_answers_to_the_last_bit(other, exported):
    report, files, parts, answers = exported
    assert len(files["bank.safetensors"]) > 2 * MAX_CONTENT_BYTES
    version, imported, _ = send(other, "arrived", files, operator="eve")
    assert version == 1
    change = imported["change"]
    assert (change["action"], change["operator"], change["origin"]) == (
        "imported", "eve", f"travels@{report['version']}",
    )  # fmt: skip
    kept = set(report) - {"product", "version", "change"}
    assert {key: imported[key] for key in kept} == {key: report[key] for key in kept}
    for part, answer in zip(parts, answers, strict=True):
        found = inspect(other, "arrived", part)
        assert found.pop("bundle_version")[0, 0] == 1
        assert same(found, {key: value for key, value in answer.items() if key != "bundle_version"})


def test_imported_product_has_a_life_of_its_own(other, exported):
    """What a version carries is enough for new thresholds, another region, and another journey."""
    report, files, _, _ = exported
    send(other, "lives", files)
    _, recalibrated, _ = manage(other, "lives", "threshold", false_positive_rate=0.5)
    assert recalibrated["calibration"]["method"] == "leave_one_out"
    _, wider, _ = manage(other, "lives", "region", roi_px=[])
    assert wider["region"]["inspected"] == ["1" * 32] * 32
    assert read_version(other, "lives@1")["bank.safetensors"] == files["bank.safetensors"]
    # Once more under a name that is taken: a new version, put in force.
    assert send(other, "lives", files)[0] == 4
    assert listed(other, "lives")[0]["current"] == 4
    assert wider["bank_sha256"] == report["bank_sha256"]


def test_product_of_another_backbone_is_refused(foreign, exported):
    _, files, _, _ = exported
    with pytest.raises(InferenceServerException, match="was enrolled with backbone .* this server"):
        send(foreign, "stranger", files)
    assert "stranger" not in [one["product"] for one in listed(foreign)]


def changed(files, name, position=-1):
    """The files with one bit of one of them turned over."""
    content = bytearray(files[name])
    content[position] ^= 1
    return files | {name: bytes(content)}


def recorded(files, **fields):
    record = json.loads(files["bundle.json"]) | fields
    return files | {"bundle.json": json.dumps(record).encode()}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda files: changed(files, "bank.safetensors"), "memory bank is damaged"),
        (lambda files: changed(files, "good_parts.safetensors"), "calibration is damaged"),
        (lambda files: changed(files, "bundle.json", 0), "record cannot be used"),
        (lambda files: recorded(files, format_version=99), "format_version is 99"),
        (lambda files: recorded(files, threshold=None), "threshold is None"),
        (lambda files: recorded(files, num_patches=7), "."),
        (lambda files: recorded(files, more="x"), "more"),
        (lambda files: {**files, "bank.safetensors": b"x"}, "memory bank is damaged"),
        (lambda files: dict(list(files.items())[:2]), r"lacks good_parts\.safetensors"),
    ],
)
def test_damaged_product_is_refused_and_leaves_nothing(
    other, second_fp32, exported, damage, reason
):
    _, files, parts, _ = exported
    with pytest.raises(InferenceServerException, match=reason) as caught:
        send(other, "broken", damage(files))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "broken" not in [one["product"] for one in listed(other)]
    assert not list((second_fp32.repository / "banks").glob(".*.partial"))
    with pytest.raises(InferenceServerException, match="unknown product"):
        inspect(other, "broken", parts[0])


def test_parts_must_follow_each_other(other, exported):
    _, files, _, _ = exported
    bank = files["bank.safetensors"]
    first = {"file": "bank.safetensors", "session": "gap"}
    manage(other, "gap", "import", content=bank[:100], offset=0, **first)
    with pytest.raises(InferenceServerException, match="has 100 bytes so far, .* begins at 200"):
        manage(other, "gap", "import", content=bank[200:300], offset=200, **first)
    # The session is gone with what it had: the next part of it cannot be continued either.
    with pytest.raises(InferenceServerException, match="has 0 bytes so far"):
        manage(other, "gap", "import", content=bank[100:200], offset=100, **first)
    manage(other, "gap", "import", content=bank[:100], offset=0, **first)
    with pytest.raises(InferenceServerException, match="is for 'gap', not 'else'"):
        manage(other, "else", "import", content=bank[100:200], offset=100, **first)
    manage(other, "gap", "import", content=bank[100:200], offset=100, **first)


def test_import_that_takes_too_much_room_is_refused(other):
    """The second server allows 64 MiB for banks, whose files may be larger, but not twice."""
    block = bytes(MAX_CONTENT_BYTES)
    keys = {"file": "bank.safetensors", "session": "large"}
    offset = 0
    while offset + len(block) <= 128 << 20:
        manage(other, "large", "import", content=block, offset=offset, **keys)
        offset += len(block)
    with pytest.raises(InferenceServerException, match="more than the 134217728 bytes"):
        manage(other, "large", "import", content=block, offset=offset, **keys)


def test_older_version_can_be_read_and_nothing_else_can(client, images):
    enroll(client, "read", images[:1], **PLAIN)
    enroll(client, "read", images[:2], **PLAIN)
    assert json.loads(read_version(client, "read@1")["bundle.json"])["version"] == 1
    size = manage(client, "read", "read", file="bundle.json")[1]["file_bytes"]
    assert manage(client, "read", "read", file="bundle.json", offset=size)[2] == b""
    for keys, reason in (
        ({"file": "../../changes.jsonl"}, "expected one of"),
        ({"file": "bundle.json", "offset": size + 1}, "none from"),
        ({}, "file is None"),
    ):
        with pytest.raises(InferenceServerException, match=reason):
            manage(client, "read", "read", **keys)
    with pytest.raises(InferenceServerException, match="no version 9"):
        manage(client, "read@9", "read", file="bundle.json")
