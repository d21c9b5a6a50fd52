"""`dinspect verify`: every runtime and the served model against PyTorch, on real images."""

from __future__ import annotations

import json

import pytest

from dinspect_client.main import main
from dinspect_export import verify as verify_module
from dinspect_export.check_images import CheckImages
from dinspect_export.description import read_description
from dinspect_export.gpu import visible_gpu
from dinspect_export.recipes import Tolerances
from dinspect_export.verify import verify


def small_description(folder, split, more=""):
    """An FP16 graph of one block."""
    path = folder / "engines.toml"
    backbone = 'variant = "dinov2_vits14"\nweights = "packaged"\nprecisions = ["fp16"]\n'
    path.write_text(
        f'[check]\nimages = ["{split.enrolled[0]}"]\n'
        f"[[backbone]]\n{backbone}sizes = [56]\nlayers = [1]\n{more}"
    )
    return path


@pytest.fixture(scope="module")
def images(split):
    return CheckImages(
        images=(split.functional[0], split.defective[0]), references=tuple(split.enrolled[:2])
    )


@pytest.fixture(scope="module")
def verdicts(description, images, served_fp32):
    found = verify(read_description(description), check=images, server_url=served_fp32.grpc_url)
    return {(verdict.artefact, verdict.runtime): verdict for verdict in found}


def test_everything_that_can_run_is_compared(verdicts):
    runtimes = ["onnxruntime", "openvino f32", "openvino f16", "served"]
    names = ["dinov2_vits14_448", "dinov2_vits14_448x588"]
    assert list(verdicts) == [(name, runtime) for name in names for runtime in runtimes]
    for (_, runtime), verdict in verdicts.items():
        if runtime == "openvino f16" and verdict.proof is None:
            assert verdict.not_run == "this processor has no units for FP16"
            continue
        assert verdict.proof.figures["images"] == 4


def test_full_precision_agrees_to_the_last_digits(verdicts):
    for (_, runtime), verdict in verdicts.items():
        if verdict.proof is None:
            continue
        assert verdict.proof.failures == []
        if runtime == "openvino f16":
            assert 1e-6 < 1 - verdict.proof.figures["min_patch_cosine"] < 1e-3
        else:
            assert 1 - verdict.proof.figures["min_patch_cosine"] < 1e-6
            assert verdict.proof.figures["max_score_change"] < 1e-4
        assert verdict.proof.figures["verdict_flips"] == 0


def test_command_answers_no_when_a_tolerance_is_not_kept(description, images, monkeypatch, capsys):
    arguments = ["verify", str(description), "--images", *map(str, images.images[:1])]
    impossible = {p: Tolerances(1.1, 0.0) for p in ("fp32", "fp16")}
    monkeypatch.setattr(verify_module, "TOLERANCES", impossible)
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(line.startswith(("FAILED   dinov2", "not run  dinov2")) for line in lines)
    monkeypatch.undo()
    assert main([*arguments, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {record["runtime"] for record in records} == {
        "onnxruntime", "openvino f32", "openvino f16"
    }  # fmt: skip
    figures = [record["proof"]["figures"] for record in records if record["proof"]]
    assert all(figure["verdict_flips"] is None for figure in figures)


def test_server_that_does_not_answer(description, served_fp32, capsys):
    assert main(["verify", str(description), "--server", "localhost:1"]) == 3
    assert "no Triton server at localhost:1" in capsys.readouterr().err


def test_server_of_other_backbones(tmp_path, split, served_fp32, capsys):
    """Silence would look like agreement."""
    from dinspect_export.build import build

    path = small_description(tmp_path, split)
    assert len(list(build(read_description(path)))) == 1
    assert main(["verify", str(path), "--server", served_fp32.grpc_url]) == 3
    assert "serves none of dinov2_vits14_56_layers_1_fp16" in capsys.readouterr().err
    assert main(["verify", str(path), "--references", "gone"]) == 2
    assert "--references goes with --images" in capsys.readouterr().err


def test_stale_build_cannot_be_verified(description, tmp_path, capsys):
    other = tmp_path / "engines.toml"
    other.write_text(description.read_text())
    assert main(["verify", str(other)]) == 2
    assert "run 'dinspect build' first" in capsys.readouterr().err


@pytest.mark.skipif(visible_gpu() is not None, reason="this machine has a GPU")
def test_engine_without_a_gpu_is_told_not_run(tmp_path, split):
    pytest.importorskip("tensorrt_rtx")
    from dinspect_export.build import build

    path = small_description(tmp_path, split, '[[engine]]\ntarget = "tensorrt-rtx"\n')
    description = read_description(path)
    assert len(list(build(description))) == 2
    ran, not_run = verify(description)
    assert (ran.runtime, ran.not_run) == ("onnxruntime", "")
    assert (not_run.runtime, not_run.proof) == ("tensorrt-rtx", None)
    assert "run on an NVIDIA GPU" in not_run.not_run
