"""The vision transformers of the table of variants in plain PyTorch, with Meta's parameter names.

Two modules: `VisionTransformer` is the published network, loadable strictly from Meta's state dict;
`ExportableBackbone` wraps it for one input size, with everything a server should not have to know
(normalisation, layout, position embedding, final LayerNorm) inside the graph.

Source: facebookresearch/dinov2 `models/vision_transformer.py`, `layers/`. The tests hold it to
Hugging Face's implementation, which is independent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinspect_export.errors import InvalidGeometryError
from dinspect_export.variants import BackboneVariant

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token."""

    def __init__(self, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, N, D)


class Attention(nn.Module):
    """Multi-head self-attention with one fused QKV projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, 64)
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers with exact (erf) GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """Gated feed-forward layer of ViT-g: ``w3(silu(a) * b)`` with ``a, b = w12(x)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Two thirds of 4*dim, rounded up to a multiple of 8, as published.
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned gain per channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block, with or without layer scale on both branches."""

    def __init__(self, variant: BackboneVariant) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(variant.dim, eps=LAYER_NORM_EPS)
        self.attn: nn.Module = Attention(variant.dim, variant.num_heads)
        self.ls1 = LayerScale(variant.dim) if variant.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(variant.dim, eps=LAYER_NORM_EPS)
        self.mlp: nn.Module = SwiGlu(variant.dim) if variant.ffn == "swiglu" else Mlp(variant.dim)
        self.ls2 = LayerScale(variant.dim) if variant.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """The published network; its state dict has Meta's names and loads strictly.

    Meta's mask token is left out: only pre-training uses it.

    Args:
        variant: Row of the table of variants.
        depth: Blocks to build; fewer than the variant's when only an early layer is tapped, so
            that an exported graph carries no block it does not run.
    """

    def __init__(self, variant: BackboneVariant, depth: int | None = None) -> None:
        super().__init__()
        self.variant = variant
        self.cls_token = nn.Parameter(torch.zeros(1, 1, variant.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + variant.pretrain_grid**2, variant.dim))
        if variant.num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, variant.num_registers, variant.dim))
        self.patch_embed: nn.Module = PatchEmbed(variant.dim, variant.patch_size)
        self.blocks = nn.ModuleList(
            Block(variant) for _ in range(variant.depth if depth is None else depth)
        )
        self.norm = nn.LayerNorm(variant.dim, eps=LAYER_NORM_EPS)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """Class and patch position embedding for a grid of ``(rows, columns)`` patches.

        Returns:
            ``(1, 1 + rows * columns, D)`` float32; the stored grid itself when the size matches.

        Source: `vision_transformer.py::interpolate_pos_encoding`. The square pre-training grid is
        returned untouched, as there.
        """
        stored = self.variant.pretrain_grid
        if grid == (stored, stored):
            return self.pos_embed
        rule = self.variant.position_rule
        patch_grid = self.pos_embed[:, 1:].reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
        if rule.offset:
            # The scale factor, not the size, decides the sampling points here: that is the rule
            # these weights were published with.
            scale = ((grid[0] + rule.offset) / stored, (grid[1] + rule.offset) / stored)
            resized = F.interpolate(
                patch_grid, scale_factor=scale, mode="bicubic", antialias=rule.antialias
            )
        else:
            resized = F.interpolate(patch_grid, size=grid, mode="bicubic", antialias=rule.antialias)
        if tuple(resized.shape[-2:]) != grid:
            raise InvalidGeometryError(
                f"position embedding came out as {tuple(resized.shape[-2:])}, expected {grid}"
            )
        patches = resized.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([self.pos_embed[:, :1], patches], dim=1)

    def tapped_tokens(
        self, x: Tensor, position_embedding: Tensor, layers: Sequence[int]
    ) -> list[Tensor]:
        """Patch tokens after the given blocks, final LayerNorm applied.

        Args:
            x: Normalised image ``(B, 3, H, W)`` float.
            position_embedding: ``(1, 1 + N, D)`` as `position_embedding` gives it.
            layers: One-based block numbers, ascending.

        Returns:
            One ``(B, N, D)`` tensor per layer, row-major over the patch grid, without class and
            register tokens.

        Source: `vision_transformer.py::get_intermediate_layers` with ``norm=True``.
        """
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + position_embedding
        if self.variant.num_registers:
            registers = self.register_tokens.expand(x.shape[0], -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        first_patch = 1 + self.variant.num_registers
        taps = []
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number in layers:
                taps.append(self.norm(x)[:, first_patch:])
        return taps


class ExportableBackbone(nn.Module):
    """A backbone for one input size: pixels in, patch tokens out.

    Args:
        network: The network with its weights.
        grid: Patch grid ``(rows, columns)`` of the input.
        layers: One-based block numbers to tap, ascending.

    Raises:
        InvalidGeometryError: If a layer lies outside the network or the grid is empty.
    """

    baked_position_embedding: Tensor
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self, network: VisionTransformer, grid: tuple[int, int], layers: Sequence[int]
    ) -> None:
        super().__init__()
        depth = len(network.blocks)
        if (
            not layers
            or list(layers) != sorted(set(layers))
            or not 1 <= layers[0] <= layers[-1] <= depth
        ):
            raise InvalidGeometryError(
                f"layers {list(layers)} must be ascending block numbers within 1..{depth}"
            )
        if min(grid) < 1:
            raise InvalidGeometryError(f"patch grid {grid} is empty")
        self.network = network
        self.grid = grid
        self.layers = tuple(layers)
        with torch.no_grad():
            embedding = network.position_embedding(grid).clone()
        self.register_buffer("baked_position_embedding", embedding)
        # (x / 255 - mean) / std folded into one multiply and one add per channel.
        mean = torch.tensor(network.variant.pixel_mean)
        std = torch.tensor(network.variant.pixel_std)
        self.register_buffer("pixel_scale", (1.0 / (255.0 * std)).reshape(1, 3, 1, 1))
        self.register_buffer("pixel_shift", (-mean / std).reshape(1, 3, 1, 1))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        patch = self.network.variant.patch_size
        return self.grid[0] * patch, self.grid[1] * patch

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute patch tokens.

        Args:
            pixels: ``(B, H, W, 3)`` uint8, RGB.

        Returns:
            One ``(B, rows * columns, D)`` float32 tensor per tapped layer, not L2-normalised.
        """
        # Cast before transposing: TensorRT's parser has no uint8 transpose.
        x = pixels.float().permute(0, 3, 1, 2) * self.pixel_scale + self.pixel_shift
        return tuple(self.network.tapped_tokens(x, self.baked_position_embedding, self.layers))
