"""Floating-point operations of one image, counted from shapes alone.

A multiply-add is two operations. What counts are matrix products, and the patch embedding, which is
one. Norms, softmax, GELU, additions and the distances of tokens are left out: a runtime spends time
on them, but they are a small share, and what they cost in operations is a matter of definition.
Rates made of these figures are therefore slightly too low, never too high.

No PyTorch here; the tests hold the figures to `torch.utils.flop_counter`, exactly.

Sources: the shapes are those of `dinspect_export.backbone` and `dinspect_export.students`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dinspect_bench.errors import BenchmarkError
from dinspect_export.variants import BackboneVariant

STUDENTS_RUN = {
    "product": ("forward_student", "backward_student"),
    "sum": ("forward_student", "backward_student"),
    "forward": ("forward_student",),
    "backward": ("backward_student",),
}
"""Which students each combination of the two blocks' distances needs (Table 9 of L2BT)."""
_LINEAR_LAYERS = 3  # of a student
_CHANNELS = 3  # of an image


@dataclass(frozen=True)
class Operations:
    """A count, split by part.

    Attributes:
        parts: Name of a part to its operations.
    """

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Operations of all parts together."""
        return sum(self.parts.values())


def backbone_operations(variant: BackboneVariant, grid: tuple[int, int], depth: int) -> Operations:
    """Operations of a backbone for one image.

    Args:
        variant: The backbone.
        grid: Patch grid ``(rows, columns)`` of its input.
        depth: Deepest tapped block; those after it are not in an exported graph.

    Returns:
        ``patch_embedding``, then over all blocks ``qkv``, ``attention_scores`` (queries by keys),
        ``attention_values`` (weights by values), ``projection`` and ``feed_forward``.

    Raises:
        BenchmarkError: If the grid is empty or the backbone has no such block.
    """
    num_patches = _num_patches(grid)
    if not 1 <= depth <= variant.depth:
        raise BenchmarkError(
            f"depth {depth} of {variant.name} must lie in 1..{variant.depth}; give the number of "
            "its deepest tapped block, counted from one"
        )
    dim, num_tokens = variant.dim, 1 + variant.num_registers + num_patches
    pixels = _CHANNELS * variant.patch_size**2
    attention = _product(num_tokens, dim, num_tokens)  # all heads together are as wide as a token
    block = {
        "qkv": _product(num_tokens, dim, 3 * dim),
        "attention_scores": attention,
        "attention_values": attention,
        "projection": _product(num_tokens, dim, dim),
        "feed_forward": _feed_forward(variant, num_tokens),
    }
    embedding = {"patch_embedding": _product(num_patches, pixels, dim)}
    return Operations(embedding | {name: depth * count for name, count in block.items()})


def students_operations(
    dim: int, grid: tuple[int, int], combination: str = "product"
) -> Operations:
    """Operations of L2BT's students for one image; they see each patch once, and nothing else.

    Args:
        dim: Width of a patch token.
        grid: Patch grid ``(rows, columns)``.
        combination: How the two blocks' distances become one, a key of `STUDENTS_RUN`.

    Returns:
        ``forward_student`` and ``backward_student``, as far as the combination needs them.

    Raises:
        BenchmarkError: If the grid is empty or the combination unknown.
    """
    if combination not in STUDENTS_RUN:
        raise BenchmarkError(
            f"combination is {combination!r}, expected one of: {', '.join(STUDENTS_RUN)}"
        )
    one = _LINEAR_LAYERS * _product(_num_patches(grid), dim, dim)
    return Operations(dict.fromkeys(STUDENTS_RUN[combination], one))


def knn_operations(dim: int, grid: tuple[int, int], num_bank_patches: int) -> Operations:
    """Operations of AnomalyDINO's search for one image.

    Args:
        dim: Width of a patch token.
        grid: Patch grid ``(rows, columns)``.
        num_bank_patches: Rows of the memory bank that each patch is compared with: all of them in
            exact search, those of the probed lists with inverted lists.

    Returns:
        ``similarities``: every patch by every row.

    Raises:
        BenchmarkError: If the grid or the bank is empty.
    """
    if num_bank_patches < 1:
        raise BenchmarkError(f"a bank of {num_bank_patches} patches is empty; give at least 1")
    return Operations({"similarities": _product(_num_patches(grid), dim, num_bank_patches)})


def _product(rows: int, inner: int, columns: int) -> int:
    """Operations of a matrix product ``(rows, inner) @ (inner, columns)``."""
    return 2 * rows * inner * columns


def _num_patches(grid: tuple[int, int]) -> int:
    if min(grid) < 1:
        raise BenchmarkError(f"patch grid {grid} is empty; rows and columns must be at least 1")
    return grid[0] * grid[1]


def _feed_forward(variant: BackboneVariant, num_tokens: int) -> int:
    dim = variant.dim
    if variant.ffn == "swiglu":
        # Two thirds of 4 * dim, rounded up to a multiple of 8, once for the gate, once for the
        # value: see `backbone.SwiGlu`.
        hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
        return _product(num_tokens, dim, 2 * hidden) + _product(num_tokens, hidden, dim)
    return _product(num_tokens, dim, 4 * dim) + _product(num_tokens, 4 * dim, dim)
