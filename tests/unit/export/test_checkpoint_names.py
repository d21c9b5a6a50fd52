from __future__ import annotations

import re

import pytest
import torch
from published_names import as_hugging_face, as_timm, as_timm_classifier, as_torchvision
from random_networks import TINY, random_state, tiny

from dinspect_export.backbone import ExportableBackbone, VisionTransformer
from dinspect_export.checkpoint_names import HUGGING_FACE, META, TIMM, TORCHVISION, recognise

# What the state dicts of timm 1.0.31, torchvision 0.28.0 and transformers 5.23.0 list, and the
# published files of torchvision and Hugging Face, without the kind (weight, bias) and the number.
REAL_NAMES = {
    "timm": """cls_token pos_embed reg_token patch_embed.proj blocks.N.norm1 blocks.N.attn.qkv
        blocks.N.attn.proj blocks.N.ls1.gamma blocks.N.norm2 blocks.N.mlp.fc1 blocks.N.mlp.fc2
        blocks.N.ls2.gamma norm head""",
    "torchvision": """class_token conv_proj encoder.pos_embedding
        encoder.layers.encoder_layer_N.ln_1 encoder.layers.encoder_layer_N.ln_2
        encoder.layers.encoder_layer_N.self_attention.in_proj_weight
        encoder.layers.encoder_layer_N.self_attention.in_proj_bias
        encoder.layers.encoder_layer_N.self_attention.out_proj
        encoder.layers.encoder_layer_N.mlp.0 encoder.layers.encoder_layer_N.mlp.3
        encoder.layers.encoder_layer_N.mlp.linear_1 encoder.layers.encoder_layer_N.mlp.linear_2
        encoder.ln heads.head""",
    "Hugging Face, DINOv2": """embeddings.cls_token embeddings.mask_token
        embeddings.register_tokens embeddings.position_embeddings
        embeddings.patch_embeddings.projection encoder.layer.N.norm1
        encoder.layer.N.attention.attention.query encoder.layer.N.attention.attention.key
        encoder.layer.N.attention.attention.value encoder.layer.N.attention.output.dense
        encoder.layer.N.layer_scale1.lambda1 encoder.layer.N.norm2 encoder.layer.N.mlp.fc1
        encoder.layer.N.mlp.fc2 encoder.layer.N.mlp.weights_in encoder.layer.N.mlp.weights_out
        encoder.layer.N.layer_scale2.lambda1 layernorm""",
    "Hugging Face, ViT": """vit.embeddings.cls_token vit.embeddings.position_embeddings
        vit.embeddings.patch_embeddings.projection vit.encoder.layer.N.layernorm_before
        vit.encoder.layer.N.attention.attention.query vit.encoder.layer.N.attention.attention.key
        vit.encoder.layer.N.attention.attention.value vit.encoder.layer.N.attention.output.dense
        vit.encoder.layer.N.layernorm_after vit.encoder.layer.N.intermediate.dense
        vit.encoder.layer.N.output.dense vit.layernorm""",
}

EXAMPLES = {
    "timm": (TIMM, "tiny_timm", as_timm_classifier),
    "timm, like Meta": (META, "tiny", as_timm),
    "timm, registers": (TIMM, "tiny_reg", as_timm),
    "timm, packed SwiGLU": (META, "tiny_swiglu", as_timm),
    "timm, packed SwiGLU and registers": (TIMM, "tiny_swiglu_reg", as_timm),
    "torchvision": (TORCHVISION, "tiny_torchvision", as_torchvision),
    "torchvision, older": (
        TORCHVISION,
        "tiny_torchvision",
        lambda state: as_torchvision(state, first="mlp.linear_1", second="mlp.linear_2"),
    ),
    "Hugging Face, DINOv2": (HUGGING_FACE, "tiny", as_hugging_face),
    "Hugging Face, DINOv2, registers": (HUGGING_FACE, "tiny_reg", as_hugging_face),
    "Hugging Face, DINOv2, SwiGLU": (HUGGING_FACE, "tiny_swiglu", as_hugging_face),
    "Hugging Face, classifier": (
        HUGGING_FACE,
        "tiny",
        lambda state: (
            as_hugging_face(state, prefix="dinov2.") | {"classifier.weight": torch.ones(5, 64)}
        ),
    ),
    "Hugging Face, classifier, registers": (
        HUGGING_FACE,
        "tiny_reg",
        lambda state: as_hugging_face(state, prefix="dinov2_with_registers."),
    ),
    "Hugging Face, ViT": (
        HUGGING_FACE,
        "tiny_timm",
        lambda state: as_hugging_face(state, prefix="vit.", vit=True),
    ),
    "Meta": (META, "tiny_reg", lambda state: state | {"mask_token": torch.ones(1, 32)}),
}


