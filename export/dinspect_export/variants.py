"""The DINOv2 backbones as data: one row per published variant, no conditionals elsewhere.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (table of
architectures) and Darcet et al., "Vision Transformers Need Registers"; settings as in
facebookresearch/dinov2 `hub/backbones.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinspect_export.errors import UnknownVariantError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PositionEmbeddingRule:
    """How a variant's position grid is interpolated to another size.

    Attributes:
        offset: Added to the target size before the scale factor is formed. Backbones without
            registers were published with 0.1, which shifts the sampling points slightly.
        antialias: Whether the bicubic filter is widened when the grid shrinks.
    """

    offset: float
    antialias: bool


WITHOUT_REGISTERS = PositionEmbeddingRule(offset=0.1, antialias=False)
WITH_REGISTERS = PositionEmbeddingRule(offset=0.0, antialias=True)


@dataclass(frozen=True)
class BackboneVariant:
    """Architecture of one published backbone.

    Attributes:
        name: Meta's name, e.g. ``dinov2_vits14``.
        dim: Width of a patch token.
        depth: Number of transformer blocks.
        num_heads: Attention heads; each is 64 wide.
        ffn: ``mlp`` (GELU) or ``swiglu`` (fused SwiGLU, ViT-g).
        num_registers: Register tokens, 0 or 4.
        position_rule: Interpolation rule of the position grid.
        patch_size: Edge of a patch in pixels.
        pretrain_grid: Edge of the stored position grid in patches (518 px / 14).
    """

    name: str
    dim: int
    depth: int
    num_heads: int
    ffn: str
    num_registers: int
    position_rule: PositionEmbeddingRule
    patch_size: int = 14
    pretrain_grid: int = 37

    @property
    def checkpoint_url(self) -> str:
        """Address where Meta publishes this variant's weights (Apache-2.0)."""
        base = self.name.removesuffix("_reg")
        suffix = "_reg4" if self.num_registers else ""
        return f"https://dl.fbaipublicfiles.com/dinov2/{base}/{base}{suffix}_pretrain.pth"


def _pair(size: str, dim: int, depth: int, num_heads: int, ffn: str) -> list[BackboneVariant]:
    name = f"dinov2_vit{size}14"
    return [
        BackboneVariant(name, dim, depth, num_heads, ffn, 0, WITHOUT_REGISTERS),
        BackboneVariant(f"{name}_reg", dim, depth, num_heads, ffn, 4, WITH_REGISTERS),
    ]


VARIANTS: dict[str, BackboneVariant] = {
    variant.name: variant
    for variant in (
        *_pair("s", dim=384, depth=12, num_heads=6, ffn="mlp"),
        *_pair("b", dim=768, depth=12, num_heads=12, ffn="mlp"),
        *_pair("l", dim=1024, depth=24, num_heads=16, ffn="mlp"),
        *_pair("g", dim=1536, depth=40, num_heads=24, ffn="swiglu"),
    )
}


def variant_by_name(name: str) -> BackboneVariant:
    """Look up a variant.

    Raises:
        UnknownVariantError: If ``name`` is not a published variant; lists those that are.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        raise UnknownVariantError(
            f"unknown backbone {name!r}; published variants are: {', '.join(VARIANTS)}"
        ) from None
