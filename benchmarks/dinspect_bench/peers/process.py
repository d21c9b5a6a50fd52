"""A peer as a process of its own environment, spoken to by lines of JSON.

The other side, with the form of the messages, is ``runner/peer_protocol.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from dinspect_bench.errors import PeerError
from dinspect_bench.peers.rounds import Sample

RUNNER = Path(__file__).with_name("runner")
PREPARE_TIMEOUT_S = 1800.0
RUN_TIMEOUT_S = 600.0
_EXIT_TIMEOUT_S = 10.0
_OF_OUR_PYTHON = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONWARNINGS", "VIRTUAL_ENV")
_QUIET_AND_OFFLINE = {
    # Threads that wait for work sleep, instead of taking the processor from whoever is measured.
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "HF_HUB_OFFLINE": "1",
}


def runner_command(python: Path) -> list[str]:
    """What runs a peer.

    Args:
        python: Interpreter of the peers' environment.
    """
    return [str(python), str(RUNNER)]


class PeerProcess:
    """A peer that can be measured; use it as a context manager.

    Args:
        name: What it is called in results.
        command: Program and arguments, as `runner_command` gives them.
        log: Where everything goes that it prints.
        prepare_timeout_s: How long it may take to get ready, in seconds.
        run_timeout_s: How long it may take for one image.

    Raises:
        PeerError: On entering, if it cannot be started; from its methods, if it answers with an
            error, with nothing in time, or has ended.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        prepare_timeout_s: float = PREPARE_TIMEOUT_S,
        run_timeout_s: float = RUN_TIMEOUT_S,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._log = log
        self._prepare_timeout_s = prepare_timeout_s
        self._run_timeout_s = run_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> PeerProcess:
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=_environment(os.environ),
                )
            except OSError as error:
                raise PeerError(f"{self.name} cannot be started: {error}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._running()
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # it ended with a request unread
                process.stdin.close()
        try:
            process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def prepare(self, system: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Have it get ready.

        Args:
            system: What it is to run, a name the other side knows.
            settings: Of that system.

        Returns:
            What it says of itself.
        """
        request = {"prepare": system, "settings": dict(settings)}
        details: dict[str, Any] = self._ask(request, self._prepare_timeout_s)["details"]
        return details

    def run(self, image: Path) -> Sample:
        """Have it inspect an image and time that itself."""
        answer = self._ask({"run": str(image)}, self._run_timeout_s)
        return Sample(int(answer["latency_ns"]), answer["score"])

    def processor_s(self) -> float:
        """Processor time it has used since it was started, in seconds."""
        return processor_seconds([self._running().pid])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise PeerError(f"{self.name} has not been started")
        return self._process

    def _ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        process = self._running()
        if process.stdin is None:
            raise PeerError(f"{self.name} takes no requests")
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise PeerError(self._why_it_ended()) from error
        line = self._read_line(timeout_s)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise PeerError(f"{self.name} answered {line[:200]!r}, which is no JSON") from error
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        process = self._running()
        if process.stdout is None:
            raise PeerError(f"{self.name} gives no answers")
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            remaining_s = max(0.0, deadline_s - time.monotonic())
            readable, _, _ = select.select([process.stdout], [], [], remaining_s)
            if not readable:
                process.kill()  # or it would go on working beside whoever is measured next
                raise PeerError(f"{self.name} gave no answer within {timeout_s:g} s")
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise PeerError(self._why_it_ended())
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _why_it_ended(self) -> str:
        """Its exit status, and the last thing it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running().wait(_EXIT_TIMEOUT_S)
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        status = self._running().returncode
        return f"{self.name} ended with status {status}; the last it printed: {last}"


def processor_seconds(process_ids: Sequence[int]) -> float:
    """Processor time of some processes together; one that has ended counts no more."""
    total_s = 0.0
    for process_id in process_ids:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(process_id).cpu_times()
            total_s += times.user + times.system
    return total_s


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Nothing of our own Python, threads that sleep while they wait, and no network."""
    kept = {name: value for name, value in inherited.items() if name not in _OF_OUR_PYTHON}
    return kept | _QUIET_AND_OFFLINE
