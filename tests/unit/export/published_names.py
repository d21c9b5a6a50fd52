"""From Meta's parameter names to other publishers', written out as their state dicts list them."""

from __future__ import annotations

import torch


def _renamed(state, outside, block, inside):
    """Rename by two tables of Meta's names to theirs; ``{}`` in ``block`` takes the number."""
    result = {}
    for name, tensor in state.items():
        if name in outside:
            result[outside[name]] = tensor
        else:
            _, number, rest = name.split(".", 2)
            result[f"{block.format(number)}.{inside[rest]}"] = tensor
    return result


def as_torchvision(state, *, first="mlp.0", second="mlp.3"):
    outside = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj.weight": "conv_proj.weight",
        "patch_embed.proj.bias": "conv_proj.bias",
        "norm.weight": "encoder.ln.weight",
        "norm.bias": "encoder.ln.bias",
    }
    inside = {
        "norm1.weight": "ln_1.weight",
        "norm1.bias": "ln_1.bias",
        "attn.qkv.weight": "self_attention.in_proj_weight",
        "attn.qkv.bias": "self_attention.in_proj_bias",
        "attn.proj.weight": "self_attention.out_proj.weight",
        "attn.proj.bias": "self_attention.out_proj.bias",
        "norm2.weight": "ln_2.weight",
        "norm2.bias": "ln_2.bias",
        "mlp.fc1.weight": f"{first}.weight",
        "mlp.fc1.bias": f"{first}.bias",
        "mlp.fc2.weight": f"{second}.weight",
        "mlp.fc2.bias": f"{second}.bias",
    }
    theirs = _renamed(state, outside, "encoder.layers.encoder_layer_{}", inside)
    return theirs | {"heads.head.weight": torch.ones(5, 32), "heads.head.bias": torch.ones(5)}


def as_timm(state):
    """DINOv2 by timm: the mask token goes, registers take the class position out of the grid."""
    theirs = {
        name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): tensor
        for name, tensor in state.items()
    }
    if "register_tokens" in theirs:
        theirs["reg_token"] = theirs.pop("register_tokens")
        theirs["cls_token"] = theirs["cls_token"] + theirs["pos_embed"][:, :1]
        theirs["pos_embed"] = theirs["pos_embed"][:, 1:]
    return theirs


def as_timm_classifier(state):
    return as_timm(state) | {"head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}


def as_hugging_face(state, *, prefix="", vit=False):
    """The names of the published files, which transformers 5 still writes."""
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    inside = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    for kind in ("weight", "bias"):
        inside |= {
            f"norm1.{kind}": f"layernorm_before.{kind}" if vit else f"norm1.{kind}",
            f"norm2.{kind}": f"layernorm_after.{kind}" if vit else f"norm2.{kind}",
            f"attn.qkv.{kind}": f"attention.attention.qkv.{kind}",
            f"attn.proj.{kind}": f"attention.output.dense.{kind}",
            f"mlp.fc1.{kind}": f"intermediate.dense.{kind}" if vit else f"mlp.fc1.{kind}",
            f"mlp.fc2.{kind}": f"output.dense.{kind}" if vit else f"mlp.fc2.{kind}",
            f"mlp.w12.{kind}": f"mlp.weights_in.{kind}",
            f"mlp.w3.{kind}": f"mlp.weights_out.{kind}",
        }
    theirs = _renamed(state, outside, "encoder.layer.{}", inside)
    for name in [name for name in theirs if ".qkv." in name]:
        for part, tensor in zip(("query", "key", "value"), theirs.pop(name).chunk(3), strict=True):
            theirs[name.replace("qkv", part)] = tensor.clone()
    if not vit:
        theirs["embeddings.mask_token"] = torch.zeros(1, 32)
    return {f"{prefix}{name}": tensor for name, tensor in theirs.items()}
