"""A start that Triton gives up; a shell script that ends like it stands in for the binary."""

from __future__ import annotations

import logging

import pytest

from dinspect_server import embedded
from dinspect_server.assemble import assemble
from dinspect_server.embedded import EmbeddedTriton
from dinspect_server.errors import StartError

LOST_LOCK = "terminate called after throwing an instance of 'boost::interprocess::lock_exception'"


@pytest.fixture
def starts(artefacts_dir, tmp_path, monkeypatch):
    """Start a server whose process says something and dies; how often it was started."""
    assemble(artefacts_dir, tmp_path / "repository")
    count = tmp_path / "count"

    def start(words):
        script = f'echo x >> {count}; echo "{words}"; kill -ABRT $$'
        server = EmbeddedTriton(tmp_path / "repository")
        monkeypatch.setattr(server, "_command", lambda _: ["/bin/sh", "-c", script])
        with pytest.raises(StartError, match="ended with status -6"):
            server.start()
        return len(count.read_text().splitlines())

    return start


def test_lock_lost_on_a_busy_machine_is_tried_again(starts, caplog):
    with caplog.at_level(logging.WARNING):
        assert starts(LOST_LOCK) == embedded._START_ATTEMPTS
    assert caplog.text.count("too busy") == embedded._START_ATTEMPTS - 1


def test_any_other_end_is_told_at_once(starts):
    assert starts("no such backend") == 1
