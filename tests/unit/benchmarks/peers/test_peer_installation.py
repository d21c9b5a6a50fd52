"""The peers' environment: what is installed in what order. Nothing is fetched here: a recorder
stands in for pip and for making an environment."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from dinspect_bench.errors import PeerError
from dinspect_bench.peers import installation
from dinspect_bench.peers.commands import InstallPeersCommand
from dinspect_bench.peers.installation import (
    REQUIREMENTS,
    default_location,
    find_peers,
    first_requirement,
    install_peers,
    requirement_lines,
)


@pytest.fixture
def pip(monkeypatch):
    """What pip was asked for; ``fails_at`` is the call that fails."""

    class Recorder:
        fails_at = None

        def __init__(self):
            self.calls = []

        def run(self, command, **options):
            self.calls.append(command)
            if len(self.calls) == self.fails_at:
                raise subprocess.CalledProcessError(1, command, stderr="no matching distribution\n")

    def create(location, symlinks, with_pip):
        assert symlinks
        assert with_pip
        (location / "bin").mkdir(parents=True, exist_ok=True)
        for name in ("bin/python", "pyvenv.cfg"):
            (location / name).write_text("made")

    recorder = Recorder()
    monkeypatch.setattr(subprocess, "run", recorder.run)
    monkeypatch.setattr(venv, "create", create)
    return recorder


def test_pytorch_is_installed_first_and_alone(pip, tmp_path):
    told = []
    install_peers(tmp_path / "peers", told.append)
    first, rest = pip.calls
    assert first[-1] == "torch==2.13.0"
    assert first[:4] == [str(tmp_path / "peers/bin/python"), "-m", "pip", "install"]
    assert rest[-2:] == ["--requirement", str(REQUIREMENTS)]
    assert told[1] == "installing torch==2.13.0"
    assert "anomalib[openvino]==2.7.0" in told[2]


def test_installation_that_is_there_is_left_alone(pip, tmp_path):
    install_peers(tmp_path / "peers")
    told = []
    install_peers(tmp_path / "peers", told.append)
    assert len(pip.calls) == 2
    assert told == [f"the peers are installed in {tmp_path / 'peers'}"]


def test_other_requirements_are_installed(pip, tmp_path, monkeypatch):
    install_peers(tmp_path / "peers")
    newer = tmp_path / "newer.txt"
    newer.write_text(REQUIREMENTS.read_text().replace("anomalib[openvino]==2.7.0", "anomalib==3"))
    monkeypatch.setattr(installation, "REQUIREMENTS", newer)
    install_peers(tmp_path / "peers")
    assert len(pip.calls) == 4
    assert pip.calls[-1][-1] == str(newer)


def test_installation_that_failed_is_completed_next_time(pip, tmp_path):
    pip.fails_at = 2
    with pytest.raises(
        PeerError, match=r"requirements\.txt for the peers; pip ended with:\nno mat"
    ):
        install_peers(tmp_path / "peers")
    install_peers(tmp_path / "peers")
    assert len(pip.calls) == 4


def test_folder_of_something_else_is_not_touched(pip, tmp_path):
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(PeerError, match="not empty and no virtual environment"):
        install_peers(tmp_path)
    assert pip.calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_python_that_is_too_old_is_told(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    with pytest.raises(PeerError, match=r"need Python 3\.11 or newer, this is 3\.10"):
        install_peers(tmp_path / "peers")
    assert pip.calls == []


def test_pip_that_cannot_be_started_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(venv, "create", lambda location, **options: location.mkdir())
    with pytest.raises(PeerError, match=r"cannot install torch==2\.13\.0 for the peers"):
        install_peers(tmp_path / "peers")


def test_every_requirement_is_pinned():
    lines = requirement_lines(REQUIREMENTS.read_text())
    assert len(lines) >= 12
    for line in lines:
        assert re.fullmatch(r"[a-z]+(\[[a-z]+\])?==\d+(\.\d+)+", line), line
    names = [line.partition("==")[0] for line in lines]
    assert {"torch", "torchvision", "anomalib[openvino]", "onnxruntime", "timm"} <= set(names)


def test_comments_are_no_requirements():
    text = "# why\n\ntorchvision==2\ntorch==1  # first\n"
    assert requirement_lines(text) == ["torchvision==2", "torch==1"]
    assert first_requirement(text) == "torch==1"


def test_peers_that_are_not_installed_say_what_to_run(tmp_path):
    with pytest.raises(PeerError, match="run: dinspect install-peers"):
        find_peers(tmp_path)


def test_peers_are_found_where_the_variable_says(pip, tmp_path, monkeypatch):
    monkeypatch.setenv("DINSPECT_PEERS", str(tmp_path / "elsewhere"))
    assert default_location() == tmp_path / "elsewhere"
    install_peers(default_location())
    assert find_peers(default_location()) == tmp_path / "elsewhere/bin/python"
    monkeypatch.delenv("DINSPECT_PEERS")
    assert default_location().parts[-2:] == ("dinspect", "peers")


def test_command_installs_where_it_is_told(pip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DINSPECT_PEERS", str(tmp_path / "by_variable"))
    parser = argparse.ArgumentParser()
    command = InstallPeersCommand()
    command.add_arguments(parser)
    assert command.run(parser.parse_args([])) == 0
    assert command.run(parser.parse_args(["--location", str(tmp_path / "named")])) == 0
    assert Path(pip.calls[0][0]) == tmp_path / "by_variable/bin/python"
    assert Path(pip.calls[2][0]) == tmp_path / "named/bin/python"
    assert "installing torch==2.13.0" in capsys.readouterr().out
