"""Wheels from a folder, installed by the real pip; the wheels are made here, of one module each."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.wheels import Wheel, find_wheels, install_wheels, target_of


def make_wheel(folder: Path, name: str, version: str = "1.0") -> Path:
    """A wheel of one module that knows its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def cut(path: Path, size: int, folders: list[Path], digits: int = 2) -> int:
    """Cut a file into pieces, dealt to folders in turn, and remove it."""
    content = path.read_bytes()
    starts = range(0, len(content), size)
    for number, start in enumerate(starts):
        folder = folders[number % len(folders)]
        folder.mkdir(exist_ok=True)
        (folder / f"{path.name}.part{number:0{digits}d}").write_bytes(content[start : start + size])
    path.unlink()
    return len(starts)


def outcomes(run):
    return {record["package"]: record["outcome"] for record in run.all("wheel")}


def imported_version(folder: Path, module: str) -> str:
    code = f"import {module}; print({module}.VERSION)"
    return subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, check=True,
        capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


def test_pieces_from_several_folders_are_joined_and_installed(run, tmp_path):
    wheels = tmp_path / "wheels"
    path = make_wheel(wheels, "little_part")
    # Numbered 0 to 10 and more, not 00: the tenth still comes after the ninth.
    assert cut(path, 50, [wheels / "first", wheels / "second"], digits=1) > 10
    install_wheels(run, [wheels])
    assert imported_version(run.folders.site, "little_part") == "1.0"
    assert outcomes(run) == {"little-part": "installed"}
    assert run.failed == 0


def test_what_is_installed_is_not_installed_again_and_another_version_is(run, tmp_path):
    make_wheel(tmp_path / "a", "little_part")
    install_wheels(run, [tmp_path / "a"])
    install_wheels(run, [tmp_path / "a"])
    assert len(run.all("wheel")) == 1
    make_wheel(tmp_path / "b", "little_part", "2.0")
    install_wheels(run, [tmp_path / "b"])
    assert imported_version(run.folders.site, "little_part") == "2.0"


def test_packages_of_this_python_stay_as_they_are(run, tmp_path):
    make_wheel(tmp_path / "wheels", "numpy", "9.9")
    install_wheels(run, [tmp_path / "wheels"])
    version = importlib.metadata.version("numpy")
    assert outcomes(run) == {"numpy": f"left out, this Python has {version}"}
    assert not run.folders.site.exists()


def test_wheels_of_the_server_go_to_an_environment_of_its_own(run, tmp_path):
    make_wheel(tmp_path / "wheels" / "served", "numpy", "9.9")
    install_wheels(run, [tmp_path / "wheels"])
    assert outcomes(run) == {"numpy": "installed"}
    python = run.folders.server_environment / "bin" / "python"
    code = "import numpy; print(numpy.VERSION)"
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "9.9\n"


def test_the_server_itself_is_unpacked_where_it_is_looked_for(run):
    wheel = Wheel(Path("nvidia_pytriton-0.7.0-py3-none-manylinux_2_35_x86_64.whl"))
    assert (wheel.name, wheel.version) == ("nvidia-pytriton", "0.7.0")
    assert target_of(wheel, run.folders) == run.folders.triton


def test_wheel_that_cannot_be_installed_is_told_and_the_others_go_in(run, tmp_path):
    make_wheel(tmp_path / "wheels", "little_part")
    other = make_wheel(tmp_path / "wheels", "other_part")
    other.rename(other.with_name("other_part-1.0-cp27-cp27m-win32.whl"))
    install_wheels(run, [tmp_path / "wheels"])
    assert outcomes(run) == {"little-part": "installed"}
    assert run.failed == 1
    (missing,) = run.all("not_run")
    assert missing["package"] == "other-part"
    assert "not a supported wheel on this platform" in missing["reason"]


def test_missing_piece_is_named(tmp_path):
    path = make_wheel(tmp_path, "little_part")
    assert cut(path, 100, [tmp_path]) > 3
    (tmp_path / f"{path.name}.part02").unlink()
    with pytest.raises(BenchmarkError, match=r"little_part-1.0-py3-none-any.whl: piece 02 of "):
        find_wheels([tmp_path], tmp_path / "joined")


def test_last_piece_that_is_missing_is_noticed(tmp_path):
    path = make_wheel(tmp_path, "little_part")
    pieces = cut(path, 100, [tmp_path])
    (tmp_path / f"{path.name}.part{pieces - 1:02d}").unlink()
    with pytest.raises(BenchmarkError, match="no wheel, or not whole"):
        find_wheels([tmp_path], tmp_path / "joined")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match="no folder of wheels at .*nowhere"):
        find_wheels([tmp_path / "nowhere"], tmp_path / "joined")
