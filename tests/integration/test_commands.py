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
    run("dinspect", "enroll", "ready", folder / "good", "--url", served.grpc_url)
    return "ready"


def test_enrol_list_and_inspect(served, folder):
    environment = os.environ | {"DINSPECT_URL": served.grpc_url}
    done = run("dinspect", "enroll", "shell", folder / "good", "--json", env=environment)
    enrolment = json.loads(done.stdout)
    assert (enrolment["bundle_version"], enrolment["num_references"]) == (1, 4)
    done = run("dinspect", "enroll", "shell", folder / "good", env=environment)
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
    assert answer["verdict"] in ("normal", "anomalous")


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
    checks = result["checks"]
    assert checks["everything_but_backbone_is_less"] is True
    assert checks["everything_but_backbone_ms"] < checks["backbone_ms"]
    report = _Report()
    report.feed((tmp_path / "out" / "report.html").read_text())
    assert report.images >= 12
    assert all(address.startswith(("data:", "#")) for address in report.addresses)
