"""A fake server per test, a client on it, and one small image."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_server import FakeTriton, serving

from dinspect_client import InspectionClient
from dinspect_client.overlay import write_png


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
def url(triton: FakeTriton) -> Iterator[str]:
    with serving(triton) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[InspectionClient]:
    with InspectionClient(url, timeout_s=20) as connected:
        yield connected


@pytest.fixture
def _address(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that commands ask."""
    monkeypatch.setenv("DINSPECT_URL", url)


@pytest.fixture
def start_command(url: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``dinspect`` in a process of its own that can be interrupted."""
    # Whoever runs the tests in the background may have had the signal ignored for all of them.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from dinspect_client.main import main; sys.exit(main())"
    )
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments), "--url", url]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def closed_url() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def image_rgb() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def image_path(tmp_path: Path, image_rgb: np.ndarray) -> Path:
    path = tmp_path / "part.png"
    write_png(path, image_rgb)
    return path
