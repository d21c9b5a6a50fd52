"""Peers made ready, with a fake peer as a real process: what fails keeps nobody else."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from dinspect_bench.peers.rounds import NotRun
from dinspect_bench.peers.started import started_peers
from dinspect_bench.peers.systems import PeerSystem

FAKE = [sys.executable, str(Path(__file__).with_name("fake_peer.py"))]
OPENVINO = PeerSystem("with file", "openvino", "", {"side_px": 28}, "openvino")
PYTORCH = PeerSystem("without file", "pytorch", "")
BROKEN = PeerSystem("missing", "broken", "")


def test_exported_file_reaches_those_that_run_it(tmp_path):
    with started_peers([OPENVINO, PYTORCH], {"method": "l2bt"}, FAKE, tmp_path) as started:
        assert [process.name for process in started.ready] == ["with file", "without file"]
        settings = {name: details["settings"] for name, details in started.details.items()}
    assert settings == {
        "with file": {"side_px": 28, "file": "/files/model.xml"},
        "without file": {},
    }
    assert started.not_run == {}


def test_peer_that_cannot_start_leaves_the_others(tmp_path):
    with started_peers([BROKEN, PYTORCH], {"method": "l2bt"}, FAKE, tmp_path) as started:
        assert [process.name for process in started.ready] == ["without file"]
        assert started.not_run == {
            "missing": NotRun("ModuleNotFoundError: No module named 'anomalib'")
        }
        assert list(started.details) == ["without file"]


def test_export_that_fails_stops_those_that_need_it(tmp_path):
    with started_peers([OPENVINO, PYTORCH], {"method": "unknown"}, FAKE, tmp_path) as started:
        assert [process.name for process in started.ready] == ["without file"]
    (reason,) = started.not_run.values()
    assert reason.reason == ("anomalib's model could not be exported: RuntimeError: no such graph")


def test_nothing_is_exported_when_nobody_needs_it(tmp_path):
    with started_peers([PYTORCH], {"method": "unknown"}, FAKE, tmp_path) as started:
        assert started.not_run == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["without-file.log"]


@pytest.mark.parametrize("raised", [None, KeyError])
def test_no_process_is_left_behind(tmp_path, raised):
    before = {child.pid for child in psutil.Process().children()}
    try:
        with started_peers([BROKEN, PYTORCH, OPENVINO], {"method": "l2bt"}, FAKE, tmp_path):
            assert len({child.pid for child in psutil.Process().children()} - before) == 2
            if raised:
                raise raised
    except KeyError:
        pass
    assert {child.pid for child in psutil.Process().children()} <= before
