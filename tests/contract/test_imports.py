"""Imports run one way, and what should be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "dinspect_client": ROOT / "client" / "dinspect_client",
    "dinspect_export": ROOT / "export" / "dinspect_export",
    "dinspect_server": ROOT / "model_repository" / "dinspect_server",
    "dinspect_bench": ROOT / "benchmarks" / "dinspect_bench",
}
ALLOWED = {
    "dinspect_client": set(),
    "dinspect_export": set(),
    "dinspect_server": {"dinspect_client", "dinspect_export"},
    "dinspect_bench": {"dinspect_client", "dinspect_export", "dinspect_server"},
}
MODELS = ROOT / "model_repository" / "models"
MODEL_IMPORTS = {
    "numpy", "cv2", "faiss", "PIL", "safetensors", "openvino", "onnxruntime",
    "triton_python_backend_utils", "wire",
}  # fmt: skip


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    files = list(PACKAGES[package].rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            if name.split(".")[0] in set(PACKAGES) - {package}:
                allowed = ALLOWED[package]
                assert any(f"{name}.".startswith(f"{one}.") for one in allowed), f"{path}: {name}"


def test_models_import_only_what_a_server_has():
    own = {path.stem for path in MODELS.glob("lib/*/*.py")}
    for path in MODELS.rglob("*.py"):
        for name in imported(path):
            top = name.split(".")[0]
            assert top in MODEL_IMPORTS | own | set(sys.stdlib_module_names), f"{path}: {name}"


def test_library_has_layers():
    """Each folder imports from those before it; names are unique, for they are copied flat."""
    layers = ["requests", "images", "backbones", "scoring", "products", "enrolment", "students",
              "zero_shot"]  # fmt: skip
    layer_of = {path.stem: layers.index(path.parent.name) for path in MODELS.glob("lib/*/*.py")}
    assert len(layer_of) == len(list(MODELS.glob("lib/**/*.py")))
    for path in MODELS.glob("lib/*/*.py"):
        for name in imported(path):
            assert layer_of.get(name.split(".")[0], 0) <= layer_of[path.stem], f"{path}: {name}"


def test_adapters_are_thin():
    for path in MODELS.glob("*/model.py"):
        assert len(path.read_text().splitlines()) <= 200, path


def test_only_the_adapters_and_what_speaks_for_them_know_triton():
    knowing = {
        path.stem
        for path in MODELS.glob("lib/*/*.py")
        if any(name.startswith("triton_python_backend_utils") for name in imported(path))
    }
    assert knowing == {"triton_requests", "served_backbone"}


def test_wire_contract_needs_the_standard_library_only():
    names = {name.split(".")[0] for name in imported(PACKAGES["dinspect_client"] / "wire.py")}
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "module",
    [
        "dinspect_client",
        "dinspect_client.main",
        "dinspect_export.commands",
        "dinspect_export.manifest",
        "dinspect_server.commands",
        "dinspect_bench.commands",
    ],
)
def test_commands_and_client_stay_light(module):
    heavy = "('torch', 'onnx', 'onnxruntime', 'openvino', 'sklearn')"
    code = f"import sys, {module}; sys.exit([n for n in {heavy} if n in sys.modules] or 0)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_is_longer_than_a_sitting():
    for folder in (*PACKAGES.values(), MODELS, ROOT / "tests"):
        for path in folder.rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 420, path


def test_no_two_test_files_share_a_name():
    """Pytest imports them by name alone, and takes the first one twice."""
    names = [path.stem for path in (ROOT / "tests").rglob("*.py") if path.stem != "conftest"]
    assert sorted(set(names)) == sorted(names)
