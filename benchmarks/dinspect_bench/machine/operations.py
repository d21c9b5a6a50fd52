"""Operations of one image, counted from shapes alone.

A multiply-add is two operations. What counts are matrix products, the patch embedding, which is
one, and the taps of the filter that resizes. Norms, softmax, GELU, additions and the distances of
tokens are left out: a runtime spends time on them, but they are a small share, and what they cost
in operations is a matter of definition. Decoding is left out altogether. Rates made of these
figures are therefore slightly too low, never too high.

No PyTorch here; the tests hold the figures to `torch.utils.flop_counter`, exactly.

Sources: the shapes are those of `dinspect_export.backbone` and `dinspect_export.students`, and of
the served models' `image_preparation`, `foreground` and `map_operator`.
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
_BICUBIC_TAPS = 4


@dataclass(frozen=True)
class Count:
    """Operations or bytes, split by part.

    Attributes:
        parts: Name of a part to its number.
    """

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.parts.values())


def backbone_operations(variant: BackboneVariant, grid: tuple[int, int], depth: int) -> Count:
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
    return Count(embedding | {name: depth * count for name, count in block.items()})


def students_operations(dim: int, grid: tuple[int, int], combination: str = "product") -> Count:
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
    return Count(dict.fromkeys(STUDENTS_RUN[combination], one))


def knn_operations(dim: int, grid: tuple[int, int], num_bank_patches: int) -> Count:
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
    return Count({"similarities": _product(_num_patches(grid), dim, num_bank_patches)})


def foreground_operations(dim: int, grid: tuple[int, int]) -> Count:
    """Operations of AnomalyDINO's mask for one image, as far as shapes tell.

    The served model iterates for the leading eigenvector, as often as the image needs; that is left
    out.

    Args:
        dim: Width of a patch token.
        grid: Patch grid ``(rows, columns)``.

    Returns:
        ``covariance`` of the patch tokens, and their ``projection`` on its first axis.

    Raises:
        BenchmarkError: If the grid is empty.
    """
    num_patches = _num_patches(grid)
    return Count(
        {
            "covariance": _product(dim, num_patches, dim),
            "projection": _product(num_patches, dim, 1),
        }
    )


def resize_operations(image_size: tuple[int, int], resized_size: tuple[int, int]) -> Count:
    """Operations of a bicubic filter in two passes, as Pillow resizes an image.

    A shrinking filter grows wider by as much, so that no pixel is passed over. An axis that keeps
    its size is not filtered.

    Args:
        image_size: Height and width of the image in pixels.
        resized_size: The same after resizing.

    Returns:
        ``horizontal`` pass over the image's rows, then ``vertical`` over the new columns; of all
        three channels.
    """
    (height, width), (new_height, new_width) = image_size, resized_size
    return Count(
        {
            "horizontal": 2 * _CHANNELS * height * _taps(width, new_width),
            "vertical": 2 * _CHANNELS * new_width * _taps(height, new_height),
        }
    )


def map_operations(image_size: tuple[int, int], grid: tuple[int, int]) -> Count:
    """Operations of an anomaly map: upsampling and smoothing as two matrix products.

    Args:
        image_size: Height and width of the map in pixels.
        grid: Patch grid ``(rows, columns)``.

    Returns:
        ``rows`` of the grid to pixels, then its ``columns``.

    Raises:
        BenchmarkError: If the grid is empty.
    """
    _num_patches(grid)
    (height, width), (rows, columns) = image_size, grid
    return Count(
        {"rows": _product(height, rows, columns), "columns": _product(height, columns, width)}
    )


def feed_forward_width(variant: BackboneVariant) -> int:
    """Width of the hidden layer of a block's feed-forward part."""
    if variant.ffn == "swiglu":
        # Two thirds of 4 * dim, rounded up to a multiple of 8: see `backbone.SwiGlu`.
        return (int(4 * variant.dim * 2 / 3) + 7) // 8 * 8
    return 4 * variant.dim


def _product(rows: int, inner: int, columns: int) -> int:
    """Operations of a matrix product ``(rows, inner) @ (inner, columns)``."""
    return 2 * rows * inner * columns


def _num_patches(grid: tuple[int, int]) -> int:
    if min(grid) < 1:
        raise BenchmarkError(f"patch grid {grid} is empty; rows and columns must be at least 1")
    return grid[0] * grid[1]


def _feed_forward(variant: BackboneVariant, num_tokens: int) -> int:
    dim, hidden = variant.dim, feed_forward_width(variant)
    into = (
        2 * hidden if variant.ffn == "swiglu" else hidden
    )  # once for the gate, once for the value
    return _product(num_tokens, dim, into) + _product(num_tokens, hidden, dim)


def _taps(size_px: int, new_size_px: int) -> int:
    """Multiply-adds that make one line of an axis from one of another size."""
    return 0 if size_px == new_size_px else _BICUBIC_TAPS * max(size_px, new_size_px)
