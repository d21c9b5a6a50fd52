"""The `manage` model answers or refuses with a reason; the rest is in the modules it calls."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
import triton_stub
from bundles import AT, make_bank, publish
from exports import SERVED
from PIL import Image
from store_files import hidden

import product_files
from bank_store import BankStore
from version_files import BANK_FILE, BUNDLE_FILE, GOOD_PARTS_FILE
from wire import VERSION_FILES


@pytest.fixture
def store(tmp_path):
    return BankStore(tmp_path / "banks")


@pytest.fixture
def manage(tmp_path, store, monkeypatch):
    return triton_stub.load(
        monkeypatch,
        "manage",
        tmp_path,
        served_sizes=json.dumps([dataclasses.asdict(SERVED)]),
        max_bank_bytes="20000000",
        search_precision="fp32",
        students_runtime="openvino",
        students_precision="fp32",
    )


def respond(manage, product, content=None, text=None, **asked):
    """The model's response; ``text`` in the place of a request object."""
    inputs = {"product": product, "request": json.dumps(asked) if text is None else text}
    if content is not None:
        inputs["content"] = content
    (response,) = manage.execute([triton_stub.request(**inputs)])
    return response


def ask(manage, product, operation, content=None, **asked):
    """Version, report and content of an answer."""
    response = respond(manage, product, content, operation=operation, **asked)
    assert response.error is None, response.error
    outputs = response.outputs
    return (
        int(outputs["bundle_version"][0]),
        json.loads(outputs["report"][0]),
        outputs["content"][0],
    )


def refusal(manage, *args, **asked):
    """Why a request is refused: as invalid, and not by a fault."""
    response = respond(manage, *args, **asked)
    assert response.error is not None, response.outputs
    assert response.error.code == "INVALID_ARG", (response.error, triton_stub.Logger.errors)
    return str(response.error)


def test_history_tells_of_every_version_and_every_change(manage, store):
    bundles = [publish(store), publish(store, activate=False)]
    publish(store, "nut")
    version, report, content = ask(manage, "screw", "history")
    assert (version, report["product"], report["current"], content) == (1, "screw", 1, b"")
    assert report["versions"] == [json.loads(bundle.to_json()) for bundle in bundles]
    assert report["changes"] == store.changes("screw")
    assert ask(manage, "screw@2", "history")[:2] == (1, report)  # what is in force stays so


def test_damaged_version_does_not_hide_the_others_of_its_history(manage, store):
    publish(store)
    second = publish(store)
    store.file("screw", 1, BUNDLE_FILE).write_text("{}")
    _, report, _ = ask(manage, "screw", "history")
    assert set(report["versions"][0]) == {"product", "version", "error"}
    assert "damaged" in report["versions"][0]["error"]
    assert report["versions"][1] == asdict(second)


def test_activate_goes_back(manage, store):
    first = publish(store)
    publish(store)
    assert ask(manage, "screw@1", "activate", operator="bob") == (1, asdict(first), b"")
    assert store.resolve("screw") == ("screw", 1)
    assert store.changes("screw")[-1]["operator"] == "bob"
    assert store.changes("screw")[-1]["at"] > AT
    assert "say which version of 'screw' to activate: screw@3" in refusal(
        manage, "screw", operation="activate"
    )
    assert "no version 3; it has [1, 2]" in refusal(manage, "screw@3", operation="activate")


def test_delete_takes_a_version_or_all(manage, store):
    for _ in range(3):
        publish(store)
    assert ask(manage, "screw@1", "delete") == (1, {"product": "screw", "deleted": [1]}, b"")
    assert "is in force" in refusal(manage, "screw@3", operation="delete")
    assert ask(manage, "screw", "delete") == (0, {"product": "screw", "deleted": [2, 3]}, b"")
    assert "unknown product 'screw'" in refusal(manage, "screw", operation="delete")


def test_thresholds_and_region_make_versions(manage, store):
    publish(store)
    version, report, _ = ask(manage, "screw", "threshold", threshold=0.5, operator="bob")
    assert (version, report["threshold"], report["change"]["operator"]) == (2, 0.5, "bob")
    version, report, _ = ask(manage, "screw", "region", roi_px=[0, 0, 50, 100])
    assert (version, report["threshold"]) == (3, 0.5)
    assert report["region"]["inspected"] == ["100", "100"]
    picture = io.BytesIO()
    Image.new("RGB", (150, 100)).save(picture, "PNG")
    version, report, _ = ask(manage, "screw", "region", picture.getvalue())
    assert (version, report["region"]["roi_px"]) == (4, [0, 0, 50, 100])
    assert report["region"]["ignore_mask_sha256"]
    assert store.read_bundle("screw", 4).region.inspected == ["100", "100"]


