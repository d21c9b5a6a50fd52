"""The peers' own environment: anomalib and the runtimes it exports to.

Their packages conflict with ours (numpy 2 with the embedded server's), so they are installed into a
virtual environment of their own, and what is measured there runs as a process of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from dinspect_bench.errors import PeerError
from dinspect_bench.files import write_text_atomically

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FIRST_PACKAGE = "torch"
LOCATION_VARIABLE = "DINSPECT_PEERS"
MIN_PYTHON = (3, 11)
"""What the pinned packages ask for."""
_MARKER = "dinspect-peers.txt"
_INSTALL_TIMEOUT_S = 3600
_ERROR_CHARACTERS = 1000


def default_location() -> Path:
    """Where the peers are installed: ``$DINSPECT_PEERS``, or inside this environment."""
    configured = os.environ.get(LOCATION_VARIABLE)
    return Path(configured) if configured else Path(sys.prefix) / "share" / "dinspect" / "peers"


def install_peers(location: Path, on_step: Callable[[str], object] = lambda text: None) -> None:
    """Make the peers' environment, or leave one that has these requirements as it is.

    PyTorch goes in first and alone, so that nothing else decides which build of it is taken: asked
    for together with the rest, pip may take one for CUDA, with gigabytes of libraries.

    Args:
        location: Folder of the environment. An installation that was interrupted is completed.
        on_step: Told what is about to happen, one line each.

    Raises:
        PeerError: If this Python is too old for the peers, the folder holds something else, or a
            package cannot be installed.
    """
    requirements = REQUIREMENTS.read_text(encoding="utf-8")
    marker = location / _MARKER
    if marker.is_file() and marker.read_text(encoding="utf-8") == requirements:
        on_step(f"the peers are installed in {location}")
        return
    if sys.version_info[:2] < MIN_PYTHON:
        raise PeerError(
            f"the peers' packages need Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer, this is "
            f"{sys.version_info[0]}.{sys.version_info[1]}; make an environment of {REQUIREMENTS} "
            f"with a newer one and name it in {LOCATION_VARIABLE}"
        )
    if location.is_dir() and any(location.iterdir()) and not (location / "pyvenv.cfg").is_file():
        raise PeerError(
            f"{location} is not empty and no virtual environment; name another folder for the peers"
        )
    on_step(f"making a virtual environment in {location}")
    venv.create(location, symlinks=True, with_pip=True)
    python = _python_of(location)
    first = first_requirement(requirements)
    on_step(f"installing {first}")
    _pip_install(python, first)
    on_step(f"installing {', '.join(requirement_lines(requirements))}")
    _pip_install(python, "--requirement", str(REQUIREMENTS))
    write_text_atomically(marker, requirements)


def find_peers(location: Path) -> Path:
    """The interpreter that runs the peers.

    Raises:
        PeerError: If there is no such environment; the message says how to make it.
    """
    python = _python_of(location)
    if not python.is_file():
        raise PeerError(
            "the peers are not installed; run: dinspect install-peers "
            f"(or set {LOCATION_VARIABLE} to an environment that has them)"
        )
    return python


def requirement_lines(text: str) -> list[str]:
    """Requirements of a file, without comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def first_requirement(text: str) -> str:
    """The requirement that is installed first and alone."""
    (first,) = (
        line for line in requirement_lines(text) if line.partition("==")[0] == FIRST_PACKAGE
    )
    return first


def _python_of(location: Path) -> Path:
    return location.absolute() / "bin" / "python"


def _pip_install(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*command, *arguments],
            check=True,
            timeout=_INSTALL_TIMEOUT_S,
            stderr=subprocess.PIPE,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise PeerError(
            f"cannot install {' '.join(arguments)} for the peers; pip ended with:\n"
            f"{error.stderr[-_ERROR_CHARACTERS:].strip()}"
        ) from error
    except (subprocess.SubprocessError, OSError) as error:
        raise PeerError(f"cannot install {' '.join(arguments)} for the peers: {error}") from error
