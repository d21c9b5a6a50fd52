from __future__ import annotations

import getpass
import json
import os
from pathlib import Path

import grpc
import pytest
from fake_server import Fault, decode_inputs, version_report

from dinspect_client import ProductVersion
from dinspect_client.commands import arguments, enroll, text, zero_shot
from dinspect_client.main import main
from dinspect_client.overlay import write_png


@pytest.fixture(autouse=True)
def _served(_address: None) -> None:
    """All commands here go to the fake server."""


@pytest.fixture
def folder(tmp_path: Path, image_rgb) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for name in ("b.png", "a.PNG"):
        write_png(folder / "x.png", image_rgb)
        (folder / "x.png").rename(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def sent_options(triton) -> list[dict]:
    parts = [decode_inputs(request) for request in triton.requests_to("enroll")]
    return [json.loads(part["options"][0]) for part in parts]


def test_enroll_sends_the_folder_and_the_options(folder, triton, capsys) -> None:
    arguments = ["enroll", "screw", str(folder), "--resolution", "672"]
    assert main([*arguments, "--false-positive-rate", "0.02", "--operator", "ada"]) == 0

    (options,) = sent_options(triton)
    assert options["image_names"] == ["a.PNG", "b.png"]
    assert options["resolution"] == 672
    assert options["false_positive_rate"] == 0.02
    assert options["operator"] == "ada"
    assert lines_of(capsys) == [
        "screw version 4: 2 images, 2 patches, threshold 0.5 (leave_one_out), normal up to 0.25, "
        "inspected by anomaly_dino_448"
    ]


def test_enroll_json_prints_the_report(image_path, triton, capsys) -> None:
    assert main(["enroll", "screw", str(image_path), "--threshold", "0.3", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["version"] == 4
    (options,) = sent_options(triton)
    assert options["threshold"] == 0.3


@pytest.mark.parametrize(
    "options",
    [
        ["--resolution", "0"],
        ["--num-neighbours", "0"],
        ["--coreset-fraction", "0"],
        ["--coreset-fraction", "1.1"],
        ["--undecided-rate", "1"],
        ["--undecided-rate", "-0.1"],
        ["--threshold", "nan"],
        ["--threshold", "inf"],
        ["--threshold", "-1"],
        ["--preprocessing", "none"],
        ["--image-score", "mean"],
        ["--search", "fast"],
        ["--undecided-rate", "0.1", "--normal-below", "0.3"],
        ["--resolution", "x"],
        ["--false-positive-rate", "1"],
        ["--false-positive-rate", "0.1", "--threshold", "0.3"],
    ],
)
def test_enroll_refuses_options_out_of_range(image_path, options, triton, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["enroll", "screw", str(image_path), *options])

    assert caught.value.code == 2
    assert triton.requests == []


def test_enroll_refused_by_the_server_returns_2(image_path, triton, capsys) -> None:
    triton.faults["enroll"] = Fault(grpc.StatusCode.INVALID_ARGUMENT, "images differ in size")

    assert main(["enroll", "screw", str(image_path)]) == 2
    assert "dinspect: error: images differ in size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.3", "--undecided-rate", "0.1"], "goes with --normal-below"),
        (["--normal-below", "0.3"], "give the upper"),
        (["--threshold", "0.3", "--normal-below", "0.4"], "above the threshold"),
    ],
)
@pytest.mark.parametrize("command", ["enroll", "append"])
def test_thresholds_that_contradict_each_other_are_wrong_use(
    image_path, command, options, message, triton, capsys
) -> None:
    assert main([command, "screw", str(image_path), *options]) == 2

    assert message in capsys.readouterr().err
    assert triton.requests == []


def test_enroll_says_everything_that_it_is_told(image_path, folder, triton) -> None:
    arguments = ["enroll", "screw", str(image_path), "--good", str(folder), "--resolution", "672"]
    arguments += ["--preprocessing", "informed", "--rotated", "--texture", "--num-neighbours", "3"]
    arguments += ["--image-score", "max", "--search", "ivf", "--coreset-fraction", "0.5"]
    arguments += ["--threshold", "0.3", "--normal-below", "0.2", "--no-activate"]
    assert main([*arguments, "--operator", "ada"]) == 0

    first, second = sent_options(triton)
    for options in (first, second):
        del options["session"], options["commit"], options["num_staged"]
    assert first.pop("image_names") == ["part.png"]
    assert second.pop("image_names") == ["a.PNG", "b.png"]
    assert second.pop("role") == "good"
    assert first == second == {
        "resolution": 672,
        "preprocessing": "informed",
        "rotated": True,
        "texture": True,
        "num_neighbours": 3,
        "image_score": "max",
        "search": "ivf",
        "coreset_fraction": 0.5,
        "threshold": 0.3,
        "normal_below": 0.2,
        "activate": False,
        "operator": "ada",
    }  # fmt: skip


