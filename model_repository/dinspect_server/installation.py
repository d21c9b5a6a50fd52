"""The real `tritonserver`, as the ``nvidia-pytriton`` wheel ships it, and what it needs to run.

Only the wheel's server, Python backend and stubs are used, not PyTriton itself: so it is installed
into a folder of its own, without its dependencies.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dinspect_server.errors import InstallationError, PortInUseError

SERVER_REQUIREMENT = "nvidia-pytriton==0.7.0"
LOCATION_VARIABLE = "DINSPECT_TRITON"
MIN_GLIBC = (2, 35)
MIN_SHARED_MEMORY_BYTES = 256 << 20
MODEL_PACKAGES = (
    "numpy",
    "onnxruntime",
    "opencv-python-headless",
    "openvino",
    "pillow",
    "safetensors",
)
_INSTALL_TIMEOUT_S = 600
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Installation:
    """A server that can be started.

    Attributes:
        binary: The ``tritonserver`` executable.
        backends: Its folder of backends.
        libpython_dir: Folder of the interpreter's own libpython, for the library path.
    """

    binary: Path
    backends: Path
    libpython_dir: Path


def default_location() -> Path:
    """Where the server is installed: ``$DINSPECT_TRITON``, or inside the environment."""
    configured = os.environ.get(LOCATION_VARIABLE)
    return Path(configured) if configured else Path(sys.prefix) / "share" / "dinspect" / "triton"


def install_server(location: Path) -> None:
    """Install the server's wheel into ``location`` and fit it to this interpreter.

    Raises:
        InstallationError: If pip fails or the wheel has no stub for this Python.
    """
    _check_platform()
    if not (location / "pytriton").is_dir():
        staging = location.with_name(f".{location.name}.{os.getpid()}.partial")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(staging),
            SERVER_REQUIREMENT,
        ]
        try:
            subprocess.run(command, check=True, timeout=_INSTALL_TIMEOUT_S)
            location.parent.mkdir(parents=True, exist_ok=True)
            staging.rename(location)
        except (subprocess.SubprocessError, OSError) as error:
            raise InstallationError(f"cannot install {SERVER_REQUIREMENT}: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    _fit_stub(location)


def find_installation() -> Installation:
    """Locate the server and check everything it needs from this machine.

    Raises:
        InstallationError: Saying what is missing and what to install.
    """
    _check_platform()
    location = default_location()
    server = location / "pytriton" / "tritonserver"
    binary = server / "bin" / "tritonserver"
    if not binary.is_file():
        raise InstallationError(
            f"no tritonserver below {location}; run: dinspect install-server "
            f"(or set {LOCATION_VARIABLE} to where {SERVER_REQUIREMENT} is unpacked)"
        )
    _check_model_packages()
    _fit_stub(location)
    _check_temporary_folder()
    _check_shared_memory()
    return Installation(binary, server / "backends", libpython().parent)


def libpython() -> Path:
    """This interpreter's own shared library, which the Python backend's stub links to.

    A library of another patch release would load, and then fail on the first extension module.

    Raises:
        InstallationError: If there is none or it is of another release.
    """
    variables = sysconfig.get_config_vars()
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = f"libpython{short}.so.1.0"
    base = Path(variables.get("LIBDIR") or "/usr/lib")
    folders = [base, base / str(variables.get("MULTIARCH", "")), Path(sys.base_prefix) / "lib"]
    found = [folder / name for folder in folders if (folder / name).is_file()]
    if not found:
        raise InstallationError(
            f"the server's Python backend needs {name} of this very interpreter, which is not in "
            f"{', '.join(sorted({str(folder) for folder in folders}))}; on Debian and Ubuntu run: "
            f"apt install libpython{short}; or use a Python built with --enable-shared"
        )
    release = _libpython_release(found[0])
    if release != platform.python_version():
        raise InstallationError(
            f"{found[0]} is Python {release}, the interpreter is {platform.python_version()}; make "
            "the environment from the interpreter this library belongs to"
        )
    return found[0]


def _libpython_release(path: Path) -> str:
    library = ctypes.CDLL(str(path))
    library.Py_GetVersion.restype = ctypes.c_char_p
    return str(library.Py_GetVersion().decode().split()[0])


def free_ports(host: str, ports: Sequence[int]) -> list[int]:
    """Check that ports can be bound, and pick a free one for each that is 0.

    Returns:
        As many different ports, in order.

    Raises:
        PortInUseError: If one is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as probes:
        found = []
        for port in ports:
            probe = probes.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise PortInUseError(
                    f"cannot listen on {host}:{port}: {error.strerror}; stop the other program or "
                    "choose another port (--http-port, --grpc-port, --metrics-port)"
                ) from error
            found.append(int(probe.getsockname()[1]))
        return found


def _check_platform() -> None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise InstallationError(
            f"the embedded server runs on x86-64 Linux, this is {system} {machine}; use NVIDIA's "
            "Triton container, or talk to a server elsewhere"
        )
    library, text = platform.libc_ver()
    release = tuple(int(part) for part in text.split(".")[:2]) if text else (0, 0)
    if library != "glibc" or release < MIN_GLIBC:
        raise InstallationError(
            f"the embedded server needs glibc {MIN_GLIBC[0]}.{MIN_GLIBC[1]} or newer (Debian 12, "
            f"Ubuntu 22.04), this system has {library or 'another libc'} {text}"
        )


def _check_model_packages() -> None:
    missing = []
    for package in MODEL_PACKAGES:
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise InstallationError(
            f"the models need {', '.join(missing)}; run: pip install 'dinspect[serve]'"
        )
    numpy_version = version("numpy")
    if int(numpy_version.split(".")[0]) >= 2:
        raise InstallationError(
            f"numpy {numpy_version} is installed; with numpy 2 this server's Python backend "
            "answers garbage without an error. Run: pip install 'numpy<2'"
        )


def _fit_stub(location: Path) -> None:
    """Put the stub of this interpreter's version where the backend looks for it."""
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = location / "pytriton" / "tritonserver"
    source = server / "python_backend_stubs" / short / _STUB
    target = server / "backends" / "python" / _STUB
    if not source.is_file():
        available = sorted(path.name for path in (server / "python_backend_stubs").glob("3.*"))
        raise InstallationError(
            f"the server has no Python backend for {short}, only for {', '.join(available)}"
        )
    if not target.is_file() or target.read_bytes() != source.read_bytes():
        staged = target.with_name(f".{_STUB}.{os.getpid()}")
        shutil.copy2(source, staged)
        staged.replace(target)


def _check_temporary_folder() -> None:
    try:
        # The backend has this path built in, whatever TMPDIR says.
        with tempfile.TemporaryFile(dir="/tmp"):
            pass
    except OSError as error:
        raise InstallationError(
            f"the server's Python backend needs a writable /tmp: {error.strerror}"
        ) from error


def _check_shared_memory() -> None:
    try:
        free_bytes = shutil.disk_usage("/dev/shm").free
    except OSError as error:
        raise InstallationError(f"the Python backend needs /dev/shm: {error.strerror}") from error
    if free_bytes < MIN_SHARED_MEMORY_BYTES:
        raise InstallationError(
            f"/dev/shm has {free_bytes >> 20} MiB free, the server needs "
            f"{MIN_SHARED_MEMORY_BYTES >> 20}; in a container start it with --shm-size=1g"
        )
