"""The real runner: in our own environment on a small graph, in the peers' own on anomalib itself.

The small graph's score is the mean of its pixels, so what the runner does to an image is seen.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

import peer_models
import peer_systems
from dinspect_bench.errors import PeerError
from dinspect_bench.peers.installation import default_location, find_peers
from dinspect_bench.peers.process import PeerProcess, runner_command
from dinspect_bench.peers.systems import (
    anomaly_dino_model,
    anomaly_dino_systems,
    exported_systems,
    l2bt_model,
)
from dinspect_bench.studies.random_weights import write_random_backbone, write_random_students
from peer_images import read_pixels

SIDE_PX = 28


@pytest.fixture
def picture(tmp_path):
    """Red 255, green 51, blue 0, and a gradient of blue below: not the same when turned."""
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 255, 51
    pixels[14:, :, 2] = 102
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def graph(tmp_path):
    """Pixels to their mean and a map, with the names of anomalib's outputs."""
    shape = [1, 3, SIDE_PX, SIDE_PX]
    nodes = [
        helper.make_node("ReduceMean", ["input"], ["anomaly_map"], axes=[1], keepdims=1),
        helper.make_node("ReduceMean", ["input"], ["pred_score"], axes=[1, 2, 3], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, [1, 1, *shape[2:]]),
            helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, [1]),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "mean.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def ours(tmp_path):
    """The runner by our own interpreter."""
    with PeerProcess("ours", runner_command(Path(sys.executable)), tmp_path / "log") as process:
        yield process


MEAN = (255 + 51 + 102 / 2) / 3 / 255


def test_pixels_are_channels_first_and_scaled_to_one(picture):
    pixels = read_pixels(str(picture), SIDE_PX)
    assert (pixels.shape, pixels.dtype) == ((1, 3, SIDE_PX, SIDE_PX), np.float32)
    assert pixels.flags.c_contiguous
    assert np.allclose(pixels[0, 0], 1.0)
    assert np.allclose(pixels[0, 1], 0.2)
    assert np.allclose(pixels[0, 2, :14], 0.0)
    assert np.allclose(pixels[0, 2, 14:], 0.4)


def test_image_of_another_size_is_resized(picture):
    pixels = read_pixels(str(picture), 2 * SIDE_PX)
    assert pixels.shape == (1, 3, 2 * SIDE_PX, 2 * SIDE_PX)
    assert pixels.mean() == pytest.approx(MEAN, abs=1e-2)


@pytest.mark.parametrize(
    ("system", "options", "precision"),
    [
        ("onnxruntime", {}, "fp32"),
        ("openvino", {"precision": "f32"}, "fp32"),
        ("openvino", {"precision": None}, None),
    ],
)
def test_exported_graph_runs_and_is_timed(ours, graph, picture, system, options, precision):
    details = ours.prepare(system, {"file": str(graph), "side_px": SIDE_PX, **options})
    assert details["precision"] in ({precision} if precision else {"fp32", "bf16", "fp16"})
    versions = details["versions"]
    assert details["runtime"] == f"{system} {versions[system].partition('-')[0]}"
    assert "anomalib" not in versions  # it is not in our own environment
    sample = ours.run(picture)
    assert sample.score == pytest.approx(MEAN, abs=5e-3)
    assert 0 < sample.latency_ns < 5e9


def test_system_that_is_not_there_is_told(ours):
    with pytest.raises(PeerError, match="no system 'tensorrt'; expected one of export, openvino"):
        ours.prepare("tensorrt", {})


def test_image_that_is_not_there_is_told(ours, graph, tmp_path):
    ours.prepare("onnxruntime", {"file": str(graph), "side_px": SIDE_PX})
    with pytest.raises(PeerError, match="FileNotFoundError"):
        ours.run(tmp_path / "missing.png")


def test_what_the_study_asks_for_is_what_the_runner_takes(tmp_path):
    dino = anomaly_dino_model(tmp_path / "w.pth", [tmp_path / "a.jpg"], 448)
    l2bt = l2bt_model(tmp_path / "w.pth", (tmp_path / "f.pth", tmp_path / "b.pth"), 1036)
    for model in (dino, l2bt):
        arguments = dict(model)
        function = getattr(peer_models, arguments.pop("method"))
        inspect.signature(function).bind(**arguments)
    systems = [*anomaly_dino_systems(dino, tmp_path), *exported_systems(1036)]
    for system in systems:
        files = {} if system.file is None else {"file": "model"}
        function = peer_systems.SYSTEMS[system.system]
        inspect.signature(function).bind(**system.settings, **files)
    assert len({system.name for system in systems}) == 6
    assert sum(system.is_scored for system in exported_systems(448)) == 1