def test_version_that_waits_is_told(image_path, capsys) -> None:
    assert main(["enroll", "screw", str(image_path), "--no-activate"]) == 0

    error = capsys.readouterr().err
    assert "version 3 is still in force; `dinspect rollback screw 4`" in error


def test_first_version_is_in_force_whatever_was_asked(image_path, triton, capsys) -> None:
    triton.products["screw"]["current"] = 4

    assert main(["enroll", "screw", str(image_path), "--no-activate"]) == 0
    assert "still in force" not in capsys.readouterr().err


def test_operator_is_the_user_unless_said_otherwise(image_path, triton) -> None:
    assert main(["enroll", "screw", str(image_path)]) == 0
    assert sent_options(triton)[0]["operator"] == getpass.getuser()


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("no name")])
def test_user_without_a_name_is_known_by_number(image_path, triton, monkeypatch, error) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: (_ for _ in ()).throw(error))

    assert main(["enroll", "screw", str(image_path)]) == 0
    assert sent_options(triton)[0]["operator"] == f"uid {os.getuid()}"


def test_append_sends_images_and_rates(image_path, folder, triton, capsys) -> None:
    arguments = ["append", "screw", str(folder), "--good", str(image_path)]
    assert main([*arguments, "--undecided-rate", "0.1", "--json"]) == 0

    first, second = sent_options(triton)
    assert first["append"] is second["append"] is True
    assert (first["undecided_rate"], second["role"]) == (0.1, "good")
    assert len(json.loads(capsys.readouterr().out)["references"]) == 4


def test_append_takes_good_images_alone_but_not_nothing(image_path, triton, capsys) -> None:
    assert main(["append", "screw", "--good", str(image_path)]) == 0
    assert main(["append", "screw"]) == 2
    assert "nothing to append" in capsys.readouterr().err


def note_of(**calibration) -> str:
    report = version_report("screw", 1)
    report["calibration"] |= calibration
    return text.threshold_note(ProductVersion.from_report(report))


def test_note_tells_when_scores_are_too_few_for_the_rate() -> None:
    few = note_of(false_positive_rate=0.05, reference_scores=[0.1] * 19)

    assert "largest of 19 scores" in few
    assert "0.05 needs 20 or more" in few
    assert note_of(false_positive_rate=0.05, reference_scores=[0.1] * 20) == ""
    assert note_of(method="by_hand", false_positive_rate=None) == ""


def test_note_tells_what_one_image_cannot_say() -> None:
    assert "answered undecided" in note_of(method="rotations_of_the_only_reference")


def test_note_tells_that_nothing_will_be_normal() -> None:
    """A reference without foreground makes every part one that may not be there."""
    report = version_report("screw", 1)
    for share, is_told in ((None, False), ([0.4, 0.9], False), ([0.0, 0.9], True)):
        report["preprocessing"]["foreground_share"] = share
        note = text.foreground_note(ProductVersion.from_report(report))
        assert ("no part will be called normal" in note) is is_told


def test_note_tells_what_a_search_loses() -> None:
    report = version_report("screw", 1)
    assert text.loss_note(ProductVersion.from_report(report)) == ""
    report["scoring"]["measured_loss"] = {
        "images": 4,
        "max_distance_error": 0.01,
        "mean_distance_error": 0.001,
        "max_score_change": 0.0123,
    }

    note = text.loss_note(ProductVersion.from_report(report))

    assert "scores of 4 images changed by up to 1.23%" in note
    assert "distances by up to 0.01" in note


def test_names_offered_are_the_servers() -> None:
    import enrol_options
    import image_score
    import mutual_scoring
    import preprocessing
    import zero_shot_options

    assert set(enroll.PREPROCESSINGS) == set(preprocessing.SETTINGS)
    assert enroll.SEARCHES == enrol_options.SEARCHES
    assert arguments.IMAGE_SCORES == image_score.IMAGE_SCORES
    assert zero_shot.MASKINGS == zero_shot_options.MASKINGS
    assert zero_shot.STATISTICS == mutual_scoring.STATISTICS
