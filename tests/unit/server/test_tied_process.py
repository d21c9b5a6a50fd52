from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil

from dinspect_server.tied_process import tied_command

PARENT = """
import subprocess, sys
from dinspect_server.tied_process import tied_command
child = subprocess.Popen(tied_command([sys.executable, "-c", "import time; time.sleep(60)"]))
print(child.pid, flush=True)
child.wait()
"""


def test_it_becomes_the_command(tmp_path):
    shell = ["/bin/sh", "-c", 'echo "$$ $0 $1 $COLOUR"; pwd; exit 7', "a name", "two words"]
    process = subprocess.Popen(
        tied_command(shell), stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={"COLOUR": "blue"},
    )  # fmt: skip
    printed, _ = process.communicate(timeout=30)
    assert printed.splitlines() == [f"{process.pid} a name two words blue", str(tmp_path)]
    assert process.returncode == 7


def test_it_ends_with_the_process_that_started_it():
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as parent:  # fmt: skip
        child = psutil.Process(int(parent.stdout.readline()))
        while "-c" not in child.cmdline()[:3]:
            pass  # it has not become the command yet
        parent.send_signal(signal.SIGKILL)
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_it_does_not_begin_where_that_process_has_ended():
    command = tied_command(["/bin/echo", "begun"])
    command[4] = "1"  # this test's process is none of init's children
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the process that starts the server has ended meanwhile\n"


def test_missing_command_is_told():
    command = tied_command(["/nowhere/tritonserver"])
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr == "cannot run /nowhere/tritonserver: No such file or directory\n"
