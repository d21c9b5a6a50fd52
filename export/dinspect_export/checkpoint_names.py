"""The parameter names under which the same networks are published, as tables.

A scheme is recognised by its names and translated to Meta's, which are our network's own. Only what
no patch token depends on (classification heads, pooling, the mask token of pre-training) is left
behind; every other name without a counterpart is kept, so that the strict check reports it.

Sources: facebookresearch/dinov2 `vision_transformer.py`; transformers `modeling_dinov2.py`,
`modeling_dinov2_with_registers.py` and `modeling_vit.py`, with the names of its published files and
those of its modules since version 5; timm `vision_transformer.py`; torchvision
`vision_transformer.py`, whose `mlp.linear_1` became `mlp.0`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_PARTS = {
    "attn.qkv": ("attn.query", "attn.key", "attn.value"),
    "mlp.w12": ("mlp.gate", "mlp.value"),
}
"""Projections that Meta stacks and others keep apart: whole to its parts, in order."""


@dataclass(frozen=True)
class NamingScheme:
    """How one publisher names the parameters of a vision transformer.

    Attributes:
        title: Whose names they are.
        publishers: Whose backbones come under them; see `BackboneVariant.publisher`.
        prefixes: What may stand before every name.
        block: Expression of a block's names; its groups are the number and the rest.
        inside: Their name inside a block to Meta's.
        outside: Their other names to Meta's.
        unused: Beginnings of the names that no patch token depends on.
    """

    title: str
    publishers: frozenset[str]
    prefixes: tuple[str, ...]
    block: re.Pattern[str]
    inside: Mapping[str, str]
    outside: Mapping[str, str]
    unused: tuple[str, ...]

    def translate(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give tensors Meta's names and layout.

        Args:
            tensors: Their names to tensors. It is emptied on the way, so that a large model is not
                held twice while parts are stacked.

        Returns:
            Meta's names to tensors; names unknown to the scheme stay as they are.
        """
        state: dict[str, Tensor] = {}
        for name in list(tensors):
            tensor = tensors.pop(name)
            plain = self._without_prefix(name)
            if not plain.startswith(self.unused):
                target = self._meta_name(plain)
                state[name if target is None or target in state else target] = tensor
        _stack_parts(state)
        _unpack_swiglu(state)
        _restore_class_position(state)
        return state

    def knows(self, name: str) -> bool:
        """Whether the scheme has a parameter of this name."""
        plain = self._without_prefix(name)
        return plain.startswith(self.unused) or self._meta_name(plain) is not None

    def _without_prefix(self, name: str) -> str:
        for prefix in self.prefixes:
            name = name.removeprefix(prefix)
        return name

    def _meta_name(self, plain: str) -> str | None:
        inside = self.block.fullmatch(plain)
        if inside is None:
            return self.outside.get(plain)
        target = self.inside.get(inside["rest"])
        return None if target is None else f"blocks.{int(inside['number'])}.{target}"


def recognise(names: Iterable[str]) -> NamingScheme | None:
    """The scheme that knows most of the names, the first of equals; None if none knows any."""
    names = list(names)
    best = max(SCHEMES, key=lambda scheme: sum(map(scheme.knows, names)))
    return best if any(map(best.knows, names)) else None


