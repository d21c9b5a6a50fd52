from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from dinspect_client import wire
from dinspect_export.errors import ManifestError
from dinspect_export.manifest import (
    EngineManifest,
    read_backbones,
    sha256_of_file,
    write_manifest,
)
from dinspect_server.assemble import ServingOptions, assemble
from dinspect_server.embedded import EmbeddedTriton
from dinspect_server.errors import AssemblyError
from dinspect_server.model_sources import library_files, models_source


@pytest.fixture(scope="module")
def repository(artefacts_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    ensembles = assemble(artefacts_dir, folder, ServingOptions(max_bank_bytes=12345))
    assert ensembles == ["anomaly_dino_448", "anomaly_dino_448x588"]
    return folder


@pytest.fixture(scope="module")
def configs(repository):
    return {
        path.parent.name: text_format.Parse(path.read_text(), ModelConfig())
        for path in repository.glob("models/*/config.pbtxt")
    }


def test_models_are_named_after_their_folders(configs):
    assert {name: config.name for name, config in configs.items()} == {
        name: name for name in configs
    }
    assert set(configs) == {
        "anomaly_dino_448", "anomaly_dino_448_raw", "preprocess_448", "preprocess_448_raw",
        "dinov2_vits14_448", "cosine_knn_448", "students_448", "patch_tokens_448",
        "anomaly_dino_448x588", "anomaly_dino_448x588_raw", "preprocess_448x588",
        "preprocess_448x588_raw", "dinov2_vits14_448x588", "cosine_knn_448x588",
        "anomaly_map", "enroll", "manage", "products", "zero_shot",
    }  # fmt: skip


def test_every_step_of_an_ensemble_fits_its_model(configs):
    """Tensor names, types and shapes along the way, and every input fed exactly once."""
    for config in configs.values():
        tensors = {one.name: (one.data_type, list(one.dims)) for one in config.input}
        for step in config.ensemble_scheduling.step:
            model = configs[step.model_name]
            inputs = {one.name: (one.data_type, list(one.dims)) for one in model.input}
            outputs = {one.name: (one.data_type, list(one.dims)) for one in model.output}
            needed = {one.name for one in model.input if not one.optional}
            assert needed <= set(step.input_map) <= set(inputs)
            for theirs, ours in step.input_map.items():
                assert _fits(tensors[ours], inputs[theirs]), (config.name, ours)
            for theirs, ours in step.output_map.items():
                assert ours not in tensors, (config.name, ours)
                tensors[ours] = outputs[theirs]
        if config.ensemble_scheduling.step:
            for one in config.output:
                assert tensors[one.name] == (one.data_type, list(one.dims))


def _fits(given, wanted):
    return given[0] == wanted[0] and all(
        b in (-1, a) for a, b in zip(given[1], wanted[1], strict=True)
    )


def test_no_ensemble_output_feeds_a_later_step(configs):
    """Triton would prune its producer when a client does not ask for it."""
    for config in configs.values():
        outputs = {one.name for one in config.output}
        for step in config.ensemble_scheduling.step:
            assert not outputs & set(step.input_map.values())


def test_ensembles_put_out_the_wire_contract(configs):
    for name, config in configs.items():
        if config.platform != "ensemble" or name.startswith("patch_tokens_"):
            continue
        source = wire.IMAGE_RGB if name.endswith("_raw") else wire.IMAGE
        assert [one.name for one in config.input] == [source.name, wire.PRODUCT.name]
        assert [one.name for one in config.output] == [s.name for s in wire.INSPECTION_OUTPUTS]
        assert config.max_batch_size == 8


def test_models_queue_is_bounded_and_cancellable(configs):
    for config in configs.values():
        if config.backend == "python" and config.max_batch_size:
            policy = config.dynamic_batching.default_queue_policy
            assert policy.max_queue_size > 0
            assert policy.default_timeout_microseconds > 0


def test_options_reach_the_models(configs):
    parameters = configs["cosine_knn_448"].parameters
    assert parameters["max_bank_bytes"].string_value == "12345"
    assert configs["dinov2_vits14_448"].parameters["precision"].string_value == "auto"
    sizes = json.loads(configs["enroll"].parameters["served_sizes"].string_value)
    assert [size["label"] for size in sizes] == ["448", "448x588"]


def test_file_that_runs_is_the_graph(configs, repository):
    """Products record its digest, and must not record that of the known answer beside it."""
    for size in json.loads(configs["enroll"].parameters["served_sizes"].string_value):
        graph = repository / "models" / size["backbone"] / "1" / "model.onnx"
        assert size["file_sha256"] == sha256_of_file(graph)


def test_native_backend_takes_the_place_of_our_own(artefacts_dir, repository, tmp_path):
    """For NVIDIA's container: the same model by name, inputs and tokens, another backend."""
    assemble(artefacts_dir, tmp_path, ServingOptions(runtime="triton-onnxruntime"))
    folder = tmp_path / "models" / "dinov2_vits14_448"
    native = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    ours = text_format.Parse(
        (repository / "models" / "dinov2_vits14_448" / "config.pbtxt").read_text(), ModelConfig()
    )
    assert (native.backend, native.default_model_filename) == ("onnxruntime", "model.onnx")
    assert native.input == ours.input
    assert list(native.output) == [one for one in ours.output if one.name != "runtime_info"]
    assert (folder / "1" / "model.onnx").is_file()
    assert not (folder / "1" / "model.py").exists()
    with pytest.raises(AssemblyError, match="NVIDIA's Triton container"):
        EmbeddedTriton(tmp_path).start()


def test_every_model_carries_what_it_imports(repository):
    for adapter in repository.glob("models/*/1/model.py"):
        own = {path.stem for path in models_source().glob("lib/*/*.py")} | {"wire"}
        copied = {path.stem for path in adapter.parent.glob("*.py")} - {"model"}
        assert copied == {path.stem for path in library_files(adapter)}
        assert copied <= own
        assert "wire" in copied


def test_assembling_again_keeps_the_products(artefacts_dir, tmp_path):
    assemble(artefacts_dir, tmp_path)
    product = tmp_path / "banks" / "screw"
    product.mkdir()
    (tmp_path / "models" / "old").mkdir()
    assemble(artefacts_dir, tmp_path)
    assert product.is_dir()
    assert not (tmp_path / "models" / "old").exists()
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {
        "banks", "models", "repository.json", "students",
    }  # fmt: skip
    assert not list(tmp_path.glob("*partial")) + list(tmp_path.glob("*previous"))


def test_damaged_artefact_leaves_the_repository_alone(artefacts_dir, tmp_path):
    shutil.copytree(artefacts_dir / "dinov2_vits14_448", tmp_path / "artefacts" / "a")
    assemble(tmp_path / "artefacts", tmp_path / "repository")
    before = sorted(tmp_path.glob("repository/models/*"))
    (tmp_path / "artefacts" / "a" / "model.onnx").write_bytes(b"")
    with pytest.raises(ManifestError, match="build it again"):
        assemble(tmp_path / "artefacts", tmp_path / "repository")
    assert sorted(tmp_path.glob("repository/models/*")) == before


def test_two_backbones_of_one_size_are_refused(artefacts_dir, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(artefacts_dir / "dinov2_vits14_448", tmp_path / name)
    with pytest.raises(AssemblyError, match="both serve size 448"):
        assemble(tmp_path, tmp_path / "repository")


def test_unwritable_folder_is_an_error(artefacts_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssemblyError, match="cannot write the repository"):
        assemble(artefacts_dir, tmp_path / "file")


@pytest.mark.parametrize(
    "options",
    [
        {"runtime": "tvm"},
        {"precision": "int4"},
        {"runtime": "onnxruntime", "precision": "fp16"},
        {"max_bank_bytes": 0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(AssemblyError):
        ServingOptions(**options)


def test_of_several_layers_the_last_is_compared(artefacts_dir, tmp_path):
    """An artefact with an earlier tap, too: enrolment and inspection take the same tokens."""
    artefact = tmp_path / "artefacts" / "a"
    shutil.copytree(artefacts_dir / "dinov2_vits14_448", artefact)
    record = json.loads((artefact / "manifest.json").read_text())
    (artefact / "manifest.json").write_text(json.dumps(record | {"layers": [8, 12]}))
    assemble(tmp_path / "artefacts", tmp_path / "repository")
    models = tmp_path / "repository" / "models"
    enroll = text_format.Parse((models / "enroll" / "config.pbtxt").read_text(), ModelConfig())
    (size,) = json.loads(enroll.parameters["served_sizes"].string_value)
    ensemble = text_format.Parse(
        (models / "anomaly_dino_448" / "config.pbtxt").read_text(), ModelConfig()
    )
    taken = dict(ensemble.ensemble_scheduling.step[1].output_map)
    assert (size["layer"], taken) == (12, {"patch_tokens_12": "patch_tokens"})


def test_key_that_nobody_chose_is_known_to_nobody(repository):
    keys = {EmbeddedTriton(repository)._admin_key for _ in range(3)}
    assert len(keys) == 3
    assert all(len(key) >= 32 for key in keys)


@pytest.fixture
def with_engines(artefacts_dir, tmp_path):
    """An FP16 graph and an engine of it. The engine is a few bytes: native TensorRT needs a GPU."""
    artefacts, engines = tmp_path / "artefacts", tmp_path / "engines"
    shutil.copytree(artefacts_dir / "dinov2_vits14_448", artefacts / "half")
    graph = dataclasses.replace(
        read_backbones(artefacts)[0].manifest, name="dinov2_vits14_448_fp16", precision="fp16"
    )
    write_manifest(artefacts / "half", graph)
    folder = engines / "half.tensorrt"
    folder.mkdir(parents=True)
    (folder / "model.plan").write_bytes(b"a native plan")
    engine = EngineManifest(
        name="half.tensorrt",
        recipe={},
        files={"model.plan": sha256_of_file(folder / "model.plan")},
        versions={},
        graph=graph.name,
        onnx_sha256=graph.onnx_sha256,
        weights_sha256=graph.weights_sha256,
        target="tensorrt",
        precision="fp16",
        compute_capabilities=[],
        profile={},
        inspection={},
        proof=[],
        tolerances={},
    )
    write_manifest(folder, engine)
    return artefacts, folder, engine


def test_native_tensorrt_serves_the_engine_of_the_half_graph(with_engines, tmp_path):
    artefacts, _, engine = with_engines
    options = ServingOptions(runtime="triton-tensorrt")
    assert assemble(artefacts, tmp_path / "repository", options) == ["anomaly_dino_448"]
    folder = tmp_path / "repository" / "models" / "dinov2_vits14_448_fp16"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert config.parameters["onnx_sha256"].string_value == engine.onnx_sha256
    assert config.parameters["file_sha256"].string_value == engine.files["model.plan"]
    assert (folder / "1" / "model.plan").read_bytes() == b"a native plan"
    assert not (folder / "1" / "model.onnx").exists()
    assert (folder / "1" / "known_answer.safetensors").is_file()


def test_missing_or_other_engine_is_named(with_engines, tmp_path):
    artefacts, folder, engine = with_engines
    options = ServingOptions(runtime="triton-tensorrt")
    (folder / "model.plan").write_bytes(b"another")
    with pytest.raises(ManifestError, match=r"model\.plan is missing or not the file"):
        assemble(artefacts, tmp_path / "repository", options)
    for change in ({"target": "tensorrt-rtx"}, {"onnx_sha256": "0" * 64}):
        write_manifest(folder, dataclasses.replace(engine, **change))
        with pytest.raises(ManifestError, match="no tensorrt engine of dinov2_vits14_448_fp16"):
            assemble(artefacts, tmp_path / "repository", options)
    with pytest.raises(ManifestError, match="no exported backbone in fp32"):
        assemble(artefacts, tmp_path / "repository")


def test_what_cannot_be_served_is_left_out(artefacts_dir, with_engines, tmp_path, caplog):
    artefacts, _, _ = with_engines
    shutil.copytree(artefacts_dir / "dinov2_vits14_448x588", artefacts / "good")
    graph = read_backbones(artefacts_dir)[0].manifest
    write_manifest(artefacts / "half", dataclasses.replace(graph, batch=[2, 2]))
    assert assemble(artefacts, tmp_path / "repository") == ["anomaly_dino_448x588"]
    assert "left out: dinov2_vits14_448 takes batches of 2 to 2" in caplog.text
    write_manifest(artefacts / "half", dataclasses.replace(graph, patch_size=16))
    assert assemble(artefacts, tmp_path / "repository") == ["anomaly_dino_448x588"]
    assert "has patches of 16 px" in caplog.text


def test_graph_of_another_batch_cannot_be_served(with_engines, tmp_path):
    artefacts, _, _ = with_engines
    graph = read_backbones(artefacts, "fp16")[0].manifest
    options = ServingOptions(runtime="triton-onnxruntime", precision="fp16")
    for batch in ([2, 8], [1, 4], [1, 1]):
        write_manifest(artefacts / "half", dataclasses.replace(graph, batch=batch))
        with pytest.raises(AssemblyError, match="to be served it must take 1 to 8"):
            assemble(artefacts, tmp_path / "repository", options)


@pytest.mark.parametrize(
    ("runtime", "precision", "graph", "search"),
    [
        ("openvino", "auto", "fp32", "auto"),
        ("openvino", "fp16", "fp32", "fp16"),
        ("openvino", "int8", "int8", "auto"),
        ("onnxruntime", "fp32", "fp32", "fp32"),
        ("onnxruntime", "int8", "int8", "auto"),
        ("triton-onnxruntime", "auto", "fp32", "auto"),
        ("triton-onnxruntime", "fp16", "fp16", "auto"),
        ("triton-tensorrt", "auto", "fp16", "auto"),
        ("triton-tensorrt", "fp32", "fp32", "auto"),
    ],
)
def test_which_graph_is_served(runtime, precision, graph, search):
    options = ServingOptions(runtime=runtime, precision=precision)
    assert (options.graph_precision, options.search_precision) == (graph, search)
