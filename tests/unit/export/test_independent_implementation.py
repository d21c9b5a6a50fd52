"""Our network against Hugging Face's implementation, at full width and depth.

Both run the same random weights. Matrices are views into one buffer of noise at random places, so
that even ViT-g (1.1 billion parameters) needs neither the memory nor the time to draw them all. Their
standard deviation is 1 / sqrt(width), which keeps every activation at the order of 1 and the
attention far from uniform; gains lie around 1, biases around 0 by 0.1, tokens and positions by 1, so
every parameter counts. Images are 4 x 4 patches and the stored position grid has just that size: how it is
resized is the matter of `test_position_embedding`.
"""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import transformers
from random_networks import TINY

from dinspect_export.checkpoint_names import HUGGING_FACE
from dinspect_export.checkpoints import Checkpoint, load_checkpoint, network_from_checkpoint
from dinspect_export.variants import VARIANTS

GRID = 4
TOLERANCE = 1e-4
NOISE_VALUES = 1 << 24


def hugging_face_model(variant, kind="Model"):
    """The same architecture by Hugging Face, without memory for its weights."""
    names = {"Meta": "Dinov2WithRegisters" if variant.num_registers else "Dinov2"}
    name = names.get(variant.publisher, "ViT")
    settings = {
        "hidden_size": variant.dim,
        "num_hidden_layers": variant.depth,
        "num_attention_heads": variant.num_heads,
        "image_size": variant.pretrain_grid * variant.patch_size,
        "patch_size": variant.patch_size,
        "layer_norm_eps": 1e-6,
        "attn_implementation": "eager",
    }
    if name == "ViT":
        settings["intermediate_size"] = 4 * variant.dim
    else:
        settings["use_swiglu_ffn"] = variant.ffn == "swiglu"
    if variant.num_registers:
        settings["num_register_tokens"] = variant.num_registers
    config = getattr(transformers, f"{name}Config")(**settings)
    with torch.device("meta"):
        return getattr(transformers, f"{name}{kind}")(config).eval().requires_grad_(False)


@functools.cache
def unit_noise():
    return torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(0))


def fill(model, width):
    """Give a model on the meta device random weights; returns them by name."""
    generator = torch.Generator().manual_seed(2)
    noise = unit_noise() * width**-0.5
    state = {}
    for name, parameter in model.state_dict().items():
        size = parameter.numel()
        start = int(torch.randint(NOISE_VALUES - size, (), generator=generator))
        values = noise[start : start + size].view(parameter.shape)
        if name.endswith("lambda1") or ("norm" in name and name.endswith("weight")):
            values = 1 + 0.2 * width**0.5 * values
        elif "token" in name or "position" in name:
            values = width**0.5 * values
        elif parameter.ndim == 1:
            values = 0.1 * width**0.5 * values
        state[name] = values
    model.load_state_dict(state, assign=True)
    return state


def tokens_of_hugging_face(model, images, variant):
    hidden = model(images, output_hidden_states=True).hidden_states
    assert len(hidden) == 1 + variant.depth
    first_patch = 1 + variant.num_registers
    return [model.layernorm(hidden[layer])[:, first_patch:] for layer in variant.default_layers]


def our_tokens(checkpoint, images):
    network = network_from_checkpoint(checkpoint)
    variant = checkpoint.variant
    embedding = network.position_embedding((GRID, GRID))
    return network.tapped_tokens(images, embedding, variant.default_layers)


def random_images(variant):
    edge = GRID * variant.patch_size
    return torch.randn(2, 3, edge, edge, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_agree_at_full_width_and_depth(name):
    variant = dataclasses.replace(VARIANTS[name], pretrain_grid=GRID)
    images = random_images(variant)
    model = hugging_face_model(variant)
    state = fill(model, variant.dim)
    expected = tokens_of_hugging_face(model, images, variant)
    del model
    checkpoint = Checkpoint(variant, HUGGING_FACE.translate(state), "transformers", "0")
    found = our_tokens(checkpoint, images)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (2, GRID * GRID, variant.dim)
        assert 0.3 < theirs.abs().mean() < 3
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
@pytest.mark.parametrize("name", [name for name in TINY if name != "tiny_torchvision"])
def test_folder_written_by_transformers_loads(name, kind, tiny_variants, monkeypatch, tmp_path):
    """In shards, under the published names, with and without a prefix and a classifier."""
    variant = dataclasses.replace(TINY[name], pretrain_grid=GRID)
    monkeypatch.setitem(VARIANTS, name, variant)
    model = hugging_face_model(variant, kind)
    fill(model, variant.dim)
    model.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    base = getattr(model, model.base_model_prefix, model)
    images = random_images(variant)
    found = our_tokens(load_checkpoint(str(tmp_path / "model"), name, tmp_path), images)
    for ours, theirs in zip(found, tokens_of_hugging_face(base, images, variant), strict=True):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)
