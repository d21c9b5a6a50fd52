"""The gate: what runs are compared, in which batches, and what stands in for a GPU's runner."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from dinspect_export import engine, engine_build, runtimes
from dinspect_export.check_images import CheckImages
from dinspect_export.engine import EngineOptions
from dinspect_export.engine_build import GraphFile, engine_recipe
from dinspect_export.errors import RuntimeUnavailableError
from dinspect_export.gpu import Gpu
from dinspect_export.recipes import Tolerances
from dinspect_export.runtimes import EngineRunner
from dinspect_export.verification import Reference

STRICT = Tolerances(1 - 1e-9, 1e-9)


def tokens_of(pixels):
    """Stands in for a backbone: tokens that depend on every pixel's place."""
    flat = pixels.reshape(len(pixels), 4, -1).astype(np.float32) / 255
    return {"patch_tokens_1": flat, "patch_tokens_2": flat[..., ::-1] + 1}


class Same:
    """A runtime that agrees, and records the batches it was given."""

    name = "same"

    def __init__(self):
        self.batches, self.closed = [], False

    def run(self, inputs):
        self.batches.append(len(inputs["pixels"]))
        return tokens_of(inputs["pixels"])

    def close(self):
        self.closed = True


class WrongInBatches(Same):
    """Right for single images, and for the first of a batch."""

    def run(self, inputs):
        outputs = super().run(inputs)
        return {name: np.repeat(t[:1], len(t), axis=0) for name, t in outputs.items()}


@pytest.fixture(scope="module")
def reference(split):
    check = CheckImages(tuple(split.functional[:3]), tuple(split.enrolled[:2]))
    return Reference(Same(), check, (28, 28))


def test_every_batch_size_is_run_and_filled(reference):
    runner = Same()
    proof = reference.prove(runner, STRICT, (1, 4, 8))
    assert runner.batches == [1] * 5 + [4] * 2 + [8]
    assert runner.closed
    assert proof.failures == []
    assert proof.figures["images"] == 5


def test_graph_that_is_wrong_in_batches_only_is_found(reference):
    assert reference.prove(WrongInBatches(), STRICT, (1,)).failures == []
    failures = reference.prove(WrongInBatches(), STRICT, (1, 4)).failures
    assert failures
    assert all(failure.startswith("in batches of 4, ") for failure in failures)


@pytest.mark.parametrize("change", ["shape", "missing", "nan"])
def test_answers_of_another_form_fail(reference, change):
    class Other(Same):
        def run(self, inputs):
            outputs = tokens_of(inputs["pixels"])
            if change == "shape":
                outputs["patch_tokens_2"] = outputs["patch_tokens_2"][:, :2]
            elif change == "missing":
                del outputs["patch_tokens_1"]
            else:
                outputs["patch_tokens_2"][0, 3, 5] = np.nan
            return outputs

    proof = reference.prove(Other(), Tolerances(0.0, 1e9))
    assert proof.failures
    assert proof.figures["min_patch_cosine"] == -1.0


@pytest.fixture
def fake_polygraphy(monkeypatch):
    """Stands in for Polygraphy on a GPU: like it, it hands out its own buffers again and again."""

    class TrtRunner:
        def __init__(self, engine):
            assert engine == ("model.plan", "tensorrt-rtx")
            self.buffers, self.active = {}, False

        def activate(self):
            print("[I] loading", flush=True)  # noqa: T201
            self.active = True

        def deactivate(self):
            self.active = False

        def infer(self, inputs):
            for name, tokens in tokens_of(inputs["pixels"]).items():
                self.buffers.setdefault(name, np.empty_like(tokens))[:] = tokens
            return self.buffers

    modules = {
        "polygraphy": {},
        "polygraphy.backend": {},
        "polygraphy.backend.trt": {"TrtRunner": TrtRunner},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "1")
    monkeypatch.setattr(runtimes, "require_gpu", lambda purpose: None)
    monkeypatch.setattr(engine, "load_engine", lambda plan, target: (plan.name, target))


def test_engine_answers_are_copied_and_the_engine_is_freed(
    fake_polygraphy, reference, tmp_path, capsys
):
    runner = EngineRunner(tmp_path / "model.plan", "tensorrt-rtx")
    assert reference.prove(runner, STRICT).failures == []
    assert not runner._runner.active
    assert capsys.readouterr().out == ""  # where --json goes


def test_two_tensorrts_in_one_process_are_refused(fake_polygraphy, tmp_path):
    with pytest.raises(RuntimeUnavailableError, match="the other TensorRT already"):
        EngineRunner(tmp_path / "model.plan", "tensorrt")


@pytest.mark.parametrize(
    ("options", "capability", "gpu", "proven"),
    [
        (EngineOptions("tensorrt-rtx", compute_capabilities=("8.6",)), "8.6", False, True),
        (EngineOptions("tensorrt-rtx", compute_capabilities=("8.6",)), "9.0", False, False),
        (EngineOptions("tensorrt-rtx", compute_capabilities=("current",)), "9.0", True, True),
        (EngineOptions("tensorrt-rtx"), "8.9", False, True),
        (EngineOptions("tensorrt-rtx"), "9.0", False, False),
        (EngineOptions("tensorrt"), "9.0", True, True),
        (EngineOptions("tensorrt-rtx"), None, False, False),
    ],
)
def test_gpu_that_can_run_an_engine_is_part_of_its_recipe(
    monkeypatch, tmp_path, options, capability, gpu, proven
):
    here = Gpu("a GPU", capability) if capability else None
    monkeypatch.setattr(engine_build, "visible_gpu", lambda: here)
    graph = GraphFile("graph", tmp_path / "m.onnx", "0" * 64, "", "fp16", {})
    recipe = engine_recipe("e", graph, options)
    assert (recipe.gpu is not None, recipe.proven_on is not None) == (gpu, proven)
