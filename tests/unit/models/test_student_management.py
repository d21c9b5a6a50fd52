"""What `manage` does for L2BT's products; what is of both methods is tested with the banks."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import asdict

import bundles
import pytest
import triton_stub
from store_files import hidden
from trainings import (
    ONNX_SHA256,
    SERVED,
    graph,
    known_answer,
    publish_trained,
    training_files,
)

from bank_store import BankStore
from dinspect_server.l2bt_ensembles import write_templates
from dinspect_server.triton_config import BackboneModel
from product_ensembles import ProductEnsembles
from students_store import StudentsStore
from wire import TRAINING_FILES

ENSEMBLES = ["l2bt_screw_28", "l2bt_screw_28_raw"]


@pytest.fixture
def store(tmp_path):
    return StudentsStore(tmp_path / "students")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the model in a repository, with whatever sizes."""
    write = tmp_path / "models" / "manage" / "1"
    write.mkdir(parents=True)
    write_templates(write, [BackboneModel("dinov2_vits14_28", (2, 2), 8, (4, 8, 12))])

    def load(*sizes, max_bank_bytes="20000000"):
        return triton_stub.load(
            monkeypatch, "manage", tmp_path, search_precision="fp32", students_runtime="openvino", students_precision="fp32",
            max_bank_bytes=max_bank_bytes,
            served_sizes=json.dumps([dataclasses.asdict(size) for size in sizes or (SERVED,)]),
        )  # fmt: skip

    return load


@pytest.fixture
def manage(start):
    return start()


def respond(manage, product, content=None, **asked):
    inputs = {"product": product, "request": json.dumps({"method": "l2bt"} | asked)}
    if content is not None:
        inputs["content"] = content
    (response,) = manage.execute([triton_stub.request(**inputs)])
    return response


def ask(manage, product, operation, content=None, **asked):
    """Version and report of an answer."""
    response = respond(manage, product, content, operation=operation, **asked)
    assert response.error is None, (response.error, triton_stub.Logger.errors)
    return int(response.outputs["bundle_version"][0]), json.loads(response.outputs["report"][0])


def refusal(manage, *args, **asked):
    """Why a request is refused: as invalid, and not by a fault."""
    response = respond(manage, *args, **asked)
    assert response.error is not None, response.outputs
    assert response.error.code == "INVALID_ARG", (response.error, triton_stub.Logger.errors)
    return str(response.error)


def publish(manage, product="screw", files=None, act=ask, **last):
    """All files in one part each; the answer to the last."""
    files = files or training_files()
    for name in TRAINING_FILES[:-1]:
        ask(manage, product, "publish", files[name], file=name, session="s")
    name = TRAINING_FILES[-1]
    asked = {"file": name, "session": "s", "commit": True} | last
    if act is ask:
        return ask(manage, product, "publish", files[name], **asked)
    return refusal(manage, product, files[name], operation="publish", **asked)


def served(tmp_path):
    return sorted(name for name in os.listdir(tmp_path / "models") if name.startswith("l2bt_"))


def test_published_students_are_a_version_and_an_ensemble(manage, store, tmp_path):
    version, report = publish(manage, operator="ada")
    assert version == 1
    assert report == asdict(store.read_bundle("screw", 1))
    assert report["change"]["operator"] == "ada"
    assert report["backbone"]["runtime"] == "triton-onnxruntime"
    assert served(tmp_path) == ENSEMBLES
    assert hidden(store) == [".changes.jsonl", ".lock"]


def test_students_arrive_in_parts(manage, store):
    files = training_files()
    for name, content in files.items():
        for offset in range(0, len(content), 150):
            piece = content[offset : offset + 150]
            last = name == TRAINING_FILES[-1] and offset + 150 >= len(content)
            version, report = ask(
                manage, "screw", "publish", piece, file=name, offset=offset, session="p",
                commit=last,
            )  # fmt: skip
            if not last:
                assert (version, report) == (
                    0, {"product": "screw", "received": offset + len(piece)},
                )  # fmt: skip
                assert store.products() == {}
    assert version == 1
    assert store.students_file(store.read_bundle("screw", 1)).read_bytes() == graph()


def test_version_may_wait(manage, store):
    publish(manage)
    assert publish(manage, files=training_files(2.0), activate=False)[0] == 2
    assert store.resolve("screw") == ("screw", 1)
    assert ask(manage, "screw@2", "activate")[0] == 2
    assert store.resolve("screw") == ("screw", 2)
    assert "'activate' is 1, expected true or false" in publish(manage, act=refusal, activate=1)
    assert [name for name in hidden(store) if name.endswith(".partial")] == []