def tokens(state, variant):
    network = VisionTransformer(variant).eval().requires_grad_(False)
    network.load_state_dict(state)
    edge = 2 * variant.patch_size
    torch.manual_seed(3)
    pixels = torch.randint(0, 256, (1, edge, edge, 3), dtype=torch.uint8)
    return ExportableBackbone(network, (2, 2), [3])(pixels)[0]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_scheme_is_recognised_and_computes_the_same_tokens(example):
    scheme, variant, publish = EXAMPLES[example]
    state = random_state(TINY[variant])
    published = publish(dict(state))
    assert recognise(published) is scheme
    translated = scheme.translate(published)
    assert set(translated) == set(state)
    torch.testing.assert_close(tokens(translated, TINY[variant]), tokens(state, TINY[variant]))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if not re.match("timm.*registers", e)])
def test_parameters_arrive_unchanged(example):
    """Where timm moves the class position into the class token, the tokens alone can be compared."""
    scheme, variant, publish = EXAMPLES[example]
    state = random_state(TINY[variant])
    translated = scheme.translate(publish(dict(state)))
    assert all(torch.equal(translated[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("library", REAL_NAMES)
def test_names_written_in_the_tests_are_those_of_the_libraries(library):
    """What is checked against a translation written by the same hand must at least be real."""
    states = [
        publish(random_state(TINY[variant]))
        for example, (_, variant, publish) in EXAMPLES.items()
        if example.startswith(library)
    ]
    names = {re.sub(r"(blocks\.|layer\.|layer_)\d", r"\1N", name) for s in states for name in s}
    assert {re.sub(r"\.(weight|bias)$", "", name) for name in names} == set(
        REAL_NAMES[library].split()
    )


def test_query_key_and_value_are_stacked_in_metas_order():
    query, key, value = (torch.full((2, 2), float(n)) for n in range(3))
    prefix = "encoder.layer.3.attention.attention."
    found = HUGGING_FACE.translate(
        {f"{prefix}value.weight": value, f"{prefix}query.weight": query, f"{prefix}key.weight": key}
    )
    assert list(found) == ["blocks.3.attn.qkv.weight"]
    assert found["blocks.3.attn.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_translation_holds_a_large_model_only_once():
    published = as_hugging_face(random_state(TINY["tiny"]))
    HUGGING_FACE.translate(published)
    assert published == {}


@pytest.mark.parametrize("lost", ["query.weight", "key.bias", "value.weight"])
def test_incomplete_projection_is_not_made_up(lost):
    published = as_hugging_face(random_state(TINY["tiny"]))
    del published[f"encoder.layer.1.attention.attention.{lost}"]
    translated = HUGGING_FACE.translate(published)
    kind = lost.split(".")[1]
    assert f"blocks.1.attn.qkv.{kind}" not in translated
    assert any(name.startswith("blocks.1.attn.") and name.count(".") == 4 for name in translated)


def test_projection_of_unequal_parts_is_not_made_up():
    published = as_hugging_face(random_state(TINY["tiny"]))
    published["encoder.layer.1.attention.attention.key.weight"] = torch.zeros(31, 32)
    assert "blocks.1.attn.qkv.weight" not in HUGGING_FACE.translate(published)


def test_unknown_names_stay_to_be_reported():
    state = META.translate(random_state(tiny()) | {"blocks.1.adapter.weight": torch.ones(1)})
    assert "blocks.1.adapter.weight" in state
    assert "head.weight" in META.translate({"head.weight": torch.ones(1)})


def test_same_parameter_twice_is_reported():
    published = as_hugging_face(random_state(TINY["tiny"]))
    published["dinov2.layernorm.bias"] = torch.zeros(32)
    translated = HUGGING_FACE.translate(published)
    assert {"norm.bias", "dinov2.layernorm.bias"} <= set(translated)


def test_partial_file_is_recognised_by_what_is_left():
    published = as_torchvision(random_state(TINY["tiny_torchvision"]))
    blocks = {name: tensor for name, tensor in published.items() if "encoder_layer_1" in name}
    assert recognise(blocks) is TORCHVISION


def test_names_of_no_vision_transformer_are_not_recognised():
    assert recognise(["layer1.0.conv1.weight", "fc.bias"]) is None
    assert recognise([]) is None
