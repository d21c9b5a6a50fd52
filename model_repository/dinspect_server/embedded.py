"""The real Triton server as a child process: started, watched, stopped."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dinspect_server.assemble import (
    NATIVE_ONNXRUNTIME,
    RECORD_FILE,
    lock_repository,
)
from dinspect_server.errors import AssemblyError, StartError
from dinspect_server.installation import Installation, find_installation, free_ports
from dinspect_server.known_answer import check_round_trip
from dinspect_server.model_sources import MODELS_FOLDER
from dinspect_server.supervisor import StubSupervisor
from dinspect_server.tied_process import tied_command

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
EXIT_TIMEOUT_S = 10
LOOPBACK = "127.0.0.1"
_START_ATTEMPTS = 3
_LOST_LOCK = "boost::interprocess::lock_exception"
_STUB_SHARED_MEMORY_BYTES = 16 << 20
_LOG_TAIL_LINES = 8
_LOG_ERROR_LINES = 40
_LOG_PREFIX = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d")
_ADMIN_PROTOCOLS = "model-repository,shared-memory,trace,logging"
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_GRPC_DIRECTLY = [
    # These replace tritonclient's own, so its message limits are repeated.
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    ("grpc.enable_http_proxy", 0),
]


@dataclass(frozen=True)
class Endpoints:
    """Where the server listens; a port of 0 picks a free one.

    Attributes:
        host: Address to bind; loopback unless told otherwise, for Triton has no login.
        http_port, grpc_port, metrics_port: TCP ports.
    """

    host: str = LOOPBACK
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0


class EmbeddedTriton:
    """A running server for one assembled repository; use it as a context manager.

    The server ends with the thread that started it, so that none outlives a killed process: start
    it from the main thread, or one that lives as long.

    Args:
        repository: A repository written by `assemble`.
        endpoints: Where to listen.
        admin_key: Value of the header ``triton-grpc-protocol-admin-key`` (HTTP: ``admin-key``)
            without which models cannot be loaded or unloaded, since that is running code; a random
            one when empty. It is on the server's command line, so whoever may list this machine's
            processes can read it.
        log_path: The server's log; default ``<repository>/server.log``, the last one kept as
            ``server.log.1``.

    Raises:
        InstallationError, PortInUseError, StartError: On entering, saying what to do.
    """

    def __init__(
        self,
        repository: Path,
        endpoints: Endpoints | None = None,
        admin_key: str = "",
        log_path: Path | None = None,
    ) -> None:
        self.repository = repository.resolve()
        self._admin_key = admin_key or secrets.token_hex(16)
        self.log_path = log_path or self.repository / "server.log"
        self._requested = endpoints or Endpoints()
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: StubSupervisor | None = None
        self._lock: IO[str] | None = None
        self.version = ""

    @property
    def http_url(self) -> str:
        """``host:port`` of the HTTP endpoint."""
        return f"{self._connect_host}:{self.endpoints.http_port}"

    @property
    def grpc_url(self) -> str:
        """``host:port`` of the gRPC endpoint."""
        return f"{self._connect_host}:{self.endpoints.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{self._connect_host}:{self.endpoints.metrics_port}/metrics"

    @property
    def process_id(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise StartError("the server is not running")
        return self._process.pid

    @property
    def _connect_host(self) -> str:
        return LOOPBACK if self._requested.host in ("0.0.0.0", "") else self._requested.host  # noqa: S104

    def __enter__(self) -> EmbeddedTriton:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until every model is ready and answers rightly."""
        if not self.repository.is_dir():
            raise AssemblyError(f"there is no folder {self.repository}")
        if not (self.repository / RECORD_FILE).is_file():
            raise AssemblyError(
                f"{self.repository} is no assembled repository; run: dinspect assemble"
            )
        if self._record()["runtime"] == NATIVE_ONNXRUNTIME:
            raise AssemblyError(
                f"{self.repository} was assembled for NVIDIA's Triton container; the embedded "
                "server has no native backends. Assemble it with --runtime openvino"
            )
        installation = find_installation()
        asked = self._requested
        ports = (asked.http_port, asked.grpc_port, asked.metrics_port)
        self.endpoints = Endpoints(asked.host, *free_ports(asked.host, ports))
        self._lock = lock_repository(self.repository)
        try:
            self._launch_until_ready(installation)
            client = grpc_client(self.grpc_url)
            self.version = check_round_trip(client, self._labels())
            headers = {"triton-grpc-protocol-admin-key": self._admin_key}
            self._supervisor = StubSupervisor(self.process_id, client, headers)
            self._supervisor.start()
        except BaseException:
            self.stop()
            raise

    def _launch_until_ready(self, installation: Installation) -> None:
        """Start the process; once more if it gave up because the machine was too busy.

        Where 15 processes shared two cores, Triton 2.51 was seen to abort while it started its
        stubs, by an exception from a lock it shares with them. The next start went well.
        """
        for attempt in range(1, _START_ATTEMPTS + 1):
            self._process = self._launch(installation)
            try:
                self._wait_until_ready()
            except StartError:
                if attempt == _START_ATTEMPTS or _LOST_LOCK not in self.log_excerpt():
                    raise
                logger.warning("this machine is too busy for Triton to start in time; once more")
            else:
                return

    def _launch(self, installation: Installation) -> subprocess.Popen[bytes]:
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_name(self.log_path.name + ".1"))
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                tied_command(self._command(installation)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(installation),
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
            )

    def stop(self) -> None:
        """End the server: requests in flight are finished, then it is made to exit."""
        supervisor, self._supervisor = self._supervisor, None
        process, self._process = self._process, None
        try:
            if supervisor is not None:
                supervisor.stand_down()
            if process is not None:
                _end(process)
            if supervisor is not None:
                # Only now: a reload under way ends with the server and not at its own deadline.
                supervisor.stop()
                for region in supervisor.shared_memory:
                    region.unlink(missing_ok=True)
        finally:
            if self._lock is not None:
                self._lock.close()

    def wait(self) -> int:
        """Block until the server ends by itself; returns its exit status."""
        return self._process.wait() if self._process is not None else 0

    def _command(self, installation: Installation) -> list[str]:
        at = self.endpoints
        command = [
            str(installation.binary),
            f"--model-repository={self.repository / MODELS_FOLDER}",
            f"--backend-directory={installation.backends}",
            f"--backend-config=python,shm-default-byte-size={_STUB_SHARED_MEMORY_BYTES}",
            # Explicit control, so that a model whose stub died can be loaded again.
            "--model-control-mode=explicit",
            "--load-model=*",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--http-address={at.host}",
            f"--http-port={at.http_port}",
            f"--grpc-address={at.host}",
            f"--grpc-port={at.grpc_port}",
            f"--metrics-address={at.host}",
            f"--metrics-port={at.metrics_port}",
        ]
        key = f"{_ADMIN_PROTOCOLS}:admin-key={self._admin_key}"
        return [*command, f"--grpc-restricted-protocol={key}", f"--http-restricted-api={key}"]

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.repository / RECORD_FILE).read_bytes())
        return record

    def _labels(self) -> list[str]:
        return [name.removeprefix("anomaly_dino_") for name in self._record()["ensembles"]]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        address = f"http://{self.http_url}/v2/health/ready"
        while True:
            if self._process is None or self._process.poll() is not None:
                status = self._process.returncode if self._process else "unknown"
                raise StartError(f"tritonserver ended with status {status}\n{self.log_excerpt()}")
            try:
                with _DIRECTLY.open(address, timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                pass
            if time.monotonic() > deadline:
                raise StartError(
                    f"tritonserver is not ready after {START_TIMEOUT_S:.0f} s\n{self.log_excerpt()}"
                )
            time.sleep(0.1)

    def log_excerpt(self) -> str:
        """What the log says of errors, and its last lines, with its path."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"from {self.log_path}:", *telling_lines(lines)])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server with its stubs, in order if it still listens."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_TIMEOUT_S + 5)
    # What is left of its session: all of it after a timeout, busy stubs after a crash.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def grpc_client(url: str) -> Any:
    """A client that reaches a server of this machine whatever proxy the environment names."""
    import tritonclient.grpc as triton

    return triton.InferenceServerClient(url, channel_args=_GRPC_DIRECTLY)


def telling_lines(lines: list[str]) -> list[str]:
    """The lines of a Triton log that tell why it ended, without its tables.

    An error's continuation lines (a traceback) belong to it.
    """
    errors: list[str] = []
    inside_error = False
    for line in lines:
        if _LOG_PREFIX.match(line):
            # Without a GPU every start says so as an error.
            inside_error = line[0] in "EF" and "CUDA" not in line
        if inside_error and line.strip() and not line.startswith(("|", "+")):
            errors.append(line)
    last = [line for line in lines if line.strip() and not line.startswith(("|", "+"))]
    tail = [line for line in last[-_LOG_TAIL_LINES:] if line not in errors]
    return errors[:_LOG_ERROR_LINES] + tail


def _environment(installation: Installation) -> dict[str, str]:
    """The server's environment: its stubs run this very interpreter with its own libpython."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
    }
    inherited = environment.get("LD_LIBRARY_PATH")
    libraries = [str(installation.libpython_dir), *([inherited] if inherited else [])]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    environment["PATH"] = os.pathsep.join(
        [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    )
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment
