from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest
import torch

from dinspect_export import checkpoints
from dinspect_export.backbone import DinoVisionTransformer
from dinspect_export.checkpoints import (
    Checkpoint,
    download_from_meta,
    load_checkpoint,
    meta_names_from_hugging_face,
    network_from_checkpoint,
    packaged_onnx_path,
)
from dinspect_export.errors import CheckpointError
from dinspect_export.variants import variant_by_name

VARIANT = variant_by_name("dinov2_vits14")


@pytest.fixture(scope="module")
def state_dict():
    torch.manual_seed(0)
    return DinoVisionTransformer(VARIANT).state_dict()


@pytest.fixture(scope="module")
def pth(state_dict, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dinov2_vits14_pretrain.pth"
    torch.save(state_dict, path)
    return path


def test_local_file_loads_with_its_digest(pth, state_dict, tmp_path):
    checkpoint = load_checkpoint(str(pth), VARIANT.name, tmp_path)
    assert checkpoint.sha256 == hashlib.sha256(pth.read_bytes()).hexdigest()
    assert not checkpoint.fine_tuned
    network = network_from_checkpoint(checkpoint)
    assert torch.equal(network.blocks[11].mlp.fc2.weight, state_dict["blocks.11.mlp.fc2.weight"])
    assert not network.training


def test_packaged_weights_say_what_they_are(tmp_path, caplog):
    checkpoint = load_checkpoint("packaged", VARIANT.name, tmp_path)
    assert checkpoint.fine_tuned
    assert checkpoint.sha256 == hashlib.sha256(packaged_onnx_path().read_bytes()).hexdigest()
    assert "not for production" in caplog.text
    network_from_checkpoint(checkpoint)  # strict: every parameter found its name


def test_packaged_weights_are_refused_for_another_variant(tmp_path):
    with pytest.raises(CheckpointError, match="dinov2_vits14, not dinov2_vitb14"):
        load_checkpoint("packaged", "dinov2_vitb14", tmp_path)


def test_blocks_after_the_depth_are_dropped(pth, tmp_path):
    network = network_from_checkpoint(load_checkpoint(str(pth), VARIANT.name, tmp_path), depth=8)
    assert len(network.blocks) == 8


def test_truncated_file_is_refused(pth, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(pth.read_bytes()[:1_000_000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(str(cut), VARIANT.name, tmp_path)


def test_pickled_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(str(tmp_path / "bomb.pth"), VARIANT.name, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_missing_file_says_what_could_be_given(tmp_path):
    with pytest.raises(CheckpointError, match="'meta' to download"):
        load_checkpoint(str(tmp_path / "none.pth"), VARIANT.name, tmp_path)


def test_another_size_is_named(state_dict):
    checkpoint = Checkpoint(variant_by_name("dinov2_vitb14"), state_dict, "s.pth", "0")
    with pytest.raises(CheckpointError, match=r"not dinov2_vitb14 \(it looks like dinov2_vits14\)"):
        network_from_checkpoint(checkpoint)


def test_missing_and_left_over_parameters_are_named(state_dict):
    damaged = {name: value for name, value in state_dict.items() if name != "norm.bias"}
    damaged["head.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"missing norm\.bias; left over head\.weight"):
        network_from_checkpoint(Checkpoint(VARIANT, damaged, "x", "0"))


def test_hugging_face_names_are_translated():
    query, key, value = (torch.full((2, 2), float(n)) for n in range(3))
    prefix = "encoder.layer.3.attention.attention."
    found = meta_names_from_hugging_face(
        {
            f"{prefix}query.weight": query,
            f"{prefix}key.weight": key,
            f"{prefix}value.weight": value,
            "encoder.layer.3.layer_scale1.lambda1": torch.ones(2),
            "encoder.layer.3.mlp.fc1.bias": torch.ones(8),
            "layernorm.weight": torch.ones(2),
        }
    )
    assert set(found) == {
        "blocks.3.attn.qkv.weight",
        "blocks.3.ls1.gamma",
        "blocks.3.mlp.fc1.bias",
        "norm.weight",
    }
    assert found["blocks.3.attn.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]


class _Publisher(http.server.BaseHTTPRequestHandler):
    content = b"weights" * 1000
    cut_at: int | None = None
    hits = 0

    def do_GET(self):
        type(self).hits += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.cut_at])

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(monkeypatch):
    class Handler(_Publisher):
        pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/dinov2_vits14_pretrain.pth"
    monkeypatch.setattr(
        "dinspect_export.variants.BackboneVariant.checkpoint_url", property(lambda self: address)
    )
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_happens_once(publisher, tmp_path):
    first = download_from_meta(VARIANT, tmp_path)
    assert first.read_bytes() == publisher.content
    assert download_from_meta(VARIANT, tmp_path) == first
    assert publisher.hits == 1


def test_broken_download_leaves_nothing(publisher, tmp_path):
    publisher.cut_at = 100
    with pytest.raises(CheckpointError, match="broke off|IncompleteRead"):
        download_from_meta(VARIANT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_address_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "dinspect_export.variants.BackboneVariant.checkpoint_url",
        property(lambda self: "http://127.0.0.1:9/dinov2_vits14_pretrain.pth"),
    )
    monkeypatch.setattr(checkpoints, "DOWNLOAD_TIMEOUT_S", 2.0)
    with pytest.raises(CheckpointError, match="pass its path, or use 'packaged'"):
        download_from_meta(VARIANT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_published_addresses_are_metas():
    assert VARIANT.checkpoint_url.endswith("/dinov2_vits14/dinov2_vits14_pretrain.pth")
    registers = variant_by_name("dinov2_vitg14_reg").checkpoint_url
    assert registers.endswith("/dinov2_vitg14/dinov2_vitg14_reg4_pretrain.pth")