@pytest.mark.parametrize("operation", ["threshold", "region"])
def test_only_the_version_in_force_is_changed(manage, store, operation):
    publish(store)
    asked = {"threshold": 0.5} if operation == "threshold" else {"min_defect_area_px": 5}
    said = refusal(manage, "screw@1", operation=operation, **asked)
    assert "what is changed is the version in force; activate screw@1 first" in said
    assert "unknown product 'nut'" in refusal(manage, "nut", operation=operation, **asked)


@pytest.mark.parametrize("bank", [make_bank(), make_bank(num_lists=2)])
def test_what_is_read_can_be_imported(manage, store, monkeypatch, bank):
    monkeypatch.setattr(product_files, "MAX_CONTENT_BYTES", 150)
    original = publish(store, bank=bank)
    for number, name in enumerate(VERSION_FILES):
        read, size = b"", 1
        while len(read) < size:
            version, report, part = ask(manage, "screw", "read", file=name, offset=len(read))
            assert (version, report["product"]) == (1, "screw")
            size = report["file_bytes"]
            last = number == 2 and len(read) + len(part) == size
            version, report, _ = ask(
                manage, "washer", "import", part,
                file=name, offset=len(read), session="s", commit=last, operator="bob",
            )  # fmt: skip
            read += part
            if not last:
                assert (version, report) == (0, {"product": "washer", "received": len(read)})
    assert version == 1
    assert report["change"]["origin"] == "screw@1"
    assert report["change"]["operator"] == "bob"
    assert report["bank_sha256"] == original.bank_sha256
    assert store.products() == {"screw": [1], "washer": [1]}
    assert hidden(store) == [".changes.jsonl", ".lock"]


def test_failed_part_ends_the_import(manage, store):
    ask(manage, "washer", "import", b"{", file=BUNDLE_FILE, session="s")
    assert "begins at 9" in refusal(
        manage, "washer", b"}", operation="import", file=BUNDLE_FILE, session="s", offset=9
    )
    assert [name for name in hidden(store) if name.endswith(".partial")] == []
    # The session begins anew, and does not go on with what was there.
    assert "bundle.json has 0 bytes so far" in refusal(
        manage, "washer", b"}", operation="import", file=BUNDLE_FILE, session="s", offset=1
    )
    assert "lacks bank.safetensors, good_parts.safetensors" in refusal(
        manage, "washer", b"{}", operation="import", file=BUNDLE_FILE, session="s", commit=True
    )


def test_import_is_bounded_by_twice_the_memory_for_banks(manage):
    ask(manage, "washer", "import", b"x" * 40_000_000, file=BANK_FILE, session="s")
    assert "more than the 40000000 bytes" in refusal(
        manage, "washer", b"x", operation="import", file=BANK_FILE, session="s", offset=40_000_000
    )


@pytest.mark.parametrize(
    ("limit", "served", "reason"),
    [
        ("1000", SERVED, "bytes when loaded, the server allows 1000"),
        (
            "20000000",
            dataclasses.replace(SERVED, onnx_sha256="e" * 64),
            "was enrolled with backbone",
        ),
    ],
)
def test_what_could_not_answer_is_not_put_in_force(
    tmp_path, store, monkeypatch, limit, served, reason
):
    """Not by going back, and not by an import: the line would stop at the next request."""
    for seed in range(2):
        publish(store, seed=seed)
    strict = triton_stub.load(
        monkeypatch,
        "manage",
        tmp_path,
        served_sizes=json.dumps([dataclasses.asdict(served)]),
        max_bank_bytes=limit,
        search_precision="fp32",
        students_runtime="openvino",
        students_precision="fp32",
    )
    assert reason in refusal(strict, "screw@1", operation="activate")
    for name in VERSION_FILES:
        content = store.file("screw", 1, name).read_bytes()
        last = name == VERSION_FILES[-1]
        asked = {"operation": "import", "file": name, "session": "s", "commit": last}
        if not last and limit != "1000":
            respond(strict, "washer", content, **asked)
    if limit != "1000":
        assert reason in refusal(strict, "washer", content, **asked)
    assert store.products() == {"screw": [1, 2]}
    assert store.resolve("screw") == ("screw", 2)


