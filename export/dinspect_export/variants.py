"""The backbones as data: one row per published variant, no conditionals elsewhere.

Sources: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (table of
architectures), Darcet et al., "Vision Transformers Need Registers", settings as in
facebookresearch/dinov2 `hub/backbones.py`; Dosovitskiy et al., "An Image is Worth 16x16 Words", as
torchvision and timm publish it, for the comparisons in AnomalyDINO and in L2BT's Table 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from dinspect_export.errors import UnknownVariantError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class PositionEmbeddingRule:
    """How a variant's position grid is interpolated, bicubically, to another size.

    Attributes:
        offset: Added to the target size before the scale factor is formed. Backbones without
            registers were published with 0.1, which shifts the sampling points slightly.
        antialias: Whether the bicubic filter is widened when the grid shrinks.
    """

    offset: float
    antialias: bool


WITHOUT_REGISTERS = PositionEmbeddingRule(offset=0.1, antialias=False)
WITH_REGISTERS = PositionEmbeddingRule(offset=0.0, antialias=True)
BY_SIZE = PositionEmbeddingRule(offset=0.0, antialias=False)
"""For the ImageNet ViTs. Nothing is published for other sizes than 224 px, where no rule is needed:
AnomalyDINO's authors run them at 224 px only."""


@dataclass(frozen=True, kw_only=True)
class BackboneVariant:
    """Architecture of one published backbone.

    Attributes:
        name: Its publisher's name for it, e.g. ``dinov2_vits14``.
        publisher: Who publishes the weights: ``Meta``, ``torchvision`` or ``timm``.
        dim: Width of a patch token.
        depth: Number of transformer blocks.
        num_heads: Attention heads; each is 64 wide.
        ffn: ``mlp`` (GELU) or ``swiglu`` (fused SwiGLU, ViT-g).
        layer_scale: Whether each residual branch has a learned gain per channel.
        num_registers: Register tokens, 0 or 4.
        position_rule: Interpolation rule of the position grid.
        patch_size: Edge of a patch in pixels.
        pretrain_grid: Edge of the stored position grid in patches (518 px / 14, 224 px / 16).
        pixel_mean, pixel_std: Normalisation of RGB pixels scaled to 0..1.
        checkpoint_sha256: Digest of the published file, where it is known.
    """

    name: str
    publisher: str
    dim: int
    depth: int
    num_heads: int
    ffn: str
    layer_scale: bool
    num_registers: int
    position_rule: PositionEmbeddingRule
    patch_size: int
    pretrain_grid: int
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    checkpoint_sha256: str | None = None

    @property
    def checkpoint_url(self) -> str | None:
        """Address where Meta publishes this variant's weights (Apache-2.0), None if it does not."""
        if self.publisher != "Meta":
            return None
        base = self.name.removesuffix("_reg")
        suffix = "_reg4" if self.num_registers else ""
        return f"https://dl.fbaipublicfiles.com/dinov2/{base}/{base}{suffix}_pretrain.pth"

    @property
    def default_layers(self) -> tuple[int, int]:
        """One-based blocks that L2BT taps: 8 and 12 of 12, and the same relative depth of others.

        Source: L2BT's implementation details (j = 8, k = 12 of ViT-B/14); 16 and 24 of 24 blocks,
        27 and 40 of 40 are ours.
        """
        return round(self.depth * 8 / 12), self.depth


def _dinov2(
    size: str,
    dim: int,
    depth: int,
    num_heads: int,
    ffn: str,
    sha256: tuple[str | None, str | None] = (None, None),
) -> list[BackboneVariant]:
    """Both variants of a size; digests without and with registers."""
    without, with_registers = sha256
    return [
        BackboneVariant(
            name=f"dinov2_vit{size}14{suffix}",
            publisher="Meta",
            dim=dim,
            depth=depth,
            num_heads=num_heads,
            ffn=ffn,
            layer_scale=True,
            num_registers=num_registers,
            position_rule=rule,
            patch_size=14,
            pretrain_grid=37,
            pixel_mean=IMAGENET_MEAN,
            pixel_std=IMAGENET_STD,
            checkpoint_sha256=digest,
        )
        for suffix, num_registers, rule, digest in (
            ("", 0, WITHOUT_REGISTERS, without),
            ("_reg", 4, WITH_REGISTERS, with_registers),
        )
    ]


def _imagenet(
    name: str,
    publisher: str,
    dim: int,
    depth: int,
    num_heads: int,
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> BackboneVariant:
    return BackboneVariant(
        name=name,
        publisher=publisher,
        dim=dim,
        depth=depth,
        num_heads=num_heads,
        ffn="mlp",
        layer_scale=False,
        num_registers=0,
        position_rule=BY_SIZE,
        patch_size=16,
        pretrain_grid=14,
        pixel_mean=mean,
        pixel_std=std,
    )


VARIANTS: dict[str, BackboneVariant] = {
    variant.name: variant
    for variant in (
        *_dinov2(
            "s",
            dim=384,
            depth=12,
            num_heads=6,
            ffn="mlp",
            sha256=(
                "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
                "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
            ),
        ),
        *_dinov2("b", dim=768, depth=12, num_heads=12, ffn="mlp"),
        *_dinov2("l", dim=1024, depth=24, num_heads=16, ffn="mlp"),
        *_dinov2("g", dim=1536, depth=40, num_heads=24, ffn="swiglu"),
        # ImageNet1K_V1 of torchvision.
        _imagenet("vit_b_16", "torchvision", dim=768, depth=12, num_heads=12),
        _imagenet("vit_l_16", "torchvision", dim=1024, depth=24, num_heads=16),
        # ImageNet-21k, then ImageNet-1k: the shapes of vit_b_16, but another normalisation. L2BT
        # does not say which of the two it means; 14 million images speak for this one.
        _imagenet(
            "vit_base_patch16_224", "timm", dim=768, depth=12, num_heads=12, mean=HALF, std=HALF
        ),
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
