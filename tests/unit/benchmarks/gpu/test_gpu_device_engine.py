"""An engine on PyTorch's tensors. TensorRT needs a GPU to run one, so a stand-in of its API does.

The stand-in really reads and writes the addresses it is given. That the names it has are those of
TensorRT-RTX is asked of the real module.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dinspect_bench.gpu import device_engine
from dinspect_bench.gpu.device_engine import DeviceEngine
from dinspect_bench.gpu.runners import DeviceEngineRunner
from dinspect_export.errors import RuntimeUnavailableError

DIM = 4


class FakeContext:
    """Puts out the difference of its two inputs, the later block minus the earlier."""

    def __init__(self, config=None):
        self.config = config
        self.shapes, self.addresses, self.streams = {}, {}, []
        self.accepts_run = True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return shape[0] <= 8

    def get_tensor_shape(self, name):
        return self.shapes["patch_tokens_8"][:2]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        self.streams.append(stream)
        shape = self.shapes["patch_tokens_8"]
        later, earlier = (self.array(f"patch_tokens_{block}", shape) for block in (12, 8))
        self.array("patch_distances", shape[:2])[:] = (later - earlier).sum(-1)
        return self.accepts_run

    def array(self, name, shape):
        count = int(np.prod(shape))
        values = (ctypes.c_float * count).from_address(self.addresses[name])
        return np.ctypeslib.as_array(values).reshape(shape)


class FakeEngine:
    names = ("patch_tokens_12", "patch_distances", "patch_tokens_8")
    num_io_tensors = 3

    def __init__(self):
        self.contexts = []

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return "output" if name == "patch_distances" else "input"

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def create_runtime_config(self):
        return SimpleNamespace(dynamic_shapes_kernel_specialization_strategy="lazy")

    def create_execution_context(self, config=None):
        self.contexts.append(FakeContext(config))
        return self.contexts[-1]


@pytest.fixture
def fake_trt(monkeypatch):
    """The part of TensorRT-RTX's module that is used, with one engine in it."""
    engine = FakeEngine()
    fake = SimpleNamespace(
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
        engine=engine,
    )
    monkeypatch.setattr(device_engine, "load_tensorrt", lambda target: fake)
    monkeypatch.setattr(device_engine, "load_engine", lambda plan, target: engine)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    return fake


@pytest.fixture
def engine(fake_trt):
    return DeviceEngine(Path("model.plan"), "tensorrt-rtx", device="cpu")


def pair(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 6, DIM, generator=generator) for _ in range(2)]


def test_earlier_block_comes_first_whatever_the_engines_order(engine):
    assert engine.inputs == ["patch_tokens_8", "patch_tokens_12"]
    assert engine.outputs == ["patch_distances"]


def test_engine_reads_and_writes_the_tensors(engine, fake_trt):
    earlier, later = pair(2)
    (found,) = engine(earlier, later)
    assert torch.allclose(found, (later - earlier).sum(-1), atol=1e-6)
    assert fake_trt.engine.contexts[0].streams == [77]


def test_each_batch_has_its_buffers_which_are_used_again(engine):
    (of_two,) = engine(*pair(2))
    (of_three,) = engine(*pair(3, seed=1))
    assert (of_two.shape, of_three.shape) == ((2, 6), (3, 6))
    (again,) = engine(*pair(2, seed=2))
    assert again.data_ptr() == of_two.data_ptr()
    earlier, later = pair(2, seed=2)
    assert torch.allclose(again, (later - earlier).sum(-1), atol=1e-6)


def test_kernels_of_a_shape_are_compiled_before_it_is_timed(engine, fake_trt):
    config = fake_trt.engine.contexts[0].config
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_native_tensorrt_has_no_such_choice(fake_trt):
    del fake_trt.DynamicShapesKernelSpecializationStrategy
    DeviceEngine(Path("model.plan"), "tensorrt", device="cpu")
    assert fake_trt.engine.contexts[0].config is None


def test_refusals_are_errors(engine, fake_trt):
    with pytest.raises(RuntimeUnavailableError, match=r"no patch_tokens_8 of shape \(9, 6, 4\)"):
        engine(*pair(9))
    fake_trt.engine.contexts[0].accepts_run = False
    with pytest.raises(RuntimeUnavailableError, match="refused to run"):
        engine(*pair(2))


def test_what_is_timed_can_be_proven(engine, monkeypatch):
    monkeypatch.setattr(device_engine, "DeviceEngine", lambda plan, target: engine)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.inference_mode())
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    earlier, later = pair(1)
    inputs = {"patch_tokens_12": later.numpy(), "patch_tokens_8": earlier.numpy()}
    runner = DeviceEngineRunner("model.plan", "tensorrt-rtx")
    assert runner.name == "tensorrt-rtx, timed"
    found = runner.run(inputs)["patch_distances"]
    assert np.allclose(found, (later - earlier).sum(-1).numpy(), atol=1e-6)


def test_names_are_those_of_tensorrt_rtx():
    trt = pytest.importorskip("tensorrt_rtx")
    used = {
        trt: ["TensorIOMode", "DynamicShapesKernelSpecializationStrategy"],
        trt.TensorIOMode: ["INPUT", "OUTPUT"],
        trt.DynamicShapesKernelSpecializationStrategy: ["EAGER"],
        trt.ICudaEngine: [
            "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
            "create_runtime_config", "create_execution_context",
        ],
        trt.IRuntimeConfig: ["dynamic_shapes_kernel_specialization_strategy"],
        trt.IExecutionContext: [
            "set_input_shape", "set_tensor_address", "get_tensor_shape", "execute_async_v3",
        ],
    }  # fmt: skip
    missing = [name for owner, names in used.items() for name in names if not hasattr(owner, name)]
    assert missing == []
    assert device_engine._DTYPES.keys() <= trt.DataType.__members__.keys()


def test_real_engine_is_refused_without_a_gpu(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (tmp_path / "model.plan").write_bytes(b"no engine")
    with pytest.raises(RuntimeUnavailableError, match="cannot be loaded"):
        DeviceEngine(tmp_path / "model.plan", "tensorrt-rtx")
