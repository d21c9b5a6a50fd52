from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from fake_server import ENSEMBLE, Fault, bytes_array, product_report

from dinspect_client.main import main
from dinspect_client.overlay import read_rgb, write_png


@pytest.fixture(autouse=True)
def _served(_address: None) -> None:
    """All commands here go to the fake server."""


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
    assert "score 0.25  threshold 0.5  normal up to 0.375  0 defect regions  " in first
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
    asked = {output.name for output in triton.requests[-1].outputs}
    assert not asked & {"anomaly_map", "defect_regions"}


def test_inspect_counts_defect_regions_and_lists_them_in_json(image_path, triton, capsys) -> None:
    region = {"box_px": [30, 20, 10, 10], "area_px": 9, "peak": 1.0, "peak_at_px": [39, 29]}
    triton.outputs["defect_regions"] = bytes_array(json.dumps([region]))

    assert main(["inspect", "screw", str(image_path)]) == 0
    assert "  1 defect region  " in lines_of(capsys)[0]
    assert main(["inspect", "screw", str(image_path), "--json"]) == 0
    assert json.loads(lines_of(capsys)[0])["defect_regions"] == [region]


def test_inspect_frames_defect_regions_in_the_picture(image_path, triton, tmp_path) -> None:
    region = {"box_px": [30, 20, 10, 10], "area_px": 9, "peak": 1.0, "peak_at_px": [39, 29]}
    assert main(["inspect", "screw", str(image_path)]) == 0
    plain = read_rgb(tmp_path / "part.inspection.png")
    triton.outputs["defect_regions"] = bytes_array(json.dumps([region]))
    assert main(["inspect", "screw", str(image_path)]) == 0

    assert (read_rgb(tmp_path / "part.inspection.png") != plain).any()


def test_inspect_leaves_out_a_lower_threshold_that_is_none(image_path, triton, capsys) -> None:
    triton.outputs["normal_below"] = np.array([0.5])

    assert main(["inspect", "screw", str(image_path)]) == 0
    assert "normal up to" not in lines_of(capsys)[0]


def test_inspect_prints_a_name_that_is_no_text(tmp_path, image_path, capsys) -> None:
    path = tmp_path / os.fsdecode(b"part-\xff.png")
    image_path.rename(path)

    assert main(["inspect", "screw", str(path), "--no-overlay"]) == 0
    assert "part-?.png: normal" in lines_of(capsys)[0]


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


def test_products_prints_a_table(triton, capsys) -> None:
    triton.products["a-longer-name"] = product_report("a-longer-name")

    assert main(["products"]) == 0

    header, screw, longer = lines_of(capsys)
    assert header.split()[:4] == ["PRODUCT", "METHOD", "VERSION", "OF"]
    assert screw.split()[:6] == ["screw", "anomaly_dino", "3", "1,2,3", "400x300", ENSEMBLE]
    assert screw.split()[7:13] == ["0.41", "0.35", "agnostic,", "masked", "48.0", "MiB"]
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
