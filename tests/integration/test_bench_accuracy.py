"""`bench-accuracy` on the served path: real textures, defects whose masks are exact by construction.

The pictures are crops of a solar cell, wider than high, so that one method crops and the other pads.
A defect is a bar of dark lines, and its mask the bar. Cell and defect are such that the maps show
where it is: the demo's weights were made for saliency, and answer to many a defect in all of the
picture.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest

from dinspect_bench.accuracy.command import main
from dinspect_bench.accuracy.inspected_category import inspect_category
from dinspect_bench.accuracy.measurement import PIXEL_FIGURES, Measurement, measure_figures
from dinspect_bench.accuracy.protocol import plan_protocols
from dinspect_bench.accuracy.temporary_product import ProductMaker
from dinspect_bench.datasets.category import LabelledImage
from dinspect_bench.datasets.mvtec import load_mvtec
from dinspect_client import InspectionClient

SIZE = (180, 240)  # rows, columns
CELL = 3  # of the demo's enrolled ones
HALF_SIZES = {"flat": (10, 40), "tall": (22, 26)}  # of the defects, rows and columns, by their kind
NUM_TRAIN, NUM_GOOD, NUM_DEFECTIVE = 8, 4, 6
ENTRY = "import sys; from dinspect_bench.accuracy.command import main; sys.exit(main())"


def crop(cell, number):
    """The cell from a place of its own."""
    picture = cv2.imread(str(cell), cv2.IMREAD_GRAYSCALE)
    free = np.subtract(picture.shape, SIZE)
    y, x = np.random.default_rng(number).integers(0, free)
    return picture[y : y + SIZE[0], x : x + SIZE[1]].copy()


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def draw_defect(pixels, mask, kind, generator):
    """Draw dark lines into a bar of a cell, and fill the bar in its mask."""
    (half_height, half_width), (height, width) = HALF_SIZES[kind], SIZE
    x, y = int(generator.integers(50, width - 50)), int(generator.integers(40, height - 40))
    corners = (x - half_width, y - half_height), (x + half_width, y + half_height)
    cv2.rectangle(mask, *corners, 255, -1)
    lines = (mask > 0) & (np.arange(width) % 8 < 4)
    pixels[lines] = pixels[lines] * 0.7


@pytest.fixture(scope="module")
def data_set(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accuracy") / "cell"
    numbers = range(NUM_TRAIN + NUM_GOOD + NUM_DEFECTIVE)
    pictures = [crop(split.enrolled[CELL], number) for number in numbers]
    for number, pixels in enumerate(pictures[:NUM_TRAIN]):
        write(folder / f"train/good/{number:03d}.png", pixels)
    for number, pixels in enumerate(pictures[NUM_TRAIN:-NUM_DEFECTIVE]):
        write(folder / f"test/good/{number:03d}.png", pixels)
    generator = np.random.default_rng(0)
    for number, pixels in enumerate(pictures[-NUM_DEFECTIVE:]):
        kind = sorted(HALF_SIZES)[number % 2]
        mask = np.zeros(SIZE, np.uint8)
        draw_defect(pixels, mask, kind, generator)
        write(folder / f"test/{kind}/{number:03d}.png", pixels)
        write(folder / f"ground_truth/{kind}/{number:03d}_mask.png", mask)
    return folder


@pytest.fixture(scope="module")
def client(served):
    with InspectionClient(served.grpc_url) as client:
        yield client


def ours(client):
    return [one.name for one in client.products() if one.name.startswith("bench-accuracy")]


def read_records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (
            "anomaly_dino",
            ("--shots", "8", "--preprocessing", "informed", "--textures", "cell", "--keep"),
        ),
        ("l2bt", ("--shots", "full", "--epochs", "5")),
    ],
)
def test_all_figures_are_measured_once(
    served, client, data_set, tmp_path, capsys, method, settings
):
    output = tmp_path / "cells.jsonl"
    command = [str(data_set), "--method", method, *settings, "--seeds", "0"]
    command += ["--url", served.grpc_url, "--output", str(output)]
    assert main(command) == 0
    assert f"cell by {method}" in capsys.readouterr().out
    (record,) = read_records(output)
    assert (record["dataset"], record["category"], record["method"]) == ("cell", "cell", method)
    counts = ("num_good", "num_defective", "num_regions", "num_not_outlined", "num_references")
    expected = [NUM_GOOD, NUM_DEFECTIVE, NUM_DEFECTIVE, 0, NUM_TRAIN]
    assert [record[name] for name in counts] == expected
    assert all(record[name] is not None for name in PIXEL_FIGURES)
    assert record["masked"] == (False if method == "anomaly_dino" else None)
    assert (record["training"] or {}).get("epochs") == (5 if method == "l2bt" else None)
    assert record["image_auroc"] > 0.7
    assert record["pixel_auroc"] > 0.9
    assert record["aupro_30"] > 0.7
    assert 0.3 < record["aupro_05"] < record["aupro_30"]
    assert (record["resolution"], len(record["worst"])) == (448, 6)
    for one in record["worst"]:
        assert cv2.imread(str(tmp_path / one["picture"])).shape == (*SIZE, 3)
    assert ours(client) == ([record["product"]] if "--keep" in settings else [])
    assert not (tmp_path / "cells_work").exists()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [record]
    assert read_records(output) == [record]
    for product in ours(client):
        client.delete(product)


@pytest.fixture(scope="module")
def inspected(served, client, data_set, tmp_path_factory):
    """All test images through the server, their maps on the disk."""
    (category,) = load_mvtec(data_set)
    (protocol,) = plan_protocols(["anomaly_dino"], [8], [0], preprocessing="no_mask_no_rotation")
    wanted = Measurement("cell", category, protocol, category.sha256())
    folder = tmp_path_factory.mktemp("maps")
    maker = ProductMaker(client, served.grpc_url, folder / "work", "test")
    with maker.product(category, wanted.selected(), protocol, wanted.key()) as version:
        return inspect_category(client, version, category, folder)


def assert_only_pixels_suffer(broken, right):
    for name in ("image_auroc", "image_f1_max", "image_average_precision"):
        assert broken[name] == right[name]
    assert broken["pixel_auroc"] < right["pixel_auroc"] - 0.1
    assert broken["aupro_30"] < right["aupro_30"] - 0.3
    assert broken["aupro_05"] < right["aupro_05"] - 0.2


def test_maps_in_another_order_are_seen_in_the_figures_per_pixel(inspected):
    right = measure_figures(inspected)
    files = list(inspected.map_files)
    files[NUM_GOOD:] = files[NUM_GOOD + 1 :] + files[NUM_GOOD : NUM_GOOD + 1]
    broken = measure_figures(replace(inspected, map_files=tuple(files)))
    assert_only_pixels_suffer(broken, right)


def test_shifted_masks_are_seen_in_the_figures_per_pixel(inspected, tmp_path):
    right = measure_figures(inspected)
    images = []
    for image in inspected.images:
        if image.mask is None:
            images.append(image)
            continue
        mask = cv2.imread(str(image.mask), cv2.IMREAD_GRAYSCALE)
        moved = tmp_path / image.mask.name
        write(moved, np.roll(mask, (SIZE[0] // 2, SIZE[1] // 2), axis=(0, 1)))
        images.append(LabelledImage(image.path, image.defect, moved))
    broken = measure_figures(replace(inspected, images=tuple(images)))
    assert_only_pixels_suffer(broken, right)


def test_killed_run_goes_on_where_it_was(served, client, data_set, tmp_path):
    output = tmp_path / "cells.jsonl"
    settings = ["--seeds", "0", "1", "--preprocessing", "masking_only"]
    command = [str(data_set), *settings, "--url", served.grpc_url, "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (output.exists() and ours(client)):
            time.sleep(0.02)  # until the first is on record, and the second is being measured
        process.send_signal(signal.SIGKILL)
    (first,) = read_records(output)
    assert len(ours(client)) == 1
    with output.open("a") as file:
        file.write('{"record": "accu')  # as a kill in the middle of writing would leave it
    assert main(command) == 0
    records = read_records(output)
    assert records[0] == first
    assert [record["seed"] for record in records] == [0, 1]
    assert records[0]["image_auroc"] is not None
    assert ours(client) == []


def test_finished_training_outlives_a_kill_during_the_inspection(
    served, client, data_set, tmp_path
):
    """The time that a training took is in its checkpoint: of one from zero it would be another."""
    output = tmp_path / "cells.jsonl"
    command = [str(data_set), "--method", "l2bt", "--shots", "full", "--epochs", "3"]
    command += ["--url", served.grpc_url, "--output", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", ENTRY, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not ours(client):
            time.sleep(0.02)  # until it is trained, and its first image is being inspected
        process.send_signal(signal.SIGKILL)
    (product,) = ours(client)
    trained = client.history(product, method="l2bt").in_force.training
    assert not output.exists()
    assert main(command) == 0
    (record,) = read_records(output)
    assert record["product"] == product
    assert record["training"] == trained
    assert ours(client) == []
    assert not (tmp_path / "cells_work").exists()


def test_input_size_that_is_not_served_is_told(served, client, data_set, tmp_path, capsys):
    narrow = tmp_path / "narrow"
    for path in data_set.rglob("*.png"):
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        pixels[:2, :2] = 255  # or a mask might be cut to nothing
        write(narrow / path.relative_to(data_set), pixels[:, :120])
    output = tmp_path / "narrow.jsonl"
    command = [str(narrow), "--seeds", "0", "--url", served.grpc_url, "--output", str(output)]
    assert main(command) == 2
    assert "needs input size 672x448" in capsys.readouterr().err
    assert not output.exists()
    assert ours(client) == []
