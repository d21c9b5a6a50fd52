from __future__ import annotations

import numpy as np
import openvino
import pytest
from safetensors.numpy import load_file, save_file

import runners
from runners import WrongAnswerError, load_backbone


@pytest.fixture
def files(artefacts_dir):
    folder = artefacts_dir / "dinov2_vits14_448"
    return folder / "model.onnx", folder / "known_answer.safetensors"


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_fp32_equals_pytorch(files, runtime):
    backbone = load_backbone(*files, runtime, "fp32")
    assert backbone.precision == "fp32"
    assert backbone.max_cosine_distance < 1e-6
    assert backbone.runtime.startswith(runtime)


@pytest.mark.parametrize("units", [["FP32"], ["FP32", "BF16"], ["FP32", "BF16", "FP16"]])
def test_automatic_precision_is_fp32_on_any_processor(files, monkeypatch, units):
    """BF16's scores were seen 5 % away; the known answer alone would let it pass."""
    monkeypatch.setattr("openvino.Core.get_property", lambda self, *names: units)
    backbone = load_backbone(*files, "openvino", "auto")
    assert (backbone.precision, backbone.max_cosine_distance < 1e-6) == ("fp32", True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precision_is_the_one_in_force_or_refused(files, precision):
    """Without units for it OpenVINO computes in another and says nothing."""
    units = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() in units:
        assert load_backbone(*files, "openvino", precision).precision == precision
        return
    with pytest.raises(ValueError, match=f"no units for {precision}: OpenVINO would compute in"):
        load_backbone(*files, "openvino", precision)


@pytest.mark.parametrize(
    ("units", "hint"),
    [(["FP32", "INT8"], "f32"), (["FP32", "FP16", "INT8"], "f32"), (["BF16", "FP16"], "bf16")],
)
def test_bf16_stands_beside_int8_where_there_are_units(monkeypatch, units, hint):
    monkeypatch.setattr("openvino.Core.get_property", lambda self, *names: units)
    assert runners._beside_int8(openvino.Core()) == hint


def test_wrong_answer_is_not_served(files, tmp_path):
    known = load_file(str(files[1]))
    known["patch_tokens_12"] = known["patch_tokens_12"][:, ::-1].copy()
    save_file(known, str(tmp_path / "known.safetensors"))
    with pytest.raises(WrongAnswerError, match="nothing is served"):
        load_backbone(files[0], tmp_path / "known.safetensors", "openvino", "auto")


def test_images_of_a_batch_do_not_touch_each_other(files):
    backbone = load_backbone(*files, "openvino", "auto")
    images = np.random.default_rng(0).integers(0, 256, (3, 448, 448, 3), dtype=np.uint8)
    together = backbone.run(images)["patch_tokens_12"]
    for index in range(3):
        alone = backbone.run(images[index : index + 1])["patch_tokens_12"]
        assert np.array_equal(together[index], alone[0])


@pytest.mark.parametrize(
    ("runtime", "precision"), [("tvm", "fp32"), ("openvino", "int4"), ("onnxruntime", "fp16")]
)
def test_unknown_choices_are_refused(files, runtime, precision):
    with pytest.raises(ValueError, match="fp32"):
        load_backbone(*files, runtime, precision)


def test_one_wrong_patch_is_not_hidden_by_the_others(files, tmp_path):
    known = load_file(str(files[1]))
    known["patch_tokens_12"] = known["patch_tokens_12"].copy()
    known["patch_tokens_12"][0, 500] += 0.002 * np.linalg.norm(known["patch_tokens_12"][0, 500])
    save_file(known, str(tmp_path / "known.safetensors"))
    with pytest.raises(WrongAnswerError, match="nothing is served"):
        load_backbone(files[0], tmp_path / "known.safetensors", "openvino", "fp32")
