from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import grpc
import pytest
from fake_server import Fault, decode_inputs

from dinspect_client.commands import zero_shot
from dinspect_client.main import main
from dinspect_client.overlay import read_rgb, write_png


@pytest.fixture(autouse=True)
def _served(_address: None) -> None:
    """All commands here go to the fake server."""


@pytest.fixture
def folder(tmp_path: Path, image_rgb) -> Path:
    """Ten images; the fake server gives the third, sixth and ninth the highest score."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(10):
        image = image_rgb.copy()
        image[0, 0] = number
        write_png(folder / f"{number}.png", image)
    return folder


def sent_options(triton) -> list[dict]:
    requests = [decode_inputs(request) for request in triton.requests_to("zero_shot")]
    return [json.loads(request["options"][0]) for request in requests]


def test_each_image_has_a_line_and_the_ranking_comes_last(folder, capsys) -> None:
    assert main(["zero-shot", str(folder), "--top", "4"]) == 0

    output = capsys.readouterr()
    lines, ranking = output.out.split("\n\n")
    assert [line.split(":")[0] for line in lines.splitlines()] == [
        str(folder / f"{number}.png") for number in range(10)
    ]
    assert "score 0.125  " in lines.splitlines()[1]
    title, head, *rows = ranking.splitlines()
    assert title == "the 4 oddest of 10 images"
    assert head.split() == ["RANK", "SCORE", "IMAGE"]
    assert [row.split() for row in rows] == [
        ["1", "0.25", str(folder / "2.png")],
        ["2", "0.25", str(folder / "5.png")],
        ["3", "0.25", str(folder / "8.png")],
        ["4", "0.125", str(folder / "1.png")],
    ]
    assert output.err == ""  # no terminal, no bar
    assert sorted(folder.glob("*.inspection.png")) == []


def test_json_prints_json_lines_only(folder, capsys) -> None:
    assert main(["zero-shot", str(folder), "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["index"] for line in lines] == list(range(10))
    assert lines[2]["image"] == str(folder / "2.png")
    assert lines[2]["anomaly_score"] == 0.25
    assert lines[2]["picture"] is lines[2]["anomaly_map"] is None


def test_options_are_sent_as_they_are_said(folder, triton) -> None:
    arguments = ["--resolution", "672", "--alpha", "0.01", "--statistic", "mean"]
    arguments += ["--masking", "never", "--image-score", "max_map"]
    assert main(["zero-shot", str(folder), *arguments]) == 0

    first = sent_options(triton)[0]
    del first["session"], first["num_staged"], first["image_names"]
    assert first == {
        "resolution": 672,
        "alpha": 0.01,
        "statistic": "mean",
        "masking": "never",
        "image_score": "max_map",
    }


def test_pictures_are_drawn_only_into_a_folder(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out" / "deep"
    for number in range(10):  # of the size of the fake server's map
        assert read_rgb(folder / f"{number}.png").shape == (30, 40, 3)

    assert main(["zero-shot", str(folder), "--output-dir", str(out), "--json"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["picture"] for line in lines] == [
        str(out / f"{number}.inspection.png") for number in range(10)
    ]
    assert lines[0]["anomaly_map"]["shape"] == [30, 40]
    assert read_rgb(out / "3.inspection.png").shape[1] >= 800


def test_peak_sets_the_scale_of_the_pictures(folder, tmp_path) -> None:
    for peak in ("0.5", "5"):
        arguments = ["--output-dir", str(tmp_path / peak), "--peak", peak]
        assert main(["zero-shot", str(folder), *arguments]) == 0

    strong, weak = (read_rgb(tmp_path / peak / "0.inspection.png") for peak in ("0.5", "5"))
    assert (strong != weak).any()


def test_score_is_told_even_if_the_picture_fails(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    (out / "0.inspection.png").mkdir(parents=True)

    assert main(["zero-shot", str(folder), "--output-dir", str(out)]) == 2

    lines = capsys.readouterr().out.splitlines()
    assert "no picture: " in lines[0]
    assert "no picture: " not in lines[1]
    assert len(list(out.iterdir())) == 10


@pytest.mark.parametrize(
    "options",
    [
        ["--alpha", "0"],
        ["--alpha", "1"],
        ["--statistic", "median"],
        ["--masking", "maybe"],
        ["--image-score", "mean"],
        ["--peak", "0"],
        ["--top", "-1"],
    ],
)
def test_options_out_of_range_are_wrong_use(folder, options, triton) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["zero-shot", str(folder), *options])

    assert caught.value.code == 2
    assert triton.requests == []


def test_one_image_is_bad_input(folder, triton, capsys) -> None:
    assert main(["zero-shot", str(folder / "0.png")]) == 2
    assert "expected at least two" in capsys.readouterr().err


def test_ranking_can_be_left_out(folder, capsys) -> None:
    assert main(["zero-shot", str(folder), "--top", "0"]) == 0
    assert "oddest" not in capsys.readouterr().out


def test_server_that_fails_returns_3_and_is_asked_to_forget(folder, triton, capsys) -> None:
    triton.faults["zero_shot"] = Fault(grpc.StatusCode.INTERNAL, "broken")

    assert main(["zero-shot", str(folder)]) == 3
    assert "broken" in capsys.readouterr().err
    assert len(triton.closed) == 1


def test_refused_image_returns_2(folder, capsys) -> None:
    (folder / "0.png").write_bytes(b"-")

    assert main(["zero-shot", str(folder)]) == 2
    assert "0.png: no image" in capsys.readouterr().err


def test_real_interrupt_lets_the_server_forget(folder, triton, start_command) -> None:
    triton.delay_s = 0.1
    process = start_command("zero-shot", folder)
    deadline = time.monotonic() + 30
    while len(triton.requests_to("zero_shot")) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=30)

    assert process.returncode == 130
    assert error == ""
    assert 1 <= len(output.splitlines()) < 10
    assert len(triton.closed) == 1
    assert triton.staged == {}


def test_interrupt_between_two_scores_lets_the_server_forget(folder, triton, monkeypatch) -> None:
    def interrupt(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zero_shot, "_report", interrupt)

    assert main(["zero-shot", str(folder)]) == 130
    assert len(triton.closed) == 1
    assert triton.staged == {}


def test_bar_counts_staging_and_then_scoring_on_a_terminal(folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    assert main(["zero-shot", str(folder), "--json"]) == 0

    output = capsys.readouterr()
    assert "staging" in output.err
    assert "scoring" in output.err
    assert all(json.loads(line) for line in output.out.splitlines())