def _stack_parts(state: dict[str, Tensor]) -> None:
    """Stack projections whose parts are all there; incomplete ones stay, to be reported."""
    for whole, parts in _PARTS.items():
        for first in [name for name in state if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            shapes = {state[name].shape if name in state else None for name in names}
            if len(shapes) == 1 and state[first].ndim:
                state[first.replace(parts[0], whole)] = torch.cat([state.pop(n) for n in names])


def _unpack_swiglu(state: dict[str, Tensor]) -> None:
    """Rename timm's ``SwiGLUPacked``: its ``fc1`` is twice as tall as its ``fc2`` is wide."""
    for name in [name for name in state if name.endswith(".mlp.fc1.weight")]:
        block = name.removesuffix("fc1.weight")
        tall, wide = state[name], state.get(f"{block}fc2.weight")
        if wide is None or wide.ndim != 2 or tall.shape[:1] != (2 * wide.shape[1],):
            continue
        for theirs, ours in (("fc1", "w12"), ("fc2", "w3")):
            for kind in ("weight", "bias"):
                if f"{block}{theirs}.{kind}" in state:
                    state[f"{block}{ours}.{kind}"] = state.pop(f"{block}{theirs}.{kind}")


def _restore_class_position(state: dict[str, Tensor]) -> None:
    """Put a zero position before timm's grid, which has none for the class token.

    With registers timm has added the class token's position to the token itself.
    """
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and "register_tokens" in state:
        batch, number, dim = positions.shape
        if math.isqrt(number) ** 2 == number:  # one more than a square is never a square
            state["pos_embed"] = torch.cat([positions.new_zeros(batch, 1, dim), positions], dim=1)


def _weights_and_biases(modules: Mapping[str, str]) -> dict[str, str]:
    """Names of modules to names of their two parameters."""
    return {
        f"{theirs}.{kind}": f"{ours}.{kind}"
        for theirs, ours in modules.items()
        for kind in ("weight", "bias")
    }


_BLOCK_MODULES = (
    "norm1",
    "attn.qkv",
    "attn.proj",
    "norm2",
    "mlp.fc1",
    "mlp.fc2",
    "mlp.w12",
    "mlp.w3",
)
_META_INSIDE = _weights_and_biases({name: name for name in _BLOCK_MODULES}) | {
    "ls1.gamma": "ls1.gamma",
    "ls2.gamma": "ls2.gamma",
}
_META_OUTSIDE = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "register_tokens": "register_tokens",
} | _weights_and_biases({"patch_embed.proj": "patch_embed.proj", "norm": "norm"})

META = NamingScheme(
    title="Meta",
    publishers=frozenset({"Meta", "torchvision", "timm"}),  # our own names for every backbone
    prefixes=(),
    block=re.compile(r"blocks\.(?P<number>\d+)\.(?P<rest>.+)"),
    inside=_META_INSIDE,
    outside=_META_OUTSIDE,
    unused=("mask_token",),
)
TIMM = NamingScheme(
    title="timm",
    publishers=frozenset({"Meta", "timm"}),
    prefixes=(),
    block=META.block,
    inside=_META_INSIDE,
    outside=_META_OUTSIDE | {"reg_token": "register_tokens"},
    unused=("head.",),
)
HUGGING_FACE = NamingScheme(
    title="Hugging Face",
    publishers=frozenset({"Meta", "timm"}),
    prefixes=("dinov2.", "dinov2_with_registers.", "vit."),
    block=re.compile(r"(?:encoder\.layer|layers)\.(?P<number>\d+)\.(?P<rest>.+)"),
    inside=_weights_and_biases(
        {
            "norm1": "norm1",
            "norm2": "norm2",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "attention.attention.query": "attn.query",
            "attention.attention.key": "attn.key",
            "attention.attention.value": "attn.value",
            "attention.output.dense": "attn.proj",
            "attention.q_proj": "attn.query",
            "attention.k_proj": "attn.key",
            "attention.v_proj": "attn.value",
            "attention.o_proj": "attn.proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
            "mlp.weights_in": "mlp.w12",
            "mlp.weights_out": "mlp.w3",
            "mlp.gate_proj": "mlp.gate",
            "mlp.up_proj": "mlp.value",
            "mlp.down_proj": "mlp.w3",
        }
    )
    | {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"},
    outside={
        "embeddings.cls_token": "cls_token",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.position_embeddings": "pos_embed",
    }
    | _weights_and_biases(
        {"embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm"}
    ),
    unused=("embeddings.mask_token", "classifier.", "pooler."),
)
TORCHVISION = NamingScheme(
    title="torchvision",
    publishers=frozenset({"torchvision"}),
    prefixes=(),
    block=re.compile(r"encoder\.layers\.encoder_layer_(?P<number>\d+)\.(?P<rest>.+)"),
    inside=_weights_and_biases(
        {
            "ln_1": "norm1",
            "ln_2": "norm2",
            "self_attention.out_proj": "attn.proj",
            "mlp.0": "mlp.fc1",
            "mlp.3": "mlp.fc2",
            "mlp.linear_1": "mlp.fc1",
            "mlp.linear_2": "mlp.fc2",
        }
    )
    | {
        "self_attention.in_proj_weight": "attn.qkv.weight",
        "self_attention.in_proj_bias": "attn.qkv.bias",
    },
    outside={"class_token": "cls_token", "encoder.pos_embedding": "pos_embed"}
    | _weights_and_biases({"conv_proj": "patch_embed.proj", "encoder.ln": "norm"}),
    unused=("heads.",),
)

SCHEMES = (META, TIMM, HUGGING_FACE, TORCHVISION)
