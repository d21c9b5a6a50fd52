"""Work folders live as long as their owner."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import work_folder
from work_folder import WorkFolder, remove_abandoned

OWNER = """
import sys, time
from pathlib import Path
from work_folder import WorkFolder
folder = WorkFolder(Path(sys.argv[1]))
(folder.path / "part").write_bytes(b"content")
print(folder.path.name, flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process with a work folder, and that folder."""
    environment = os.environ | {"PYTHONPATH": os.path.dirname(work_folder.__file__)}
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_folder_is_hidden_and_gone_when_removed(tmp_path):
    folder = WorkFolder(tmp_path)
    assert folder.path.parent == tmp_path
    assert folder.path.name.startswith(".")
    (folder.path / "part").write_bytes(b"content")
    folder.remove()
    assert os.listdir(tmp_path) == []
    folder.remove()  # no harm


def test_folder_in_use_is_no_leftover(tmp_path, owner):
    _, theirs = owner
    ours = WorkFolder(tmp_path)
    remove_abandoned(tmp_path)
    assert (theirs / "part").read_bytes() == b"content"
    assert ours.path.is_dir()
    ours.remove()


def test_folder_of_a_killed_process_is_a_leftover(tmp_path, owner):
    process, theirs = owner
    process.kill()
    process.wait()
    assert (theirs / "part").is_file()
    remove_abandoned(tmp_path)
    assert os.listdir(tmp_path) == []


def test_leftovers_of_any_kind_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".1.partial").mkdir()  # its owner died before taking the lock
    (tmp_path / ".2.partial").write_bytes(b"a file")
    (tmp_path / "screw").mkdir()
    (tmp_path / "screw" / "file").write_bytes(b"precious")
    (tmp_path / ".3.partial").symlink_to(tmp_path / "screw")
    (tmp_path / ".4.partial").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".numbers").mkdir()
    (tmp_path / "not.partial").mkdir()
    remove_abandoned(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".numbers", "not.partial", "screw"]
    assert (tmp_path / "screw" / "file").read_bytes() == b"precious"