def test_leftovers_of_a_killed_import_are_removed_at_the_start(tmp_path, store, monkeypatch):
    (store.root / ".0123.partial").mkdir()
    triton_stub.load(
        monkeypatch,
        "manage",
        tmp_path,
        served_sizes="[]",
        max_bank_bytes="1",
        search_precision="fp32",
        students_runtime="openvino",
        students_precision="fp32",
    )
    assert hidden(store) == [".lock"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the request is no JSON"),
        ("{", "the request is no JSON"),
        ("[" * 200_000, "nested too deep"),
        ("[]", "must be a JSON object"),
        ("{}", "'operation' is None, expected one of history, activate"),
        ('{"operation": "x"}', "'operation' is 'x'"),
        ('{"operation": ["history"]}', "'operation' is ['history']"),
        ('{"operation": {}}', "'operation' is {}"),
        ('{"operation": "history", "x": 1}', "unknown options ['x']"),
        ('{"operation": "history", "operator": 5}', "'operator' is 5, expected a short string"),
        ('{"operation": "activate", "operator": "\\ud800"}', "expected a short string"),
        ('{"operation": "read"}', "file is None, expected one of bundle.json"),
        ('{"operation": "read", "file": []}', "file is [], expected one of"),
        ('{"operation": "read", "file": "../current"}', "file is '../current', expected one of"),
        ('{"operation": "read", "file": "bundle.json", "offset": -1}', "'offset' is -1"),
        ('{"operation": "read", "file": "bundle.json", "offset": 1.0}', "'offset' is 1.0"),
        ('{"operation": "read", "file": "bundle.json", "offset": 999999999}', "none from"),
        ('{"operation": "import", "file": "bundle.json"}', "'session' is '', expected a name"),
        ('{"operation": "import", "session": "s"}', "file is None"),
        ('{"operation": "import", "session": 5}', "'session' is 5"),
        ('{"operation": "import", "session": "s", "commit": 1}', "'commit' is 1"),
        ('{"operation": "import", "session": "s", "offset": "0"}', "'offset' is '0'"),
        ('{"operation": "threshold"}', "say at least one of"),
        ('{"operation": "threshold", "threshold": 1e999}', "a cosine distance"),
        ('{"operation": "threshold", "threshold": NaN}', "a cosine distance"),
        ('{"operation": "region"}', "say at least one of"),
    ],
)
def test_request_that_makes_no_sense_is_refused(manage, store, text, reason):
    publish(store)
    assert reason in refusal(manage, "screw", text=text)
    assert store.products() == {"screw": [1]}
    assert ask(manage, "screw", "history")[0] == 1  # and the next one is answered


@pytest.mark.parametrize("product", ["", "../x", "nut", "screw@9", "screw@0", ".numbers", "a" * 65])
@pytest.mark.parametrize(
    "operation", ["history", "activate", "delete", "threshold", "region", "read", "import"]
)
def test_product_that_is_none_is_refused(manage, store, product, operation):
    if (product, operation) == ("nut", "import"):
        return  # the name of a product to be
    publish(store)
    asked = {
        "threshold": {"threshold": 0.5},
        "region": {"roi_px": []},
        "read": {"file": BUNDLE_FILE},
        "import": {"file": BUNDLE_FILE, "session": "s"},
    }
    if (product, operation) == ("screw@9", "history"):
        return  # the version asked for does not matter
    assert refusal(manage, product, operation=operation, **asked.get(operation, {}))
    assert store.products() == {"screw": [1]}


def test_bad_request_does_not_fail_its_batch(manage, store):
    publish(store)
    good = {"product": "screw", "request": '{"operation": "history"}'}
    requests = [good, good | {"product": "nut"}, good | {"request": "x"}, good]
    responses = manage.execute([triton_stub.request(**one) for one in requests])
    assert [response.error is None for response in responses] == [True, False, False, True]


def test_product_that_is_not_utf8_is_refused(manage):
    assert "not UTF-8" in refusal(manage, b"\xff", operation="history")


def test_fault_tells_its_kind_but_no_path(manage, store, monkeypatch):
    publish(store)

    def full_disk(*args):
        raise OSError(28, "No space left on device", str(store.root))

    monkeypatch.setattr(BankStore, "read_bank", full_disk)
    response = respond(manage, "screw@1", operation="activate")
    assert response.error.code == "INTERNAL"
    assert str(response.error) == "internal fault (OSError); the server's log has the details"
    assert str(store.root) in triton_stub.Logger.errors[0]


def test_answers_are_arrays_as_the_contract_has_them(manage, store):
    publish(store)
    outputs = respond(manage, "screw", operation="read", file=GOOD_PARTS_FILE).outputs
    assert outputs["bundle_version"].dtype == np.int64
    assert [array.shape for array in outputs.values()] == [(1,)] * 3
