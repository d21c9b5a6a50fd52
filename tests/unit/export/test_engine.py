"""Engines of TensorRT-RTX, really built: nothing of them is run, for there is no GPU here."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from dinspect_export import engine as engine_module
from dinspect_export.engine import (
    EngineOptions,
    build_engine,
    fused_attention_layers,
    inspect_plan,
    load_tensorrt,
)
from dinspect_export.errors import EngineError, MissingDependencyError, RuntimeUnavailableError
from dinspect_export.recipes import backbone_name

RTX = "tensorrt-rtx"


@pytest.fixture(autouse=True)
def _with_tensorrt_rtx(request):
    if "fake_native" not in request.fixturenames:
        pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def half_graph(torch_backbone, tmp_path_factory) -> Path:
    """All 12 blocks in FP16 at 56 x 84."""
    from dinspect_export.backbone import ExportableBackbone
    from dinspect_export.onnx_export import write_backbone
    from dinspect_export.recipes import BackboneRecipe

    path = tmp_path_factory.mktemp("half") / "model.onnx"
    recipe = BackboneRecipe("dinov2_vits14", "", (4, 6), (8, 12), "fp16", (1, 8), {}, "", {})
    write_backbone(ExportableBackbone(torch_backbone.network, (4, 6), [8, 12]), path, recipe)
    return path


def graph_of(nodes, inputs, outputs, path, initializers=()):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [info(name, kind, shape) for name, kind, shape in inputs],
        [info(name, kind, shape) for name, kind, shape in outputs],
        initializers,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), str(path))
    return path


def relu(path, shape):
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    float_ = TensorProto.FLOAT
    return graph_of([node], [("x", float_, shape)], [("y", float_, shape)], path)


def test_attention_is_fused_in_every_block(half_graph):
    engine = build_engine(half_graph, EngineOptions(RTX, compute_capabilities=("8.6", "8.9")))
    found = inspect_plan(engine)
    # Targets that need kernels of their own are counted once each.
    assert found["fused_attention_kernels"] in (12, 24)
    assert found["targets"] == ["8.6", "8.9"]
    assert found["layers"]["MATRIX_MULTIPLY HALF"] == 72
    assert found["layers"]["NORMALIZATION FLOAT"] == 26
    assert "MATRIX_MULTIPLY FLOAT" not in found["layers"]
    assert engine.profile == {"pixels": [[1, 56, 84, 3], [4, 56, 84, 3], [8, 56, 84, 3]]}


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"])
def test_every_target_can_be_built_for(tmp_path, capability):
    model = relu(tmp_path / "m.onnx", ["batch", 4])
    engine = build_engine(model, EngineOptions(RTX, compute_capabilities=(capability,)))
    assert inspect_plan(engine)["targets"] == [capability]


def test_unknown_target_names_the_known(tmp_path):
    model = relu(tmp_path / "m.onnx", ["batch", 4])
    with pytest.raises(EngineError, match=r"'9\.0'; it knows current, 7\.5, 8\.0"):
        build_engine(model, EngineOptions(RTX, compute_capabilities=("9.0",)))


def test_fixed_batch_needs_no_profile(tmp_path):
    engine = build_engine(relu(tmp_path / "m.onnx", [3, 4]), EngineOptions(RTX))
    assert engine.profile == {}
    assert inspect_plan(engine)["size_bytes"] == len(engine.plan) > 0


def test_only_the_batch_may_be_dynamic(tmp_path):
    with pytest.raises(EngineError, match="only its first dimension"):
        build_engine(relu(tmp_path / "m.onnx", ["batch", "width"]), EngineOptions(RTX))


def test_mixed_types_are_refused_with_the_node(tmp_path):
    """Networks are strongly typed: nothing is converted behind our back."""
    half = helper.make_tensor("w", TensorProto.FLOAT16, [4, 4], [0.5] * 16)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mixed_up")
    model = graph_of(
        [node],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        tmp_path / "m.onnx",
        [half],
    )
    with pytest.raises(EngineError, match=r"cannot parse .*'mixed_up' \(MatMul\)"):
        build_engine(model, EngineOptions(RTX))


def test_broken_file_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot parse"):
        build_engine(tmp_path / "m.onnx", EngineOptions(RTX))


def test_failed_build_carries_the_log(torch_backbone, tmp_path):
    """FP32 attention as one operator has no kernel: known, and why FP32 graphs are opset 18."""
    from dinspect_export.backbone import ExportableBackbone
    from dinspect_export.onnx_export import write_backbone
    from dinspect_export.recipes import BackboneRecipe

    recipe = BackboneRecipe(
        "dinov2_vits14", "", (2, 2), (1,), "fp32", (1, 8), {}, "", {}, opset=23
    )  # fmt: skip
    write_backbone(
        ExportableBackbone(torch_backbone.network, (2, 2), [1]), tmp_path / "m.onnx", recipe
    )
    with pytest.raises(EngineError, match="cannot build .*Attention operation was not supported"):
        build_engine(tmp_path / "m.onnx", EngineOptions(RTX))


def test_engine_cannot_be_inspected_without_a_gpu(tmp_path):
    (tmp_path / "m.plan").write_bytes(
        build_engine(relu(tmp_path / "m.onnx", ["batch", 4]), EngineOptions(RTX)).plan
    )
    from dinspect_export.gpu import visible_gpu

    if visible_gpu() is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        RuntimeUnavailableError, match="cannot be loaded on this machine: .*[a-z]{4}"
    ):
        fused_attention_layers(tmp_path / "m.plan", RTX)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"target": "tflite"}, "expected one of tensorrt, tensorrt-rtx"),
        ({"target": RTX, "batch": (4, 2, 8)}, "smallest <= best <= largest"),
        ({"target": RTX, "batch": (0, 1, 1)}, "1 <= smallest"),
        ({"target": RTX, "version_compatible": True}, "has no version_compatible"),
        ({"target": RTX, "timing_cache": Path("c"), "optimization_level": 3}, "optimization_level, timing_cache"),
        ({"target": "tensorrt", "compute_capabilities": ("8.6",)}, "builds for the GPU at hand"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(options, reason):
    with pytest.raises(EngineError, match=reason):
        EngineOptions(**options)


def test_missing_tensorrt_says_what_to_install(monkeypatch):
    monkeypatch.setitem(engine_module.TARGETS, "tensorrt", "tensorrt_that_is_not_there")
    with pytest.raises(
        MissingDependencyError,
        match=r"package tensorrt-that-is-not-there.* pip install 'dinspect\[tensorrt\]'",
    ):
        load_tensorrt("tensorrt")


class _Flag(enum.IntEnum):
    STRONGLY_TYPED = 1


class _FakeConfig:
    """Records what a build is configured with. A fake: native TensorRT needs a GPU to build."""

    def __init__(self):
        self.flags, self.cache, self.profiles = [], None, []

    def set_flag(self, flag):
        self.flags.append(flag)

    def create_timing_cache(self, known):
        return SimpleNamespace(known=known)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = (cache.known, ignore_mismatch)
        return cache.known != b"timings of another GPU"

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: b"timings of this build")

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)


@pytest.fixture
def fake_native(monkeypatch):
    """A fake of native ``tensorrt``, to see what it is asked for; it builds nothing."""
    config = _FakeConfig()
    tensor = SimpleNamespace(name="pixels", shape=(-1, 14, 14, 3))
    network = SimpleNamespace(
        num_inputs=1, num_layers=0, get_input=lambda i: tensor, get_layer=None
    )
    seen = SimpleNamespace(config=config, network_flags=None)

    class Builder:
        def __init__(self, log):
            pass

        def create_network(self, flags):
            seen.network_flags = flags
            return network

        def create_builder_config(self):
            return config

        def create_optimization_profile(self):
            return SimpleNamespace(set_shape=lambda *shapes: setattr(seen, "shapes", shapes))

        def build_serialized_network(self, network, config):
            return b"a native plan"

    fake = SimpleNamespace(
        Builder=Builder,
        OnnxParser=lambda network, log: SimpleNamespace(parse_from_file=lambda path: True),
        ILogger=type("ILogger", (), {"__init__": lambda self: None, "Severity": SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)}),
        NetworkDefinitionCreationFlag=_Flag,
        BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="version compatible"),
        HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere and later"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
    )  # fmt: skip
    monkeypatch.setitem(engine_module._logs, "tensorrt", None)
    monkeypatch.delitem(engine_module._logs, "tensorrt")
    monkeypatch.setattr(engine_module, "load_tensorrt", lambda target: fake)
    yield seen
    engine_module._logs.pop("tensorrt", None)


def test_native_build_is_asked_for_what_the_options_say(fake_native, tmp_path):
    cache = tmp_path / "timings.cache"
    cache.write_bytes(b"timings known before")
    options = EngineOptions(
        "tensorrt",
        batch=(1, 2, 4),
        version_compatible=True,
        hardware_compatible=True,
        optimization_level=4,
        timing_cache=cache,
    )
    engine = build_engine(tmp_path / "m.onnx", options)
    config = fake_native.config
    assert engine.plan == b"a native plan"
    assert fake_native.network_flags == 1 << 1
    assert config.flags == ["version compatible"]
    assert config.hardware_compatibility_level == "ampere and later"
    assert config.builder_optimization_level == 4
    assert config.cache == (b"timings known before", False)
    assert cache.read_bytes() == b"timings of this build"
    assert fake_native.shapes == ("pixels", (1, 14, 14, 3), (2, 14, 14, 3), (4, 14, 14, 3))


def test_timings_of_another_gpu_are_left_aside(fake_native, tmp_path):
    cache = tmp_path / "timings.cache"
    cache.write_bytes(b"timings of another GPU")
    build_engine(tmp_path / "m.onnx", EngineOptions("tensorrt", timing_cache=cache))
    assert fake_native.config.cache == (b"", False)
    assert cache.read_bytes() == b"timings of this build"


def test_names_tell_what_is_not_the_default():
    assert backbone_name("dinov2_vits14", (32, 42), [8, 12]) == "dinov2_vits14_448x588"
    assert backbone_name("dinov2_vits14", (32, 32), [8, 12], "fp16") == "dinov2_vits14_448_fp16"
    assert (
        backbone_name("dinov2_vits14", (16, 16), [4, 8], "fp16", (2, 2))
        == "dinov2_vits14_224_layers_4_8_batch_2_fp16"
    )
    assert backbone_name("dinov2_vitl14", (16, 16), [16, 24]) == "dinov2_vitl14_224"
    assert backbone_name("vit_b_16", (14, 14), [8, 12], batch=(1, 4)) == "vit_b_16_224_batch_1_4"


def test_timing_cache_is_a_help_and_no_ingredient(tmp_path):
    from dinspect_export.engine_build import GraphFile, engine_recipe

    graph = GraphFile("graph", tmp_path / "m.onnx", "0" * 64, "", "fp16", {})
    with_cache, without = (
        engine_recipe("e", graph, EngineOptions("tensorrt", timing_cache=cache)).to_dict()
        for cache in (tmp_path / "timings.cache", None)
    )
    assert json.loads(json.dumps(with_cache)) == with_cache == without