def test_history_thresholds_and_rollback(manage):
    publish(manage)
    version, report = ask(manage, "screw", "threshold", threshold=0.5, operator="bob")
    assert (version, report["threshold"], report["change"]["operator"]) == (2, 0.5, "bob")
    assert ask(manage, "screw@1", "activate")[0] == 1
    current, history = ask(manage, "screw", "history")
    assert (current, [one["version"] for one in history["versions"]]) == (1, [1, 2])
    assert [one["action"] for one in history["changes"]] == ["published", "thresholds", "activated"]
    assert "activate screw@2 first" in refusal(
        manage, "screw@2", operation="threshold", threshold=1
    )


@pytest.mark.parametrize("operation", ["region", "read", "import"])
def test_operation_of_the_other_method_is_refused(manage, operation):
    publish(manage)
    assert "one of history, activate, delete, threshold, publish for l2bt" in refusal(
        manage, "screw", operation=operation, file="bundle.json", roi_px=[]
    )


def test_other_method_has_no_publication(manage):
    said = refusal(manage, "screw", b"x", operation="publish", method="anomaly_dino", session="s")
    assert "for anomaly_dino" in said
    for method in ("x", 5, [], {}):
        assert "'method' is" in refusal(manage, "screw", operation="history", method=method)


def test_methods_of_one_name_have_lives_of_their_own(manage, store, tmp_path):
    banks = BankStore(tmp_path / "banks")
    bundles.publish(banks)
    bundles.publish(banks)
    publish(manage)
    assert ask(manage, "screw", "history")[0] == 1
    assert ask(manage, "screw", "history", method="anomaly_dino")[0] == 2
    assert ask(manage, "screw", "delete")[1]["deleted"] == [1]
    assert (store.products(), banks.products()) == ({}, {"screw": [1, 2]})
    publish(manage)
    assert ask(manage, "screw", "delete", method="anomaly_dino")[1]["deleted"] == [1, 2]
    assert (store.products(), banks.products()) == ({"screw": [2]}, {})
    assert served(tmp_path) == ENSEMBLES


def test_ensembles_go_with_the_product_and_not_with_a_version(manage, tmp_path):
    publish(manage)
    publish(manage, "nut")
    publish(manage, files=training_files(2.0))
    assert ask(manage, "screw@1", "delete")[1]["deleted"] == [1]
    assert ENSEMBLES[0] in served(tmp_path)
    assert ask(manage, "screw", "delete")[1]["deleted"] == [2]
    assert served(tmp_path) == ["l2bt_nut_28", "l2bt_nut_28_raw"]
    assert "unknown product 'screw'" in refusal(manage, "screw", operation="delete")


def test_other_blocks_need_another_product(manage, store, tmp_path):
    publish(manage)
    other = training_files(layers=[4, 12], students=graph(layers=(4, 12)))
    said = publish(manage, files=other, act=refusal)
    assert "'l2bt_screw_28' is served for students of other blocks than [4, 12]" in said
    assert store.products() == {"screw": [1]}
    assert publish(manage, "nut", other)[0] == 1
    ask(manage, "screw", "delete")
    assert publish(manage, files=other)[0] == 2
    assert "patch_tokens_4" in (tmp_path / "models" / ENSEMBLES[0] / "config.pbtxt").read_text()


def test_ensemble_of_a_killed_publication_stands_in_nobodys_way(manage, store, tmp_path):
    """It is there before the version; students of other blocks may come next, or nobody."""
    ensembles = manage.operations["l2bt"]["publish"].__self__._ensembles
    for product in ("screw", "nut"):
        ensembles.ensure(product, "28", [8, 12])
    assert "unknown product 'nut'" in refusal(manage, "nut", operation="delete")
    assert served(tmp_path) == ENSEMBLES
    other = training_files(layers=[4, 12], students=graph(layers=(4, 12)))
    assert publish(manage, files=other)[0] == 1
    assert "patch_tokens_4" in (tmp_path / "models" / ENSEMBLES[0] / "config.pbtxt").read_text()


def test_refused_training_leaves_nothing_and_ends_its_session(manage, store, tmp_path):
    said = publish(manage, files=training_files(dim=16), act=refusal)
    assert "and width 16" in said
    assert store.products() == {}
    assert served(tmp_path) == []
    assert [name for name in hidden(store) if name.endswith(".partial")] == []
    assert "lacks training.json, students.onnx" in refusal(
        manage, "screw", b"x", operation="publish", session="s", commit=True,
        file="good_parts.safetensors",
    )  # fmt: skip
    assert publish(manage)[0] == 1


