from __future__ import annotations

import json
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_server import ENSEMBLE, Fault, decode_inputs, product_report

from dinspect_client.main import main
from dinspect_client.overlay import read_rgb, write_png


@pytest.fixture(autouse=True)
def _address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DINSPECT_URL", url)


@pytest.fixture
def folder(tmp_path: Path, image_rgb) -> Path:
    """Two images, the picture of an earlier inspection, and something else."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("b.png", "a.PNG", "a.inspection.png", ".hidden.png"):
        write_png(folder / "x.png", image_rgb)
        (folder / "x.png").rename(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_inspect_prints_a_line_and_draws_a_picture_per_image(folder, capsys) -> None:
    assert main(["inspect", "screw", str(folder)]) == 0

    first, second = lines_of(capsys)
    assert first.startswith(f"{folder / 'a.PNG'}: normal")
    assert "score 0.25  threshold 0.5  " in first
    assert first.endswith(" ms")
    assert second.startswith(str(folder / "b.png"))
    assert read_rgb(folder / "a.inspection.png").shape[1] >= 800
    assert read_rgb(folder / "b.inspection.png").shape[1] >= 800


def test_inspect_writes_into_the_output_folder(image_path, tmp_path, capsys) -> None:
    out = tmp_path / "out" / "deep"
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(image_path, other)

    arguments = ["inspect", "screw", str(image_path), str(other), "--output-dir", str(out)]
    assert main(arguments) == 0

    names = sorted(path.name for path in out.iterdir())
    assert names == ["part-2.inspection.png", "part.inspection.png"]
    assert not (tmp_path / "part.inspection.png").exists()


def test_inspect_without_overlay_asks_for_no_map(image_path, triton, tmp_path) -> None:
    assert main(["inspect", "screw", str(image_path), "--no-overlay"]) == 0

    assert [path.name for path in tmp_path.iterdir()] == [image_path.name]
    assert "anomaly_map" not in {output.name for output in triton.requests[-1].outputs}


def test_inspect_json_prints_json_lines_only(image_path, tmp_path, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")

    assert main(["inspect", "screw", str(image_path), str(broken), "--json"]) == 2

    good, bad = map(json.loads, lines_of(capsys))
    assert good["image"] == str(image_path)
    assert good["inspected"] is True
    assert good["verdict"] == "normal"
    assert good["picture"] == str(tmp_path / "part.inspection.png")
    assert good["picture_error"] is None
    assert bad["inspected"] is False
    assert "cannot be decoded" in bad["error"]
    assert "verdict" not in bad


def test_inspect_goes_on_after_a_bad_image(image_path, tmp_path, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")

    assert main(["inspect", "screw", str(broken), str(image_path)]) == 2

    first, second = lines_of(capsys)
    assert first.startswith(f"{broken}: not inspected: image cannot be decoded")
    assert ": normal" in second


def test_inspect_returns_3_when_the_server_failed_for_an_image(image_path, triton, capsys) -> None:
    triton.faults[ENSEMBLE] = Fault(grpc.StatusCode.INTERNAL, "broken", times=1)

    assert main(["inspect", "screw", str(image_path), str(image_path)]) == 3

    first, second = lines_of(capsys)
    assert "not inspected" in first
    assert ": normal" in second


def test_servers_failure_outweighs_bad_images_and_anomalies(image_path, tmp_path, triton) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    triton.outputs["verdict"] = np.array([1])
    triton.faults[ENSEMBLE] = Fault(grpc.StatusCode.INTERNAL, "broken", times=1)

    images = [str(image_path), str(broken), str(image_path)]
    assert main(["inspect", "screw", *images, "--fail-on-anomaly"]) == 3
    assert main(["inspect", "screw", *images, "--fail-on-anomaly"]) == 2


@pytest.mark.parametrize(("verdict", "status"), [(0, 0), (1, 1), (2, 1)])
def test_fail_on_anomaly_passes_nothing_but_normal(image_path, triton, verdict, status) -> None:
    triton.outputs["verdict"] = np.array([verdict])

    assert main(["inspect", "screw", str(image_path), "--fail-on-anomaly"]) == status


def test_anomalous_is_a_done_job_unless_asked_to_fail(image_path, triton, capsys) -> None:
    triton.outputs["verdict"] = np.array([1])

    assert main(["inspect", "screw", str(image_path)]) == 0
    assert ": anomalous" in lines_of(capsys)[0]


def test_inspect_tells_the_verdict_even_if_the_picture_fails(image_path, tmp_path, capsys) -> None:
    (tmp_path / "part.inspection.png").mkdir()

    assert main(["inspect", "screw", str(image_path)]) == 2

    line = lines_of(capsys)[0]
    assert ": normal" in line
    assert "no picture: " in line


def test_missing_path_and_empty_folder_are_bad_input(tmp_path, triton, capsys) -> None:
    assert main(["inspect", "screw", str(tmp_path / "missing.png")]) == 2
    assert "no such image or folder" in capsys.readouterr().err
    assert main(["enroll", "screw", str(tmp_path)]) == 2
    assert "holds no image" in capsys.readouterr().err
    assert triton.requests == []


def test_unreachable_server_returns_3(closed_url, image_path, capsys) -> None:
    assert main(["products", "--url", closed_url]) == 3
    assert closed_url in capsys.readouterr().err
    assert main(["inspect", "screw", str(image_path), "--url", closed_url]) == 3
    assert "not inspected: the server at" in lines_of(capsys)[0]


@pytest.mark.parametrize("where", ["option", "environment"])
def test_malformed_url_is_wrong_use(where, monkeypatch, capsys) -> None:
    arguments = ["products"]
    if where == "option":
        arguments += ["--url", "http://localhost"]
    else:
        monkeypatch.setenv("DINSPECT_URL", "http://localhost")

    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "is not HOST:PORT" in capsys.readouterr().err


def test_enroll_sends_the_folder_and_the_options(folder, triton, capsys) -> None:
    arguments = ["enroll", "screw", str(folder), "--resolution", "672"]
    assert main([*arguments, "--false-positive-rate", "0.02", "--operator", "ada"]) == 0

    options = json.loads(decode_inputs(triton.requests_to("enroll")[0])["options"][0])
    assert options["image_names"] == ["a.PNG", "b.png"]
    assert options["resolution"] == 672
    assert options["false_positive_rate"] == 0.02
    assert options["operator"] == "ada"
    assert lines_of(capsys) == [
        "screw version 4: 2 images, 2048 patches, threshold 0.5 (leave_one_out), "
        "inspected by anomaly_dino_448"
    ]


def test_enroll_json_prints_the_report(image_path, triton, capsys) -> None:
    assert main(["enroll", "screw", str(image_path), "--threshold", "0.3", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["bundle_version"] == 4
    options = json.loads(decode_inputs(triton.requests_to("enroll")[0])["options"][0])
    assert options["threshold"] == 0.3


@pytest.mark.parametrize(
    "options",
    [
        ["--resolution", "0"],
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


def test_products_prints_a_table(triton, capsys) -> None:
    triton.products["a-longer-name"] = product_report("a-longer-name")

    assert main(["products"]) == 0

    header, screw, longer = lines_of(capsys)
    assert header.split()[:3] == ["PRODUCT", "VERSION", "OF"]
    assert screw.split()[:5] == ["screw", "3", "1,2,3", "400x300", ENSEMBLE]
    assert header.index("VERSION") == screw.index("3") == longer.index("3")


def test_products_json_is_the_list(triton, capsys) -> None:
    assert main(["products", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [triton.products["screw"]]


def test_products_says_when_there_is_none(triton, capsys) -> None:
    triton.products.clear()

    assert main(["products"]) == 0
    assert "no product is enrolled" in capsys.readouterr().out
    assert main(["products", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