def test_openvino_is_run_as_it_comes_and_in_fp32():
    by_default, f32, onnxruntime = exported_systems(448)
    assert by_default.settings == {"side_px": 448, "precision": None}
    assert f32.settings == {"side_px": 448, "precision": "f32"}
    assert (by_default.file, f32.file, onnxruntime.file) == ("openvino", "openvino", "onnx")


def test_backbone_is_made_without_fetching_weights(monkeypatch):
    class Timm:
        @staticmethod
        def create_model(name, pretrained):
            return name, pretrained

    monkeypatch.setitem(sys.modules, "timm", Timm)
    with peer_models.without_pretrained_weights():
        assert Timm.create_model("vit", pretrained=True) == ("vit", False)
    assert Timm.create_model("vit", pretrained=True) == ("vit", True)


def peers_python():
    try:
        return find_peers(default_location())
    except PeerError:
        return None


@pytest.mark.timeout(600)
@pytest.mark.skipif(peers_python() is None, reason="needs `dinspect install-peers`")
class TestAnomalib:
    """The real anomalib, at a size of 4 x 4 patches and with random weights."""

    SIDE_PX = 56

    @pytest.fixture
    def images(self, tmp_path):
        generator = np.random.default_rng(0)
        paths = [tmp_path / f"{name}.png" for name in ("reference", "other")]
        for path in paths:
            noise = generator.integers(0, 255, (self.SIDE_PX, self.SIDE_PX, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
        return paths

    @pytest.fixture
    def dino(self, images, tmp_path):
        weights = tmp_path / "vits.pth"
        write_random_backbone(weights, "dinov2_vits14", seed=1)
        return anomaly_dino_model(weights, images[:1], self.SIDE_PX)

    @pytest.fixture
    def peer(self, tmp_path):
        command = runner_command(peers_python())
        with PeerProcess("peer", command, tmp_path / "peer.log") as process:
            yield process

    def test_anomaly_dino_finds_its_own_reference_normal(self, peer, dino, images):
        details = peer.prepare("pytorch", {"model": dino})
        assert details["precision"] == "fp32"
        reference, other = (peer.run(path).score for path in images)
        assert abs(reference) < 1e-5
        assert other > 1e-4

    def test_export_computes_what_pytorch_does(self, peer, dino, images, tmp_path):
        files = peer.prepare("export", {"model": dino, "folder": str(tmp_path / "exported")})
        peer.prepare("pytorch", {"model": dino})
        expected = peer.run(images[1]).score
        openvino = {"file": files["openvino"], "side_px": self.SIDE_PX, "precision": "f32"}
        onnxruntime = {"file": files["onnx"], "side_px": self.SIDE_PX}
        for system, settings in (("openvino", openvino), ("onnxruntime", onnxruntime)):
            peer.prepare(system, settings)
            assert peer.run(images[1]).score == pytest.approx(expected, rel=1e-3, abs=1e-6)

    def test_l2bt_takes_our_backbone_and_students(self, peer, images, tmp_path):
        weights = tmp_path / "vitb.pth"
        write_random_backbone(weights, "dinov2_vitb14_reg", seed=1)
        students = write_random_students(tmp_path, 768, seed=1)
        peer.prepare("pytorch", {"model": l2bt_model(weights, students, self.SIDE_PX)})
        assert peer.run(images[0]).score > 0

    def test_backbone_alone_makes_no_score(self, peer, dino, images):
        settings = {
            "name": "vit_small_patch14_dinov2", "weights": dino["weights"],
            "side_px": self.SIDE_PX,
        }  # fmt: skip
        versions = peer.prepare("pytorch_backbone", settings)["versions"]
        assert versions.keys() == {"anomalib", "timm", "torch", "openvino", "onnxruntime"}
        assert peer.run(images[0]).score is None

    def test_weights_of_another_backbone_are_refused(self, peer, dino, tmp_path):
        weights = tmp_path / "other.pth"
        torch.save({"cls_token": torch.zeros(1, 1, 384)}, weights)
        with pytest.raises(PeerError, match="Missing key"):
            peer.prepare("pytorch", {"model": dino | {"weights": str(weights)}})