def test_fault_while_the_ensemble_is_made_leaves_no_version(manage, store, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device", str(store.root))

    monkeypatch.setattr(ProductEnsembles, "ensure", full_disk)
    responses = [
        respond(
            manage, "screw", content, operation="publish", file=name, session="s",
            commit=name == TRAINING_FILES[-1],
        )
        for name, content in training_files().items()
    ]  # fmt: skip
    assert str(responses[-1].error).startswith("internal fault (OSError)")
    assert store.products() == {}
    assert [name for name in hidden(store) if name.endswith(".partial")] == []


@pytest.mark.parametrize(
    "product", ["", "../x", "screw@1", ".hidden", "a/b", "a" * 65, "a b", "a\n", "é", "@PRODUCT@"]
)
def test_name_that_is_none_is_refused(manage, store, tmp_path, product):
    said = refusal(manage, product, b"{}", operation="publish", file=TRAINING_FILES[0], session="s")
    assert "is no name for a product" in said
    assert hidden(store) == [".lock"]
    for operation in ("delete", "activate", "threshold", "history"):
        if product != "screw@1":
            assert "is not a name" in refusal(manage, product, operation=operation, threshold=1)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"file": "bundle.json"}, "file is 'bundle.json', expected one of training.json, students"),
        ({"file": "../current"}, "file is '../current'"),
        ({"file": None}, "file is None"),
        ({"file": []}, "file is []"),
        ({"session": ""}, "'session' is ''"),
        ({"session": None}, "'session' is ''"),
        ({"offset": -1}, "'offset' is -1"),
        ({"offset": True}, "'offset' is True"),
        ({"offset": 5}, "has 0 bytes so far, the part begins at 5"),
        ({"commit": 1}, "'commit' is 1"),
        ({"commit": True}, "lacks students.onnx, good_parts.safetensors"),
        ({"commit": True, "activate": "yes"}, "'activate' is 'yes'"),
    ],
    ids=str,
)
def test_part_that_makes_no_sense_is_refused(manage, store, asked, reason):
    part = {"operation": "publish", "file": TRAINING_FILES[0], "session": "s"} | asked
    assert reason in refusal(manage, "screw", b"{}", **part)
    assert store.products() == {}
    assert publish(manage)[0] == 1


def test_session_is_one_products(manage, store):
    ask(manage, "screw", "publish", b"{", file=TRAINING_FILES[0], session="s")
    assert "is for 'screw', not 'nut'" in refusal(
        manage, "nut", b"}", operation="publish", file=TRAINING_FILES[0], session="s", offset=1
    )
    # It goes on, until a part does not fit.
    ask(manage, "screw", "publish", b"}", file=TRAINING_FILES[0], session="s", offset=1)
    assert "has 2 bytes so far" in refusal(
        manage, "screw", b"x", operation="publish", file=TRAINING_FILES[0], session="s", offset=1
    )
    assert [name for name in hidden(store) if name.endswith(".partial")] == []


def test_training_is_bounded_by_the_memory_for_students(start):
    manage = start(max_bank_bytes="1000")
    ask(manage, "screw", "publish", b"x" * 1000, file=TRAINING_FILES[1], session="s")
    assert "more than the 1000 bytes" in refusal(
        manage, "screw", b"x", operation="publish", file=TRAINING_FILES[1], session="s", offset=1000
    )


@pytest.mark.parametrize(
    ("served_size", "reason"),
    [
        (
            dataclasses.replace(SERVED, onnx_sha256="e" * 64),
            f"of backbone {ONNX_SHA256[:12]}, which",
        ),
        (dataclasses.replace(SERVED, layers=(4, 12)), r"trained on blocks [8, 12] of backbone"),
    ],
)
def test_what_could_not_answer_is_not_put_in_force(start, store, served_size, reason):
    for scale in (1.0, 2.0):
        publish_trained(store, scale=scale)
    assert reason in refusal(start(served_size), "screw@1", operation="activate")
    assert store.resolve("screw") == ("screw", 2)


def test_students_that_never_fit_are_neither_published_nor_put_in_force(start, store):
    """The line would stop at the next request."""
    wide = dataclasses.replace(SERVED, dim=64)
    files = training_files(dim=64, students=graph(dim=64), known_answer=known_answer(dim=64))
    needed = len(graph(dim=64)) + 4 * 6 * 4 * 64
    assert sum(map(len, files.values())) < needed - 1  # all of them arrive
    for _ in range(2):
        publish(start(wide, max_bank_bytes=str(needed)), files=files)
    strict = start(wide, max_bank_bytes=str(needed - 1))
    reason = f"need {needed} bytes when loaded, the server allows {needed - 1}"
    assert reason in publish(strict, "nut", files, act=refusal)
    assert reason in refusal(strict, "screw@1", operation="activate")
    assert store.products() == {"screw": [1, 2]}
    assert store.resolve("screw") == ("screw", 2)


def test_version_put_in_force_has_its_ensemble(start, store, tmp_path):
    """As after a backup was copied back while the server ran."""
    for scale in (1.0, 2.0):
        publish_trained(store, scale=scale)
    assert served(tmp_path) == []
    assert ask(start(), "screw@1", "activate")[0] == 1
    assert served(tmp_path) == ENSEMBLES


def test_leftovers_of_a_killed_publication_are_removed_at_the_start(start, store):
    (store.root / ".0123.partial" / "version").mkdir(parents=True)
    start()
    assert hidden(store) == [".lock"]
