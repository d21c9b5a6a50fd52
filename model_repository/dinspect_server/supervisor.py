"""Bring back a Python model whose process died.

Triton 2.51 never restarts a dead stub: its model stays "ready" and every request to it fails after
a second, for ever. Loading it again is not enough, it must be unloaded first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
MAX_PAUSE_S = 30.0
_LOAD_TIMEOUT_S = 120.0
_STUB = "triton_python_backend_stub"


class StubSupervisor(threading.Thread):
    """Watches the stubs of one server and reloads the models of those that end.

    A reload that fails is tried again, after a pause that doubles up to `MAX_PAUSE_S`. A model that
    somebody unloaded on purpose is left alone.

    Args:
        server_pid: Process id of the server; all its models must be loaded.
        client: Connection to its gRPC endpoint, this thread's alone from now on.
        headers: Of every call.

    Attributes:
        shared_memory: Regions of all stubs seen, which a killed server does not remove.
    """

    def __init__(self, server_pid: int, client: Any, headers: Mapping[str, str]) -> None:
        super().__init__(name="stub-supervisor", daemon=True)
        self._server = psutil.Process(server_pid)
        self._client = client
        self._headers = dict(headers)
        self._stopping = threading.Event()
        self.shared_memory: set[Path] = set()
        self._expected = self._living()
        self._fallen: dict[str, _Reload] = {}

    def stand_down(self) -> None:
        """Begin no further reload; returns at once."""
        self._stopping.set()

    def stop(self) -> None:
        """End the watch; returns when it has ended."""
        self._stopping.set()
        if self.is_alive():
            self.join()
        self._client.close()

    def run(self) -> None:
        """Check until stopped."""
        while not self._stopping.wait(CHECK_INTERVAL_S):
            try:
                living = self._living()
            except psutil.NoSuchProcess:
                return  # the server itself ended; whoever started it sees that
            self._expected |= living
            for model in sorted(self._expected - living):
                self._bring_back(model)

    def _living(self) -> set[str]:
        """Models that have a living stub."""
        found = set()
        for process in self._server.children():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if len(command) > 2 and Path(command[0]).name == _STUB:
                # <repository>/models/<model>/<version>/model.py, then the region's name
                found.add(Path(command[1]).parents[1].name)
                self.shared_memory.add(Path("/dev/shm") / Path(command[2]).name)
        return found

    def _bring_back(self, model: str) -> None:
        from tritonclient.utils import InferenceServerException

        reload = self._fallen.get(model)
        if reload is not None and time.monotonic() < reload.not_before_s:
            return
        try:
            if reload is None:
                if not self._should_be_up(model):
                    self._expected.discard(model)
                    return
                logger.warning("the process of model %s died; loading the model again", model)
                reload = self._fallen[model] = _Reload()
            self._client.unload_model(model, headers=self._headers, client_timeout=_LOAD_TIMEOUT_S)
            self._client.load_model(model, headers=self._headers, client_timeout=_LOAD_TIMEOUT_S)
        except InferenceServerException as error:
            if reload is not None and not self._stopping.is_set():
                reload.pause()
                logger.error(
                    "model %s could not be loaded again, next try in %.0f s: %s",
                    model,
                    reload.pause_s,
                    error.message(),
                )
            return
        del self._fallen[model]
        logger.warning("model %s is back", model)

    def _should_be_up(self, model: str) -> bool:
        """A dead stub's model stays "ready" for Triton; one unloaded on purpose does not."""
        index = self._client.get_model_repository_index(
            headers=self._headers, client_timeout=_LOAD_TIMEOUT_S
        )
        return any(entry.name == model and entry.state == "READY" for entry in index.models)


@dataclass
class _Reload:
    """A model on its way back."""

    not_before_s: float = 0.0
    pause_s: float = CHECK_INTERVAL_S

    def pause(self) -> None:
        self.pause_s = min(2 * self.pause_s, MAX_PAUSE_S)
        self.not_before_s = time.monotonic() + self.pause_s
