from __future__ import annotations

import platform
import shutil
import socket
import sys
import sysconfig
import types

import pytest

from dinspect_server import installation
from dinspect_server.errors import InstallationError, PortInUseError
from dinspect_server.installation import find_installation, free_ports, libpython


def test_installed_server_is_found():
    found = find_installation()
    assert found.binary.is_file()
    stub = found.backends / "python" / "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    source = found.binary.parents[1] / "python_backend_stubs" / version / stub.name
    assert stub.read_bytes() == source.read_bytes()


def test_missing_server_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("DINSPECT_TRITON", str(tmp_path))
    with pytest.raises(InstallationError, match="dinspect install-server"):
        find_installation()


def test_numpy_2_is_refused(monkeypatch):
    monkeypatch.setattr(installation, "version", lambda name: "2.4.6")
    with pytest.raises(InstallationError, match="pip install 'numpy<2'"):
        find_installation()


def test_missing_model_packages_are_named(monkeypatch):
    def version(name):
        if name == "openvino":
            raise installation.PackageNotFoundError(name)
        return "1.26.4"

    monkeypatch.setattr(installation, "version", version)
    with pytest.raises(InstallationError, match=r"need openvino; .*dinspect\[serve\]"):
        find_installation()


def test_missing_libpython_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_config_vars", lambda: {"LIBDIR": str(tmp_path)})
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(InstallationError, match="apt install libpython3"):
        libpython()


def test_libpython_of_another_release_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.0")
    with pytest.raises(InstallationError, match=r"the interpreter is 3\.11\.0"):
        libpython()


def test_other_platforms_are_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(InstallationError, match="Triton container"):
        find_installation()
    monkeypatch.undo()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    with pytest.raises(InstallationError, match=r"glibc 2\.35 or newer"):
        find_installation()


def test_unknown_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", types.SimpleNamespace(major=3, minor=99))
    with pytest.raises(InstallationError, match=r"no Python backend for 3\.99, only for"):
        installation._fit_stub(installation.default_location())


def test_small_shared_memory_is_refused(monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(64, 0, 64 << 20)
    )
    with pytest.raises(InstallationError, match="--shm-size=1g"):
        find_installation()


def test_taken_port_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortInUseError, match="choose another port"):
            free_ports("127.0.0.1", [0, taken.getsockname()[1]])


def test_free_ports_are_picked_and_differ():
    assert len(set(free_ports("127.0.0.1", [0, 0, 0]))) == 3
