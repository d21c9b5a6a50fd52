"""The models' sources and configs, written into a repository."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from dinspect_client import wire
from dinspect_server.errors import AssemblyError
from dinspect_server.triton_config import config_text

MODELS_FOLDER = "models"
LIBRARY = "lib"


def write_python_model(models: Path, source: str, config: ModelConfig) -> Path:
    """Copy a model's source with the library files it imports, and write its config."""
    version = write_config(models, config)
    adapter = models_source() / source / "model.py"
    shutil.copyfile(adapter, version / "model.py")
    for file in library_files(adapter):
        shutil.copyfile(file, version / file.name)
    return version


def write_config(models: Path, config: ModelConfig) -> Path:
    """Make a model's folder with its config; returns its version folder."""
    folder = models / config.name
    version = folder / "1"
    version.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config_text(config), encoding="utf-8")
    return version


def library_files(adapter: Path) -> list[Path]:
    """Our own files that a model's source imports, directly or not, to be copied beside it."""
    library = models_source() / LIBRARY
    own = {path.stem: path for path in library.glob("*/*.py")}
    own["wire"] = Path(wire.__file__)
    needed: dict[str, Path] = {}
    waiting = [adapter]
    while waiting:
        for name in _imported_modules(waiting.pop()):
            if name in own and name not in needed:
                needed[name] = own[name]
                waiting.append(own[name])
    return [needed[name] for name in sorted(needed)]


def _imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def models_source() -> Path:
    """Folder of the models' sources: beside this package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    for folder in (package / MODELS_FOLDER, package.parent / MODELS_FOLDER):
        if folder.is_dir():
            return folder
    raise AssemblyError(f"the models' sources are missing beside {package}; reinstall dinspect")
