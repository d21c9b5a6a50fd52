"""`dinspect train` against the real server: from good images to an answer, however often killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dinspect_bench.studies.random_weights import write_random_students
from dinspect_client import InspectionClient, Verdict
from dinspect_client.errors import RequestRejected

DINSPECT = Path(sys.executable).parent / "dinspect"
QUICK = ("--epochs", "3", "--training-precision", "fp32")


@pytest.fixture(scope="module")
def good(split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "good"
    folder.mkdir()
    for path in split.enrolled[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def client(served_fp32):
    with InspectionClient(served_fp32.grpc_url) as client:
        yield client


@pytest.fixture
def train(served_fp32, tmp_path):
    def run(*arguments, status=0):
        done = subprocess.run(
            command(served_fp32, tmp_path, *arguments), capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        return done if status else json.loads(done.stdout)

    return run


def command(server, work_dir, *arguments):
    where = ("--url", server.grpc_url, "--work-dir", work_dir / "work")
    asked = (DINSPECT, "train", *arguments, *where, "--operator", "ada", "--json")
    return [str(one) for one in asked]


def test_trained_product_answers_and_is_on_record(train, client, good, split, tmp_path):
    version = train("cell", good, *QUICK)
    assert (version["version"], version["num_references"], version["method"]) == (1, 6, "l2bt")
    assert version["num_patches"] == 6 * 1024
    assert version["calibration"]["method"] == "cross_fit"
    assert len(version["calibration"]["reference_scores"]) == 6
    assert version["training"]["epochs"] == 3
    assert version["training"]["num_steps"] == 6
    assert version["created_by"] == "ada"
    left = [path.name for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert left == [".lock"]  # nothing is left of the work
    inspection = client.inspect("cell", split.defective[0], method="l2bt")
    assert inspection.bundle_version == 1
    assert inspection.anomaly_map.shape == (300, 300)
    (product,) = client.products("cell")
    assert (product.method, product.ensemble) == ("l2bt", "l2bt_cell_448")


def test_same_seed_gives_the_same_students_and_another_others(train, good):
    first, second = (train("twin", good, *QUICK)["students_sha256"] for _ in range(2))
    assert first == second
    assert train("twin", good, *QUICK, "--seed", "1")["students_sha256"] != first


def test_killed_training_goes_on_to_the_same_students(train, served_fp32, good, tmp_path):
    expected = train("whole", good, *QUICK)["students_sha256"]
    asked = command(served_fp32, tmp_path, "killed", good, *QUICK)
    for file in ("tokens/filled.npy", "students.safetensors", "fold_0_of_2.safetensors"):
        with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not list((tmp_path / "work").glob(f"killed-*/{file}")):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    version = train("killed", good, *QUICK)
    assert version["students_sha256"] == expected
    assert version["version"] == 1


def test_students_of_the_official_code_are_served(train, client, good, tmp_path):
    files = write_random_students(tmp_path, 384, seed=7)
    assert "dinov2_vitb14_reg" in train("never", good, "--students", *files, status=2).stderr
    sure = ("--layers", "8", "12", "--smoothing", "boxes")  # trained on this very backbone
    version = train("official", good, "--students", *files, *sure)
    assert set(version["training"]["students"]) == {path.name for path in files}
    assert version["num_references"] == 0
    assert version["calibration"]["method"] == "good_images"
    assert version["smoothing"] == "boxes"
    scores = version["calibration"]["reference_scores"]
    image = sorted(good.iterdir())[0]
    inspection = client.inspect("official", image, method="l2bt")
    assert inspection.anomaly_score == pytest.approx(scores[0], rel=2e-3)  # tokens were in FP16


def test_good_images_set_the_thresholds_alone(train, good, split):
    version = train("calibrated", good, *QUICK, "--good", *split.enrolled[6:9])
    assert version["num_references"] == 6
    assert len(version["calibration"]["good_images"]) == 3
    assert version["calibration"]["method"] == "good_images"


def test_product_is_trained_again_after_its_deletion(train, client, good):
    train("again", good, *QUICK)
    client.delete("again", method="l2bt")
    assert train("again", good, *QUICK)["version"] == 2
    assert client.history("again", method="l2bt").current == 2


def test_server_that_is_not_there_is_told_by_the_exit_status(good, tmp_path):
    nowhere = (DINSPECT, "train", "never", good, "--url", "127.0.0.1:9", "--work-dir", tmp_path)
    done = subprocess.run([*map(str, nowhere)], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize("name", ["../../x", "my screw", ""])
def test_name_that_is_none_is_refused_at_once(train, good, tmp_path, name):
    assert "is no product name" in train(name, good, *QUICK, status=2).stderr
    assert not (tmp_path / "work").exists()


def test_version_that_is_not_activated_waits(train, client, good, split):
    train("waits", good, *QUICK)
    second = train("waits", good, *QUICK, "--threshold", "0.0001", "--no-activate")
    assert client.inspect("waits", split.enrolled[0], method="l2bt").bundle_version == 1
    client.activate("waits", second["version"], method="l2bt")
    inspection = client.inspect("waits", split.enrolled[0], method="l2bt")
    assert (inspection.bundle_version, inspection.verdict) == (2, Verdict.ANOMALOUS)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--resolution", "1036"), "no backbone of 1036 px is served, there are: 448"),
        (("--layers", "4", "12"), "puts out 8, 12"),
        (("--layers", "12", "8"), "the lower first"),
        (("--max-cache-gib", "0.001"), "bytes are allowed"),
        (("--device", "cuda"), "this PyTorch sees no GPU"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(
    train, client, good, arguments, reason
):
    assert reason in train("never", good, *QUICK, *arguments, status=2).stderr
    with pytest.raises(RequestRejected):
        client.history("never", method="l2bt")


def test_images_that_do_not_belong_together_are_refused(train, good, split, tmp_path):
    twice = tmp_path / "twice.png"
    shutil.copy(sorted(good.iterdir())[0], twice)
    assert "give each image once" in train("never", good, twice, *QUICK, status=2).stderr
    assert "a single image cannot" in train("never", twice, *QUICK, status=2).stderr


def test_students_that_diverge_are_not_published(train, client, good):
    done = train("diverges", good, *QUICK, "--learning-rate", "1e38", status=2)
    assert "epoch" in done.stderr
    with pytest.raises(RequestRejected):
        client.history("diverges", method="l2bt")


def test_students_of_another_backbone_are_refused(train, good, tmp_path):
    files = write_random_students(tmp_path, 768, seed=7)
    asked = ("never", good, "--layers", "8", "12", "--students", *files)
    assert "is not a student of dinov2_vits14" in train(*asked, status=2).stderr
    torch.save({}, files[0])
    assert "forward_net_random.pth" in train(*asked, status=2).stderr
    assert "3 files of students" in train(*asked, files[0], status=2).stderr
