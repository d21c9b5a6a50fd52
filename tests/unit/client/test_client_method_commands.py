"""Commands for products by l2bt: the same words, and no mixing with what the bank has."""

from __future__ import annotations

import io
import json
import sys

import pytest
from fake_server import ENSEMBLE, decode_inputs
from fake_students import STUDENTS_ENSEMBLE, students_product

from dinspect_client import StudentsVersion, wire
from dinspect_client.commands.text import describe_version
from dinspect_client.main import main
from dinspect_client.overlay import read_rgb


@pytest.fixture(autouse=True)
def _served(_address: None, triton) -> None:
    """All commands here go to the fake server, whose screw is inspected by both methods."""
    triton.products["screw by l2bt"] = students_product("screw")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def last_request(triton) -> tuple[str, dict]:
    inputs = decode_inputs(triton.requests_to("manage")[-1])
    return inputs["product"][0].decode(), json.loads(inputs["request"][0])


def test_inspect_asks_the_method_that_is_said(image_path, triton, capsys) -> None:
    assert main(["inspect", "screw", str(image_path), "--method", "l2bt", "--json"]) == 0
    assert triton.requests[-1].model_name == STUDENTS_ENSEMBLE
    assert json.loads(lines_of(capsys)[0])["method"] == "l2bt"
    assert main(["inspect", "screw", str(image_path), "--json"]) == 0
    assert triton.requests[-1].model_name == ENSEMBLE
    assert json.loads(lines_of(capsys)[0])["method"] == "anomaly_dino"


def test_picture_says_the_method(image_path, tmp_path) -> None:
    pictures = []
    for method in wire.METHODS:
        assert main(["inspect", "screw", str(image_path), "--method", method]) == 0
        pictures.append(read_rgb(tmp_path / "part.inspection.png"))

    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()


def test_inspect_tells_that_a_product_has_no_students(image_path, triton, capsys) -> None:
    del triton.products["screw by l2bt"]

    assert main(["inspect", "screw", str(image_path), "--method", "l2bt"]) == 2

    assert "cannot be inspected by l2bt, only by anomaly_dino" in lines_of(capsys)[0]


def test_products_show_the_method(capsys) -> None:
    assert main(["products"]) == 0

    head, banks, students = lines_of(capsys)
    assert head.split()[1] == "METHOD"
    assert banks.split()[:3] == ["screw", "anomaly_dino", "3"]
    assert students.split()[:6] == ["screw", "l2bt", "2", "1,2", "400x300", STUDENTS_ENSEMBLE]
    assert head.index("METHOD") == banks.index("anomaly_dino") == students.index("l2bt")


def test_history_prints_the_versions_of_students(capsys) -> None:
    assert main(["history", "screw", "--method", "l2bt"]) == 0

    _, first, second, _, _, *changes = lines_of(capsys)
    assert first.split()[:3] == ["1", "published", "ada"]
    assert second.split()[:5] == ["*", "2", "thresholds", "1", "ada"]
    assert second.split()[-5:] == ["20", "15360", "0.5", "0.25", "cross_fit"]
    assert [line.split()[2] for line in changes] == ["published", "thresholds"]


def test_history_json_of_students_is_the_servers_report(triton, capsys) -> None:
    assert main(["history", "screw", "--method", "l2bt", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["versions"] == list(triton.students.versions["screw"].values())


def test_rollback_of_students_says_the_method(triton, capsys) -> None:
    assert main(["rollback", "screw", "--method", "l2bt", "--operator", "ada"]) == 0

    asked = {"operation": "activate", "method": "l2bt", "operator": "ada"}
    assert last_request(triton) == ("screw@1", asked)
    assert lines_of(capsys) == [
        "screw (l2bt) version 1 is in force: threshold 0.5 (cross_fit), normal up to 0.25, "
        f"inspected by {STUDENTS_ENSEMBLE}"
    ]
    assert (triton.students.current["screw"], triton.store.current["screw"]) == (1, 3)


def test_rollback_of_students_without_a_way_back_tells_of_them(triton, capsys) -> None:
    triton.students.changes.clear()
    assert main(["rollback", "screw", "--method", "l2bt"]) == 2
    error = capsys.readouterr().err
    assert "no version of screw (l2bt) to go back to from version 2; name one of 1" in error
    assert "see `dinspect history screw --method l2bt`" in error

    del triton.students.versions["screw"][1]
    assert main(["rollback", "screw", "--method", "l2bt"]) == 2
    assert "the only one of screw (l2bt), there is no way back" in capsys.readouterr().err


def test_delete_of_students_leaves_the_bank(triton, capsys) -> None:
    assert main(["delete", "screw@1", "--method", "l2bt", "--yes"]) == 0
    assert lines_of(capsys) == ["screw (l2bt) version 1 is deleted"]
    assert main(["delete", "screw", "--method", "l2bt", "--yes"]) == 0
    assert lines_of(capsys) == ["screw (l2bt) is deleted with all its versions: 2"]

    assert triton.students.versions == {}
    assert list(triton.store.versions["screw"]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("screw", "delete screw (l2bt) with all its versions (1, 2) for good?"),
        ("screw@1", "delete version 1 of screw (l2bt) for good?"),
    ],
)
def test_delete_asks_about_the_students(monkeypatch, capsys, reference, what) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))

    assert main(["delete", reference, "--method", "l2bt"]) == 1
    assert what in capsys.readouterr().err


