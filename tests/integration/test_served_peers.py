"""The study of the peers on the real server, with a fake in place of anomalib.

The fake is a real process that speaks the real protocol and answers at once, so nothing is said of
anomalib here; ours is measured.
"""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinspect_bench.studies.peer_cases import PeerCase, prepared_l2bt
from dinspect_client.main import main
from dinspect_client.wire import Method
from dinspect_export.backbone import ExportableBackbone
from dinspect_export.checkpoints import load_checkpoint, network_from_checkpoint
from dinspect_export.student_files import load_students
from dinspect_export.students import StudentDistance

FAKE = Path(__file__).parents[1] / "unit" / "benchmarks" / "peers" / "fake_peer.py"


@pytest.fixture
def fake_peers(tmp_path, monkeypatch):
    """An environment whose interpreter is the fake."""
    python = tmp_path / "peers" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("DINSPECT_PEERS", str(tmp_path / "peers"))


def study(artefacts_dir, output):
    command = ["study", "peers", "--quick", "--precision", "fp32", "--output", str(output)]
    assert main([*command, "--artefacts", str(artefacts_dir)]) == 0
    lines = output.with_suffix(".jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_ours_is_measured_beside_every_peer(artefacts_dir, tmp_path, fake_peers):
    output = tmp_path / "peers.md"
    ours, *peers = records = study(artefacts_dir, output)
    assert [record["not_run"] for record in records] == [None] * 7
    assert [record["num_samples"] for record in records] == [2] * 7
    assert (ours["system"], ours["precision"]) == ("dinspect served", "fp32")
    assert ours["bank_patches"] == 8192
    assert 5 < ours["p50_ms"] < 60_000
    assert {peer["p50_ms"] for peer in peers} == {5.0}  # as the fake says
    for peer in peers:
        assert peer["dinspect_ratio_of_medians"] == pytest.approx(ours["p50_ms"] / 5.0)
    scored = {record["system"] for record in records if record["image_auroc"] is not None}
    assert scored == {"dinspect served", "anomalib OpenVINO"}
    assert study(artefacts_dir, output) == records  # nothing is measured again


@pytest.mark.timeout(600)
def test_l2bt_is_served_with_the_weights_that_the_peers_get(tmp_path):
    """The real case at another size: a ViT-S at 224 x 224 takes seconds."""
    case = PeerCase("small", Method.L2BT, "dinov2_vits14_reg", 224, num_rounds=1, num_warmup=0)
    with prepared_l2bt(case, tmp_path, "fp32") as prepared:
        with Image.open(prepared.images[0]) as image:
            assert (image.format, image.size) == ("JPEG", (224, 224))
        sample = prepared.ours.run(prepared.images[0])
        assert prepared.ours.processor_s() > 0
    assert prepared.precision == "fp32"
    assert [peer.file for peer in prepared.peers] == ["openvino", "openvino", "onnx"]
    model = prepared.model
    checkpoint = load_checkpoint(model["weights"], "dinov2_vits14_reg", tmp_path)
    students = load_students(
        Path(model["forward_student"]), Path(model["backward_student"]),
        variant_name="dinov2_vits14_reg", layers=(8, 12),
    )  # fmt: skip
    tokens = _tokens(network_from_checkpoint(checkpoint), prepared.images[0])
    with torch.inference_mode():
        distances = StudentDistance(students.pair, (16, 16))(*tokens)[0].numpy()
    # The mean of the largest values of a smoothed map lies between its patches' mean and maximum.
    assert distances.mean() < sample.score < distances.max()


def _tokens(network, path):
    """Patch tokens of blocks 8 and 12 in PyTorch."""
    backbone = ExportableBackbone(network, (16, 16), [8, 12]).eval()
    with Image.open(path) as image, torch.inference_mode():
        return backbone(torch.from_numpy(np.asarray(image.convert("RGB"))[None].copy()))


def test_missing_peers_are_told_and_ours_is_measured(artefacts_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("DINSPECT_PEERS", str(tmp_path / "nothing"))
    output = tmp_path / "peers.md"
    ours, *peers = study(artefacts_dir, output)
    assert ours["num_samples"] == 2
    assert len(peers) == 6
    assert all("dinspect install-peers" in peer["not_run"] for peer in peers)
    page = output.read_text()
    assert page.count("| not run: the peers are not installed; run: ") == 6
    assert "No peer was run" in page
    assert str(tmp_path) not in page
