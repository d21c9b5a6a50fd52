"""Become a command that ends when the process that started it is killed.

``python -I -S tied_process.py PARENT_ID COMMAND...``: a program of its own and no `preexec_fn` of
`subprocess`. Python code between fork and exec makes `subprocess` fork in full, and where gRPC is
loaded its threads then run in the child too, on files that are just being closed: now and then they
abort it before the command has begun.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def tied_command(command: Sequence[str]) -> list[str]:
    """The command that becomes `command` and ends, by SIGTERM, when this process is killed.

    Args:
        command: A path and its arguments.
    """
    this = str(Path(__file__).resolve())
    return [sys.executable, "-I", "-S", this, str(os.getpid()), *command]


def _become(parent_id: int, command: list[str]) -> None:
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit("cannot tie the server to the process that starts it (prctl failed)")
    if os.getppid() != parent_id:
        sys.exit("the process that starts the server has ended meanwhile")
    try:
        os.execv(command[0], command)  # noqa: S606 - a path and its arguments, no shell wanted
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
