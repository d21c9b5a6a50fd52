from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading

import pytest

from dinspect_export import weights_download
from dinspect_export.errors import CheckpointError
from dinspect_export.variants import variant_by_name
from dinspect_export.weights_download import download_from_meta

CONTENT = b"weights" * 1000
VARIANT = dataclasses.replace(
    variant_by_name("dinov2_vits14"), checkpoint_sha256=hashlib.sha256(CONTENT).hexdigest()
)


class _Publisher(http.server.BaseHTTPRequestHandler):
    content = CONTENT
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
    first = download_from_meta(VARIANT, tmp_path / "weights")
    assert first == tmp_path / "weights" / "dinov2_vits14_pretrain.pth"
    assert first.read_bytes() == CONTENT
    assert download_from_meta(VARIANT, tmp_path / "weights") == first
    assert publisher.hits == 1


def test_broken_download_leaves_nothing(publisher, tmp_path):
    publisher.cut_at = 100
    with pytest.raises(CheckpointError, match="broke off|IncompleteRead"):
        download_from_meta(VARIANT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_altered_download_is_refused_and_removed(publisher, tmp_path):
    publisher.content = CONTENT.replace(b"w", b"W", 1)
    with pytest.raises(
        CheckpointError, match=f"SHA-256 [0-9a-f]{{64}}, expected is {VARIANT.checkpoint_sha256}"
    ):
        download_from_meta(VARIANT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_of_unknown_digest_is_kept(publisher, tmp_path):
    variant = dataclasses.replace(VARIANT, checkpoint_sha256=None)
    assert download_from_meta(variant, tmp_path).read_bytes() == CONTENT


def test_unreachable_address_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "dinspect_export.variants.BackboneVariant.checkpoint_url",
        property(lambda self: "http://127.0.0.1:9/dinov2_vits14_pretrain.pth"),
    )
    monkeypatch.setattr(weights_download, "DOWNLOAD_TIMEOUT_S", 2.0)
    with pytest.raises(CheckpointError, match="pass its path, or use 'packaged'"):
        download_from_meta(VARIANT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_meta_does_not_publish_is_not_downloaded(tmp_path):
    with pytest.raises(CheckpointError, match="not published by Meta but by torchvision"):
        download_from_meta(variant_by_name("vit_l_16"), tmp_path)
