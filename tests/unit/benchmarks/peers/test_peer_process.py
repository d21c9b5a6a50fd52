"""The protocol with a real process on the other side, and what becomes of one that fails."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from dinspect_bench.errors import PeerError
from dinspect_bench.peers.process import PeerProcess, processor_seconds, runner_command
from dinspect_bench.peers.rounds import Sample

FAKE = [sys.executable, str(Path(__file__).with_name("fake_peer.py"))]
IMAGE = Path("/images/cell0001.jpg")


@pytest.fixture
def peer(tmp_path):
    def make(command=FAKE, **timeouts):
        return PeerProcess("fake", command, tmp_path / "fake.log", **timeouts)

    return make


def test_peer_is_prepared_and_times_itself(peer, tmp_path):
    with peer() as process:
        details = process.prepare("steady", {"side_px": 28})
        assert details["settings"] == {"side_px": 28}
        assert details["runtime"] == "fake steady"
        for _ in range(3):
            assert process.run(IMAGE) == Sample(5_000_000, 12.0)
        pid = process._running().pid
    assert not psutil.pid_exists(pid)
    assert "a library chatters" in (tmp_path / "fake.log").read_text()


def test_peers_threads_sleep_while_they_wait_and_ours_is_not_inherited(peer, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("PYTHONPATH", "/a/folder/of/ours")
    with peer() as process:
        assert process.prepare("steady", {})["omp"] == "PASSIVE"
        environment = psutil.Process(process._running().pid).environ()
    assert "PYTHONPATH" not in environment
    assert environment["KMP_BLOCKTIME"] == "0"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_reason_why_a_peer_cannot_be_prepared_is_its_own(peer):
    with peer() as process, pytest.raises(PeerError, match="ModuleNotFoundError: No module named"):
        process.prepare("broken", {})


def test_running_what_only_exports_is_refused(peer):
    with peer() as process:
        process.prepare("export", {"model": {"method": "l2bt"}})
        with pytest.raises(PeerError, match="nothing prepared to run"):
            process.run(IMAGE)


def test_error_of_one_image_leaves_the_process_alive(peer):
    with peer() as process:
        process.prepare("raises", {})
        for _ in range(2):
            with pytest.raises(PeerError, match=r"ValueError: cannot read cell0001\.jpg"):
                process.run(IMAGE)


def test_peer_that_dies_says_with_what_last_words(peer):
    with peer() as process:
        process.prepare("dies", {})
        with pytest.raises(PeerError, match="status 3; the last it printed: Killed for its memory"):
            process.run(IMAGE)
        with pytest.raises(PeerError, match="status 3"):
            process.run(IMAGE)


def test_peer_that_hangs_is_ended_so_that_it_disturbs_nobody(peer):
    with peer(run_timeout_s=0.5) as process:
        process.prepare("hangs", {})
        pid = process._running().pid
        started_s = time.monotonic()
        with pytest.raises(PeerError, match=r"no answer within 0\.5 s"):
            process.run(IMAGE)
        process._running().wait(5)
        assert time.monotonic() - started_s < 5
    assert not psutil.pid_exists(pid)


def test_peer_that_talks_nonsense_is_refused(peer):
    command = [sys.executable, "-c", "input(); print('Hello'); input()"]
    with peer(command) as process, pytest.raises(PeerError, match="'Hello', which is no JSON"):
        process.prepare("steady", {})


def test_answer_that_comes_in_pieces_is_put_together(peer):
    script = (
        "import sys, time; input(); sys.stdout.write('{\"details\": '); sys.stdout.flush();"
        "time.sleep(0.2); print('{\"threads\": 2}}', flush=True); input()"
    )
    with peer([sys.executable, "-c", script]) as process:
        assert process.prepare("steady", {}) == {"threads": 2}


def test_missing_interpreter_is_told(peer):
    process = peer(runner_command(Path("/nowhere/bin/python")))
    with pytest.raises(PeerError, match="fake cannot be started"):
        process.__enter__()


def test_peer_that_was_not_started_is_told(peer):
    with pytest.raises(PeerError, match="has not been started"):
        peer().run(IMAGE)


def test_runner_is_run_by_the_peers_interpreter():
    python, runner = runner_command(Path("/peers/bin/python"))
    assert python == "/peers/bin/python"
    assert (Path(runner) / "__main__.py").is_file()


def test_processor_time_rises_with_work_and_ends_with_the_process(peer):
    before_s = processor_seconds([os.getpid()])
    deadline_s = time.process_time() + 0.1
    while time.process_time() < deadline_s:
        pass
    assert processor_seconds([os.getpid()]) - before_s > 0.05
    with peer() as process:
        process.prepare("steady", {})
        assert process.processor_s() > 0
        pid = process._running().pid
    assert processor_seconds([pid]) == 0.0
