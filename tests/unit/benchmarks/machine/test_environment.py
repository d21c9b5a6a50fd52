"""What is told of the machine, and what is not."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import subprocess
from types import SimpleNamespace

import pytest

from dinspect_bench.machine import environment
from dinspect_bench.machine.environment import (
    cpu_facts_from_cpuinfo,
    cpu_quota_from_cgroup,
    describe_environment,
    git_state,
)

X86 = """processor\t: 0
model name\t: Some(R) Processor 9000
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_bf16 hypervisor

processor\t: 1
model name\t: Some(R) Processor 9000
flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16 amx_bf16 hypervisor
"""


def strings_of(value):
    if isinstance(value, dict):
        return [text for key, entry in value.items() for text in (key, *strings_of(entry))]
    if isinstance(value, list):
        return [text for entry in value for text in strings_of(entry)]
    return [value] if isinstance(value, str) else []


def test_no_host_name_user_name_or_path_is_told():
    texts = strings_of(describe_environment())
    assert texts
    for text in texts:
        assert not re.search(r"(^|[\s=:'\"])(/|~|[A-Za-z]:\\)\w", text), text
        words = re.split(r"[^\w.-]+", text)
        assert socket.gethostname() not in words
        assert getpass.getuser() not in words


def test_environment_is_json_and_tells_what_matters():
    told = json.loads(json.dumps(describe_environment(), allow_nan=False))
    assert told["cpu"]["model"]
    assert told["cpu"]["usable_cores"] >= 1
    assert told["memory_gib"] > 0
    assert re.fullmatch(r"CPython \d+\.\d+\.\d+\S*", told["python"])
    assert {"numpy", "tritonclient"} <= told["packages"].keys()
    assert all(told["packages"].values())


def test_decisive_flags_are_picked_from_cpuinfo():
    model, flags, virtualised = cpu_facts_from_cpuinfo(X86)
    assert model == "Some(R) Processor 9000"
    assert flags == ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"]
    assert virtualised


def test_arm_spells_flags_differently():
    assert cpu_facts_from_cpuinfo("Features\t: fp asimd asimddp sve\n")[1] == ["asimddp", "sve"]
    assert cpu_facts_from_cpuinfo("") == ("", [], False)


@pytest.mark.parametrize(
    ("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)]
)
def test_a_containers_quota_is_read(text, quota):
    assert cpu_quota_from_cgroup(text) == quota


def test_gpus_are_read_from_nvidia_smi(monkeypatch):
    line = "NVIDIA H200, 570.10, 143771 MiB, 345 MHz, 1980 MHz\nunreadable\n"
    monkeypatch.setattr(environment, "_output_of", lambda *command: line)
    assert environment._gpus() == [
        {
            "name": "NVIDIA H200",
            "driver": "570.10",
            "memory": "143771 MiB",
            "clock": "345 MHz",
            "max_clock": "1980 MHz",
        }
    ]


@pytest.mark.parametrize(
    ("told", "clock"),
    [
        (SimpleNamespace(current=2596.124, max=3700.0), {"current": 2596.1, "max": 3700.0}),
        (SimpleNamespace(current=2596.0, max=0.0), {"current": 2596.0, "max": None}),
        (None, {"current": None, "max": None}),
    ],
)
def test_clock_is_what_the_system_tells(monkeypatch, told, clock):
    """The system's answer is made up here."""
    monkeypatch.setattr(environment.psutil, "cpu_freq", lambda: told)
    assert describe_environment()["cpu"]["clock_mhz"] == clock


@pytest.mark.parametrize("error", [NotImplementedError, FileNotFoundError, RuntimeError])
def test_clock_that_the_system_hides_is_no_error(monkeypatch, error):
    def hidden():
        raise error

    monkeypatch.setattr(environment.psutil, "cpu_freq", hidden)
    assert describe_environment()["cpu"]["clock_mhz"] == {"current": None, "max": None}


def test_a_missing_program_is_no_error():
    assert environment._output_of("surely-not-a-program") == ""
    assert environment._output_of("false") == ""


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_only_the_repository_that_tracks_a_file_gives_its_commit(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        command = ("git", "-C", str(tmp_path), *identity, *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.write_text("1")
    assert git_state(tracked) is None
    git("init", "-q")
    git("add", "tracked.py")
    assert git_state(tracked) is None
    git("commit", "-q", "-m", "first")
    untracked.write_text("2")
    assert git_state(untracked) is None
    assert git_state(tracked) == {"commit": git("rev-parse", "HEAD"), "changed_files": False}
    tracked.write_text("3")
    assert git_state(tracked)["changed_files"] is True
