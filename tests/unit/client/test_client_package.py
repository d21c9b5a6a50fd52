from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import dinspect_client


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(process.stdout.split())


def test_public_names_are_complete_and_sorted() -> None:
    public = {
        name
        for name, value in vars(dinspect_client).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert list(dinspect_client.__all__) == sorted(dinspect_client.__all__)
    assert set(dinspect_client.__all__) == public


def test_every_error_is_public() -> None:
    for kind in dinspect_client.InspectionError.__subclasses__():
        assert kind.__name__ in dinspect_client.__all__


@pytest.mark.parametrize(
    "statement",
    [
        "import dinspect_client",
        "import dinspect_client.main, dinspect_client.commands",
    ],
)
def test_import_is_light(statement: str) -> None:
    heavy = {"torch", "openvino", "onnxruntime", "onnx", "tensorrt", "grpc", "cv2", "tqdm"}

    assert not loaded_by(statement) & heavy


def test_working_client_never_loads_an_inference_runtime() -> None:
    statement = (
        "import dinspect_client, dinspect_client.overlay\n"
        "dinspect_client.InspectionClient('localhost:1').close()"
    )

    loaded = loaded_by(statement)

    assert "grpc" in loaded
    assert not loaded & {"torch", "openvino", "onnxruntime", "onnx", "tensorrt"}
