"""The most memory that processes took while something ran."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from types import TracebackType

import psutil

from dinspect_bench.errors import BenchmarkError

_INTERVAL_S = 0.02


class PeakMemory:
    """Resident memory of some processes together, looked at fifty times a second.

    Args:
        processes: Those that count; one that ends counts no more.

    Attributes:
        before_bytes: When the block began.
        peak_bytes: The most there was inside the block.
    """

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before_bytes = self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self.before_bytes = self.peak_bytes = self._resident_bytes()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, self._resident_bytes())

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes, self._resident_bytes())

    def _resident_bytes(self) -> int:
        total = 0
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def server_processes(server_pid: int) -> list[psutil.Process]:
    """A Triton server and the processes of its Python models."""
    server = psutil.Process(server_pid)
    return [server, *server.children(recursive=True)]


def model_process(server_pid: int, model_name: str) -> psutil.Process:
    """The process of one Python model.

    Raises:
        BenchmarkError: If the server has none of that name.
    """
    for process in server_processes(server_pid)[1:]:
        if any(f"/{model_name}/" in word for word in process.cmdline()):
            return process
    raise BenchmarkError(f"the server has no process for model {model_name}")