def test_threshold_of_students_is_shown(triton, capsys) -> None:
    assert main(["threshold", "screw", "--method", "l2bt"]) == 0

    output = capsys.readouterr()
    assert output.out.splitlines()[0] == (
        "screw (l2bt) version 2 is in force: threshold 0.5 (cross_fit), normal up to 0.25; of good "
        "parts 0.01 may be anomalous and 0.1 undecided"
    )
    assert "needs 100 or more" in output.err
    assert last_request(triton) == ("screw", {"operation": "history", "method": "l2bt"})


def test_threshold_of_students_is_changed(triton, capsys) -> None:
    arguments = ["threshold", "screw", "--method", "l2bt", "--set", "0.4", "--operator", "ada"]
    assert main([*arguments, "--json"]) == 0

    assert last_request(triton)[1] == {
        "operation": "threshold", "method": "l2bt", "operator": "ada", "threshold": 0.4,
    }  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["threshold"]) == (3, 0.4)
    assert triton.store.current["screw"] == 3


def test_damaged_students_in_force_are_told(triton, capsys) -> None:
    triton.students.versions["screw"][2] = {"product": "screw", "version": 2, "error": "cut short"}

    assert main(["threshold", "screw", "--method", "l2bt"]) == 2
    assert "version 2 of screw (l2bt) is in force and cannot be used" in capsys.readouterr().err


def test_version_that_waits_is_compared_with_the_bank_in_force(image_path, triton, capsys) -> None:
    """And not with the students', whose numbers are their own."""
    triton.products["screw by l2bt"] = students_product("screw", current=4)

    assert main(["enroll", "screw", str(image_path), "--no-activate"]) == 0
    assert "version 3 is still in force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["enroll", "screw", "a.png"], "students are trained on images with `dinspect train`"),
        (["append", "screw", "a.png"], "students are trained anew, on all images"),
        (["region", "screw"], "students inspect the whole image"),
        (["export-product", "screw", "a.zip"], "students have no such file"),
        (["import-product", "a.zip"], "students have no such file"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_command_that_means_nothing_for_students_says_why(command, why, triton, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--method", "l2bt"])

    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"this is for anomaly_dino alone; {why}" in error
    assert triton.requests == []


def test_command_for_banks_alone_takes_their_name(capsys) -> None:
    assert main(["region", "screw", "--method", "anomaly_dino"]) == 0
    assert "20 of 20 patches" in lines_of(capsys)[0]


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "screw", "a.png"],
        ["history", "screw"],
        ["rollback", "screw"],
        ["delete", "screw", "--yes"],
        ["threshold", "screw"],
    ],
    ids=lambda command: command[0],
)
def test_method_that_nobody_knows_is_wrong_use(command, triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--method", "patchcore"])

    assert caught.value.code == 2
    assert triton.requests == []


def test_version_of_students_is_described_in_one_line(triton) -> None:
    version = StudentsVersion.from_report(triton.students.versions["screw"][2])

    assert describe_version(version) == (
        "screw (l2bt) version 2: 20 images, 15360 patches, threshold 0.5 (cross_fit), "
        f"normal up to 0.25, inspected by {STUDENTS_ENSEMBLE}"
    )
