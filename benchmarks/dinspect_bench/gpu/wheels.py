"""Install wheels from a folder, without a network, beside what the machine has and apart from it.

The machine's own packages stay as they are: a wheel of a package that is there already is left out,
and the others go to a folder that is only put on the path of this run's processes.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.gpu.session import Folders, GpuRun

SERVED_FOLDER = "served"
"""Wheels in a folder of this name are for the embedded server alone, in its own environment."""
_SERVER = "nvidia-pytriton"
_PIECE = re.compile(r"(.+\.whl)\.part(\d+)")
_PIP_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Wheel:
    """A wheel.

    Attributes:
        path: The file.
        served: Whether it is for the embedded server alone.
    """

    path: Path
    served: bool = False

    @property
    def name(self) -> str:
        """Name of its package, normalised as package indexes do."""
        return _normalised(self.path.name.split("-")[0])

    @property
    def version(self) -> str:
        """Version of its package."""
        return self.path.name.split("-")[1]


def install_wheels(run: GpuRun, folders: Iterable[Path]) -> None:
    """Join what came in pieces and install what is missing, each wheel on its own.

    Args:
        run: The run.
        folders: Searched with all folders below; pieces of one wheel may lie in several of them.

    Raises:
        BenchmarkError: If a folder is missing, or a wheel lacks a piece.
    """
    for wheel in find_wheels(folders, run.folders.joined_wheels):
        key = {"package": wheel.name, "version": wheel.version, "served": wheel.served}
        target = target_of(wheel, run.folders)
        if _holds(target, wheel):
            continue

        def install(wheel: Wheel = wheel, target: Path = target) -> dict[str, str]:
            if target == run.folders.site and (version := _own_version(wheel)):
                return {"outcome": f"left out, this Python has {version}"}
            if target == run.folders.server_site:
                _make_environment(run.folders.server_environment)
            _install(wheel, target)
            return {"outcome": "installed"}

        run.row("wheel", key, install, again=True)


def find_wheels(folders: Iterable[Path], joined: Path) -> list[Wheel]:
    """All wheels below some folders, those in pieces put together.

    Args:
        folders: Where to look.
        joined: Folder of the wheels that are put together.

    Raises:
        BenchmarkError: If a folder is missing, a piece is missing or a wheel is no archive.
    """
    wheels, pieces = [], defaultdict[tuple[str, bool], dict[int, Path]](dict)
    for folder in folders:
        if not folder.is_dir():
            raise BenchmarkError(f"there is no folder of wheels at {folder}")
        for path in sorted(folder.rglob("*.whl*")):
            served = SERVED_FOLDER in path.relative_to(folder).parts
            match = _PIECE.fullmatch(path.name)
            if match:
                pieces[match[1], served][int(match[2])] = path
            elif path.suffix == ".whl":
                wheels.append(Wheel(path, served))
    for (name, served), parts in pieces.items():
        target = joined / SERVED_FOLDER if served else joined
        wheels.append(Wheel(join_pieces(name, parts, target), served))
    for wheel in wheels:
        if not zipfile.is_zipfile(wheel.path):
            raise BenchmarkError(
                f"{wheel.path.name} is no wheel, or not whole; copy it (all its pieces) again"
            )
    return sorted(wheels, key=lambda wheel: wheel.path.name)


def join_pieces(name: str, parts: dict[int, Path], folder: Path) -> Path:
    """Put a wheel together.

    Args:
        name: Its file name.
        parts: Its pieces by number, from 0 on.
        folder: Where it goes; what lies there already is made anew.

    Raises:
        BenchmarkError: If a piece is missing in between.
    """
    missing = sorted(set(range(max(parts) + 1)) - parts.keys())
    if missing:
        numbers = ", ".join(f"{number:02d}" for number in missing)
        raise BenchmarkError(f"{name}: piece {numbers} of {max(parts) + 1} is missing; copy it too")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    with partial.open("wb") as whole:
        for number in sorted(parts):
            with parts[number].open("rb") as piece:
                shutil.copyfileobj(piece, whole)
    return partial.replace(folder / name)


def target_of(wheel: Wheel, folders: Folders) -> Path:
    """Where a wheel is installed."""
    if wheel.name == _SERVER:
        return folders.triton
    return folders.server_site if wheel.served else folders.site


def _holds(folder: Path, wheel: Wheel) -> bool:
    """Whether a folder has the package in this very version."""
    return any(
        (_normalised(one.metadata["Name"]), one.version) == (wheel.name, wheel.version)
        for one in importlib.metadata.distributions(path=[str(folder)])
    )


def _own_version(wheel: Wheel) -> str | None:
    """The version of the package that this Python has itself; None if it has none."""
    try:
        return importlib.metadata.version(wheel.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _make_environment(folder: Path) -> None:
    if (folder / "bin" / "python").exists():
        return
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)
    if done.returncode:
        raise BenchmarkError(f"no environment for the server can be made: {done.stderr.strip()}")


def _install(wheel: Wheel, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-deps", "--no-compile", "--upgrade"]
    command += ["--target", str(target), str(wheel.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        raise BenchmarkError(f"pip cannot install {wheel.path.name}: {lines[-1]}")
