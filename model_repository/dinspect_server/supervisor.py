"""Bring back a Python model whose process died.

Triton 2.51 never restarts a dead stub: its model stays "ready" and every request to it fails after
a second, for ever. Loading it again is not enough, it must be unloaded first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
_UNLOAD_TIMEOUT_S = 60.0
_STUB = "triton_python_backend_stub"


class StubSupervisor(threading.Thread):
    """Watches the stubs of one server and reloads the models of those that end.

    Args:
        server_pid: Process id of the server.
        url: gRPC endpoint.
        settings: ``headers`` of every call, the rest for the client's constructor.
    """

    def __init__(self, server_pid: int, url: str, settings: Mapping[str, Any]) -> None:
        super().__init__(name="stub-supervisor", daemon=True)
        self._server = psutil.Process(server_pid)
        self._url = url
        self._settings = dict(settings)
        self._stopping = threading.Event()
        self._known = self._stubs()

    def stop(self) -> None:
        """End the watch; returns when it has ended."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """Check until stopped."""
        while not self._stopping.wait(CHECK_INTERVAL_S):
            try:
                alive = self._stubs()
            except psutil.NoSuchProcess:
                return  # the server itself ended; whoever started it sees that
            dead = {model for pid, model in self._known.items() if pid not in alive}
            for model in sorted(dead):
                self._reload(model)
            self._known = self._stubs() if dead else alive

    def _stubs(self) -> dict[int, str]:
        """Process ids of the living stubs to the names of their models."""
        found = {}
        for process in self._server.children():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            if len(command) > 1 and Path(command[0]).name == _STUB:
                # <repository>/models/<model>/<version>/model.py
                found[process.pid] = Path(command[1]).parents[1].name
        return found

    def _reload(self, model: str) -> None:
        import tritonclient.grpc as triton

        logger.warning("the process of model %s died; loading the model again", model)
        options = dict(self._settings)
        headers = options.pop("headers", None)
        client = triton.InferenceServerClient(self._url, **options)
        try:
            users = [
                entry.name
                for entry in client.get_model_repository_index(headers=headers).models
                if entry.state == "READY" and self._uses(client, entry.name, model, headers)
            ]
            client.unload_model(model, headers=headers, client_timeout=_UNLOAD_TIMEOUT_S)
            client.load_model(model, headers=headers, client_timeout=_UNLOAD_TIMEOUT_S)
            for ensemble in users:
                client.load_model(ensemble, headers=headers, client_timeout=_UNLOAD_TIMEOUT_S)
            logger.warning("model %s is back", model)
        except triton.InferenceServerException as error:
            if not self._stopping.is_set():
                logger.error("model %s could not be loaded again: %s", model, error.message())
        finally:
            client.close()

    @staticmethod
    def _uses(client: Any, name: str, model: str, headers: Any) -> bool:
        config = client.get_model_config(name, headers=headers).config
        return any(step.model_name == model for step in config.ensemble_scheduling.step)
