"""The command line and the demo against the real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest

BIN = Path(sys.executable).parent
PLAIN = ("--preprocessing", "no_mask_no_rotation")


def run(*arguments, status=0, **options):
    done = subprocess.run(
        [str(BIN / arguments[0]), *map(str, arguments[1:])],
        capture_output=True, text=True, **options,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "good").mkdir()
    for path in split.enrolled[:4]:
        shutil.copy(path, folder / "good")
    shutil.copy(split.defective[1], folder / "part.png")
    return folder


@pytest.fixture(scope="module")
def product(served, folder):
    run("dinspect", "enroll", "ready", folder / "good", *PLAIN, "--url", served.grpc_url)
    return "ready"


def test_enrol_list_and_inspect(served, folder):
    environment = os.environ | {"DINSPECT_URL": served.grpc_url}
    done = run("dinspect", "enroll", "shell", folder / "good", "--json", env=environment)
    enrolment = json.loads(done.stdout)
    assert (enrolment["version"], enrolment["num_references"]) == (1, 4)
    assert enrolment["num_patches"] == 8 * 4096
    done = run("dinspect", "enroll", "shell", folder / "good", *PLAIN, env=environment)
    assert "shell version 2: 4 images, 4096 patches" in done.stdout
    assert "needs 20 or more" in done.stderr

    done = run("dinspect", "products", "--json", env=environment)
    (product,) = (one for one in json.loads(done.stdout) if one["product"] == "shell")
    assert product["num_patches"] == 4096

    done = run("dinspect", "inspect", "shell", folder / "part.png", env=environment)
    assert "part.png" in done.stdout
    picture = cv2.imread(str(folder / "part.inspection.png"))
    assert picture.shape[1] > picture.shape[0] > 300

    done = run(
        "dinspect", "inspect", "shell", folder / "part.png", "--json", "--no-overlay",
        env=environment,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["patch_distances"]["shape"] == [32, 32]
    assert answer["anomaly_map"] is None  # not asked for without a picture
    assert answer["verdict"] in ("normal", "undecided", "anomalous")


def test_life_of_a_product_by_commands(served, folder, split, tmp_path):
    """From one image to a product on its way to another plant, every step by a command."""
    environment = os.environ | {"DINSPECT_URL": served.grpc_url}

    def dinspect(*arguments, status=0):
        done = run("dinspect", *arguments, "--json", status=status, env=environment)
        return json.loads(done.stdout) if status == 0 else done.stderr

    first, *others = sorted((folder / "good").iterdir())
    who = ("--operator", "ada")
    good = ("--good", *split.functional[:2])
    made = dinspect("enroll", "lived", first, *good, *PLAIN, *who)
    assert (made["version"], made["calibration"]["method"]) == (1, "good_images")
    made = dinspect("append", "lived", *others, *who)
    assert (made["version"], made["num_references"]) == (2, 4)
    assert dinspect("threshold", "lived", "--undecided-rate", "0.3", *who)["version"] == 3
    by_hand = dinspect("threshold", "lived", "--set", "0.4", "--normal-below", "0.2", *who)
    assert (by_hand["version"], by_hand["threshold"], by_hand["normal_below"]) == (4, 0.4, 0.2)
    region = dinspect("region", "lived", "--roi", 0, 0, 150, 300, "--min-defect-area", 9, *who)
    assert region["region"]["roi_px"] == [0, 0, 150, 300]
    assert dinspect("rollback", "lived", *who)["version"] == 4
    assert dinspect("rollback", "lived", 5, *who)["version"] == 5
    assert "in force" in dinspect("delete", "lived@5", "--yes", *who, status=2)
    assert dinspect("delete", "lived@3", "--yes", *who)["deleted"] == [3]
    history = dinspect("history", "lived")
    assert history["current"] == 5
    assert [(one["action"], one["version"]) for one in history["changes"]] == [
        ("enrolled", 1), ("appended", 2), ("thresholds", 3), ("thresholds", 4), ("region", 5),
        ("activated", 4), ("activated", 5), ("deleted", 3),
    ]  # fmt: skip
    assert {one["operator"] for one in history["changes"]} == {"ada"}

    file = tmp_path / "lived.zip"
    dinspect("export-product", "lived", file)
    assert "exists already" in dinspect("export-product", "lived", file, status=2)
    arrived = dinspect("import-product", file, "--name", "moved", *who)
    assert (arrived["version"], arrived["change"]["origin"]) == (1, "lived@5")
    answers = [
        dinspect("inspect", name, folder / "part.png", "--no-overlay")
        for name in ("lived", "moved")
    ]
    for key in ("anomaly_score", "threshold", "normal_below", "verdict"):
        assert answers[0][key] == answers[1][key]
    assert dinspect("delete", "moved", "--yes", *who)["deleted"] == [1]
    assert "moved" not in [one["product"] for one in dinspect("products")]


def test_zero_shot_ranks_images(served, split, tmp_path):
    """A defective cell among functional ones is told in a line of its own like every other."""
    paths = [*split.functional[:5], split.defective[0]]
    done = run(
        "dinspect", "zero-shot", *paths, "--output-dir", tmp_path, "--json",
        "--url", served.grpc_url,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["image"]) for line in lines] == paths
    assert all(line["anomaly_score"] > 0 for line in lines)
    assert len(list(tmp_path.glob("*.png"))) == 6
    done = run("dinspect", "zero-shot", *paths, "--top", 2, "--url", served.grpc_url)
    ranking = done.stdout.split("the 2 oddest of 6 images")[1]
    oddest = max(lines, key=lambda line: line["anomaly_score"])
    assert Path(oddest["image"]).name in ranking.splitlines()[2]


def test_one_bad_image_does_not_stop_the_others(served, product, folder):
    (folder / "broken.png").write_bytes(b"not an image")
    done = run(
        "dinspect", "inspect", product, folder / "broken.png", folder / "part.png", "--json",
        "--no-overlay", "--url", served.grpc_url, status=2,
    )  # fmt: skip
    first, second = map(json.loads, done.stdout.splitlines())
    assert not first["inspected"]
    assert "no image in a known format" in json.dumps(first)
    assert second["inspected"]


def test_unreachable_server_is_status_3(folder):
    done = run(
        "dinspect", "inspect", "shell", folder / "part.png", "--url", "127.0.0.1:9", status=3
    )
    assert "not inspected" in done.stdout
    assert "127.0.0.1:9" in done.stdout


def test_latency_is_measured_with_its_steps(served, product, folder):
    done = run(
        "bench-latency", folder / "good", "--product", product, "--url", served.grpc_url,
        "--samples", 12, "--warmup", 2, "--json",
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report["latency_ms"]["count"] == 12
    assert report["latency_ms"]["p50"] > 0
    steps = report["latency_by_step_ms"]["steps"]
    assert set(steps) == {"preprocess_448", "dinov2_vits14_448", "cosine_knn_448", "anomaly_map"}
    assert all(step["count"] == 12 for step in steps.values())
    total = sum(step["total"] for step in steps.values())
    assert total == pytest.approx(report["latency_by_step_ms"]["client_mean"], rel=0.5)


class _Report(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.images = [], 0

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data"):
                self.addresses.append(value)
        self.images += tag == "img"


@pytest.mark.timeout(900)
def test_demo_does_the_main_job(tmp_path):
    """From weights to report, as `make demo` runs it; the figures are those of this very run."""
    run("dinspect", "demo", "--output", tmp_path / "out", "--build", tmp_path / "build")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    method = result["methods"]["anomaly_dino"]
    assert method["image_auroc"] >= 0.80
    assert (method["num_images"], len(method["images"])) == (120, 120)
    assert method["num_patches"] == 32_768
    assert result["split"]["seed"] == 0
    assert result["latency_ms"]["p50"] > 0
    assert result["latency_ms"]["num_failed"] == 0
    assert "2.51.0" in result["server"]["version"]
    for key in ("weights_sha256", "onnx_sha256"):
        assert len(result[key]) == 64
    trained = result["methods"]["l2bt"]
    assert trained["image_auroc"] >= 0.80
    assert (trained["num_references"], len(trained["images"])) == (32, 120)
    assert trained["training"]["num_steps"] == 400
    assert trained["training"]["final_loss"] < trained["training"]["first_loss"] / 4
    checks = result["checks"]
    assert checks["everything_but_backbone_is_less"] is True
    assert checks["everything_but_backbone_ms"] < checks["backbone_ms"]
    report = _Report()
    report.feed((tmp_path / "out" / "report.html").read_text())
    assert report.images >= 12
    assert all(address.startswith(("data:", "#")) for address in report.addresses)
