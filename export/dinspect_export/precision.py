"""Half precision as part of the graph, where it costs nothing that a plant could notice.

TensorRT 11 has no FP16 switch any more: a network runs in the types its graph says. So the graph
says it: matrix products and attention in FP16, the residual stream, LayerNorm, layer scale and the
tokens themselves in FP32. docs/precision.md has the measurements behind this choice.
"""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, nn

from dinspect_export.backbone import Block, VisionTransformer


class InHalf(nn.Module):
    """Runs a module in FP16 between FP32 neighbours.

    Args:
        inner: The module; its parameters are FP16 already.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Float32 in, float32 out."""
        return self.inner(x.half()).float()


def with_half_matmuls(network: VisionTransformer) -> VisionTransformer:
    """A copy of a network whose patch projection, attention and feed-forward layers run in FP16.

    The parameters that stay in FP32 are shared with the original, which is left as it was.
    """
    half = {id(parameter) for module in _halves(network) for parameter in module.parameters()}
    shared_or_half = {
        id(parameter): nn.Parameter(parameter.detach().half(), requires_grad=False)
        if id(parameter) in half
        else parameter
        for parameter in network.parameters()
    }
    result = copy.deepcopy(network, shared_or_half)
    result.patch_embed = InHalf(result.patch_embed)
    for block in _blocks(result):
        block.attn, block.mlp = InHalf(block.attn), InHalf(block.mlp)
    return result.eval()


def _halves(network: VisionTransformer) -> list[nn.Module]:
    return [
        network.patch_embed,
        *(module for block in _blocks(network) for module in (block.attn, block.mlp)),
    ]


def _blocks(network: VisionTransformer) -> list[Block]:
    return cast(list[Block], list(network.blocks))
