"""The commands for the life of a product: history, rollback, delete, threshold, region, files."""

from __future__ import annotations

import io
import json
import sys
import zipfile

import pytest
from fake_products import change_line, version_report
from fake_server import decode_inputs

from dinspect_client.main import main


@pytest.fixture(autouse=True)
def _served(_address: None) -> None:
    """All commands here go to the fake server."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def last_request(triton) -> tuple[str, dict]:
    inputs = decode_inputs(triton.requests_to("manage")[-1])
    return inputs["product"][0].decode(), json.loads(inputs["request"][0])


def test_history_prints_versions_and_changes(triton, capsys) -> None:
    triton.store.versions["screw"][1] = {"product": "screw", "version": 1, "error": "cut short"}

    assert main(["history", "screw"]) == 0

    head, first, second, third, damaged, _, changes_head, *changes = lines_of(capsys)
    assert head.split()[:3] == ["VERSION", "MADE", "BY"]
    assert first.split() == ["1", "damaged"]
    assert second.split()[:4] == ["2", "appended", "1", "ada"]
    assert third.split()[:5] == ["*", "3", "thresholds", "2", "ada"]
    assert third.split()[-5:] == ["2", "2048", "0.5", "0.25", "leave_one_out"]
    assert damaged == "version 1 cannot be used: cut short"
    assert changes_head.split() == ["AT", "OPERATOR", "CHANGE", "VERSION"]
    assert [line.split()[1:] for line in changes] == [
        ["ada", "enrolled", "1"], ["ada", "appended", "2"], ["ada", "thresholds", "3"],
    ]  # fmt: skip


def test_history_names_the_origin_of_an_import_and_a_deletion_of_all(triton, capsys) -> None:
    change = version_report("screw", 3)["change"] | {"action": "imported", "origin": "bolt@7"}
    triton.store.versions["screw"][3]["change"] = change
    triton.store.changes.insert(0, change_line("deleted", None))

    assert main(["history", "screw"]) == 0

    output = capsys.readouterr().out
    assert "imported  bolt@7" in output
    assert "deleted     all" in output


def test_history_json_is_the_servers_report(triton, capsys) -> None:
    assert main(["history", "screw", "--json"]) == 0

    assert json.loads(capsys.readouterr().out) == {
        "product": "screw",
        "current": 3,
        "versions": list(triton.store.versions["screw"].values()),
        "changes": triton.store.changes,
    }


def test_rollback_puts_the_version_in_force(triton, capsys) -> None:
    assert main(["rollback", "screw", "1", "--operator", "ada"]) == 0

    assert last_request(triton) == ("screw@1", {"operation": "activate", "operator": "ada"})
    assert len(triton.requests_to("manage")) == 1
    assert lines_of(capsys) == [
        "screw version 1 is in force: threshold 0.5 (leave_one_out), normal up to 0.25, "
        "inspected by anomaly_dino_448"
    ]


def test_rollback_without_a_version_goes_to_the_one_before(triton, capsys) -> None:
    assert main(["rollback", "screw", "--json"]) == 0

    assert last_request(triton)[0] == "screw@2"
    assert json.loads(capsys.readouterr().out)["version"] == 2


def test_second_rollback_goes_back_further_and_not_forth_again(triton, capsys) -> None:
    assert main(["rollback", "screw"]) == 0
    assert main(["rollback", "screw"]) == 0
    assert triton.store.current["screw"] == 1
    assert main(["rollback", "screw"]) == 2

    assert "name one of 2, 3" in capsys.readouterr().err
    assert triton.store.current["screw"] == 1


def test_rollback_lists_the_versions_when_the_record_does_not_tell(triton, capsys) -> None:
    triton.store.changes.clear()

    assert main(["rollback", "screw"]) == 2

    assert "name one of 1, 2, see `dinspect history screw`" in capsys.readouterr().err
    assert triton.store.current["screw"] == 3


def test_rollback_of_the_only_version_is_refused(triton, capsys) -> None:
    triton.store.versions["screw"] = {3: triton.store.versions["screw"][3]}

    assert main(["rollback", "screw"]) == 2
    assert "there is no way back" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["0", "x", "1.5", "-1"])
def test_rollback_to_no_number_is_wrong_use(version, triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rollback", "screw", version])

    assert caught.value.code == 2
    assert triton.requests == []


def test_rollback_to_a_version_that_is_not_there_returns_2(capsys) -> None:
    assert main(["rollback", "screw", "9"]) == 2
    assert "has no version 9" in capsys.readouterr().err


def test_delete_with_yes_asks_nobody(triton, capsys) -> None:
    assert main(["delete", "screw@1", "--yes"]) == 0
    assert lines_of(capsys) == ["screw version 1 is deleted"]
    assert main(["delete", "screw", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"product": "screw", "deleted": [2, 3]}
    assert triton.store.versions == {}


def test_delete_without_a_terminal_needs_yes(triton, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    assert main(["delete", "screw@1"]) == 2

    assert "say --yes" in capsys.readouterr().err
    assert triton.requests == []


@pytest.mark.parametrize(
    ("answer", "status"), [("y\n", 0), ("YES\n", 0), ("n\n", 1), ("\n", 1), ("", 1), ("yx\n", 1)]
)
def test_delete_on_a_terminal_asks(triton, monkeypatch, capsys, answer, status) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))

    assert main(["delete", "screw"]) == status

    output = capsys.readouterr()
    assert "delete screw with all its versions (1, 2, 3) for good? [y/N]" in output.err
    assert ("screw" in triton.store.versions) == (status == 1)
    assert output.out == ("" if status else "screw is deleted with all its versions: 1, 2, 3\n")


def test_delete_of_the_version_in_force_is_refused(triton, capsys) -> None:
    assert main(["delete", "screw@3", "--yes"]) == 2
    assert "is in force" in capsys.readouterr().err


def test_delete_of_an_impossible_name_is_wrong_use(triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["delete", "screw@", "--yes"])

    assert caught.value.code == 2
    assert triton.requests == []


def test_threshold_without_options_shows_what_is_in_force(triton, capsys) -> None:
    assert main(["threshold", "screw"]) == 0

    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "screw version 3 is in force: threshold 0.5 (leave_one_out), normal up to 0.25; of good "
        "parts 0.01 may be anomalous and 0.1 undecided",
        "2 scores of good images: 0.25 to 0.375, half of them up to 0.25",
    ]
    assert "needs 100 or more" in output.err
    assert last_request(triton) == ("screw", {"operation": "history"})


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--set", "0.4"], {"threshold": 0.4}),
        (["--set", "0.4", "--normal-below", "0.3"], {"threshold": 0.4, "normal_below": 0.3}),
        (["--set", "0"], {"threshold": 0.0}),
        (["--false-positive-rate", "0.02"], {"false_positive_rate": 0.02}),
        (["--undecided-rate", "0"], {"undecided_rate": 0.0}),
        (
            ["--false-positive-rate", "0.02", "--undecided-rate", "0.1"],
            {"false_positive_rate": 0.02, "undecided_rate": 0.1},
        ),
    ],
)
def test_threshold_changes_what_is_said(triton, capsys, options, asked) -> None:
    assert main(["threshold", "screw", *options, "--operator", "ada", "--json"]) == 0

    product, request = last_request(triton)
    assert product == "screw"
    assert request == {"operation": "threshold", "operator": "ada", **asked}
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 4
    assert set(told) == {
        "product", "version", "threshold", "normal_below", "defect_threshold", "calibration",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        ["--set", "0.4", "--false-positive-rate", "0.1"],
        ["--set", "x"],
        ["--false-positive-rate", "0"],
        ["--undecided-rate", "0.1", "--normal-below", "0.1"],
    ],
)
def test_threshold_refuses_what_excludes_each_other(options, triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["threshold", "screw", *options])

    assert caught.value.code == 2
    assert triton.requests == []


def test_threshold_by_hand_knows_no_undecided_rate(triton, capsys) -> None:
    assert main(["threshold", "screw", "--set", "0.4", "--undecided-rate", "0.1"]) == 2
    assert main(["threshold", "screw", "--normal-below", "0.1"]) == 2
    assert triton.requests == []


@pytest.mark.parametrize("command", ["threshold", "region"])
def test_damaged_version_in_force_is_told(triton, capsys, command) -> None:
    triton.store.versions["screw"][3] = {"product": "screw", "version": 3, "error": "cut short"}

    assert main([command, "screw"]) == 2
    assert "version 3 of screw is in force and cannot be used: cut short" in capsys.readouterr().err


def test_region_without_options_shows_what_counts(triton, capsys) -> None:
    assert main(["region", "screw"]) == 0

    assert lines_of(capsys) == [
        "screw version 3 is in force: the whole image, 20 of 20 patches",
        "defects of any size count",
        "threshold 0.5 (leave_one_out), normal up to 0.25",
    ]
    assert last_request(triton) == ("screw", {"operation": "history"})


def test_region_changes_what_is_said_and_draws_it(image_path, triton, capsys) -> None:
    arguments = ["region", "screw", "--roi", "1", "2", "3", "4", "--min-defect-area", "9"]
    assert main([*arguments, "--ignore-mask", str(image_path), "--operator", "ada"]) == 0

    inputs = decode_inputs(triton.requests_to("manage")[-1])
    assert inputs["content"][0] == image_path.read_bytes()
    assert last_request(triton)[1] == {
        "operation": "region",
        "operator": "ada",
        "roi_px": [1, 2, 3, 4],
        "min_defect_area_px": 9,
    }
    first, second, _, *drawing = lines_of(capsys)
    assert "3 x 4 px from x 1, y 2 without what mask " in first
    assert first.endswith("ignores, 4 of 20 patches")
    assert second == "defects of 9 pixels or more count"
    assert drawing == [".....", ".##..", ".##..", "....."]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--whole-image"], {"roi_px": []}),
        (["--clear-ignore-mask"], {"clear_ignore_mask": True}),
        (["--min-defect-area", "0"], {"min_defect_area_px": 0}),
    ],
)
def test_region_takes_back_what_is_said(triton, capsys, options, asked) -> None:
    assert main(["region", "screw", *options, "--operator", "ada", "--json"]) == 0

    assert last_request(triton)[1] == {"operation": "region", "operator": "ada", **asked}
    assert json.loads(capsys.readouterr().out)["version"] == 4


@pytest.mark.parametrize(
    "options",
    [
        ["--roi", "1", "2", "3"],
        ["--roi", "1", "2", "3", "-4"],
        ["--roi", "1", "2", "3", "4", "--whole-image"],
        ["--ignore-mask", "a.png", "--clear-ignore-mask"],
        ["--min-defect-area", "-1"],
    ],
)
def test_region_refuses_what_excludes_each_other(options, triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["region", "screw", *options])

    assert caught.value.code == 2
    assert triton.requests == []


def test_export_and_import_bring_a_product_back(triton, tmp_path, capsys) -> None:
    path = tmp_path / "screw.zip"

    assert main(["export-product", "screw@1", str(path)]) == 0
    assert lines_of(capsys) == [f"screw@1 -> {path}, 0.0 MiB"]
    assert main(["import-product", str(path), "--name", "nut", "--operator", "ada"]) == 0

    assert lines_of(capsys)[0].startswith("nut version 1: 2 images, 2048 patches, threshold 0.5")
    assert last_request(triton)[1]["operator"] == "ada"


def test_export_json_names_file_and_version(tmp_path, capsys) -> None:
    assert main(["export-product", "screw", str(tmp_path / "a.zip"), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["version"]) == (str(tmp_path / "a.zip"), 3)


def test_export_overwrites_only_if_asked(tmp_path, capsys) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"precious")

    assert main(["export-product", "screw", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_bytes() == b"precious"
    assert main(["export-product", "screw", str(path), "--overwrite"]) == 0
    assert zipfile.is_zipfile(path)


def test_import_of_another_file_returns_2(tmp_path, triton, capsys) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not a zip")

    assert main(["import-product", str(path), "--json"]) == 2
    assert "no exported product" in capsys.readouterr().err
    assert triton.requests == []


@pytest.mark.parametrize(
    "command",
    [
        ["history", "screw"],
        ["rollback", "screw", "1"],
        ["delete", "screw", "--yes"],
        ["threshold", "screw"],
        ["region", "screw"],
        ["export-product", "screw", "a.zip"],
    ],
    ids=lambda command: command[0],
)
def test_unreachable_server_returns_3_and_unknown_product_2(
    command, closed_url, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    name, product, *rest = command

    assert main([name, "nut", *rest]) == 2
    assert "unknown product 'nut'" in capsys.readouterr().err
    assert main([name, product, *rest, "--url", closed_url]) == 3
    assert closed_url in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
