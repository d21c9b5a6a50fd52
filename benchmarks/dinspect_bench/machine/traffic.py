"""Bytes one image must move at least, counted from shapes and types.

What a step is given, its weights and what it puts out, each once. What lies in between, such as the
tokens inside a backbone, is not counted: a cache may hold it. So the figures are what cannot be
avoided, not what a runtime really moves.

Sources: shapes and types as in the served models' wire and `operations`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.machine.operations import STUDENTS_RUN, Count, feed_forward_width
from dinspect_export.variants import BackboneVariant

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Precision to the bytes of a number."""
_FP32 = ITEM_BYTES["fp32"]  # of all tensors between the steps but pixels
_CHANNELS = 3
_LINEAR_LAYERS = 3  # of a student


def preprocess_traffic(received_bytes: int, input_size: tuple[int, int]) -> Count:
    """Bytes of decoding and resizing.

    Args:
        received_bytes: The image as it is sent: an encoded file, or three bytes a pixel.
        input_size: Height and width of the backbone's input in pixels.

    Returns:
        ``image`` in, ``pixels`` out.
    """
    return Count({"image": received_bytes, "pixels": _CHANNELS * input_size[0] * input_size[1]})


def backbone_traffic(
    variant: BackboneVariant, grid: tuple[int, int], layers: Sequence[int], precision: str
) -> Count:
    """Bytes of a backbone.

    Args:
        variant: The backbone.
        grid: Patch grid ``(rows, columns)`` of its input.
        layers: Tapped blocks, counted from one; those after the last are not in an exported graph.
        precision: Of its weights, all of them: a runtime may keep some in a wider one.

    Returns:
        ``pixels`` in (uint8), ``weights``, ``patch_tokens`` of every tapped block out (FP32).

    Raises:
        BenchmarkError: If there is no such precision.
    """
    num_patches, edge = grid[0] * grid[1], variant.patch_size
    return Count(
        {
            "pixels": _CHANNELS * num_patches * edge**2,
            "weights": num_parameters(variant, grid, max(layers)) * item_bytes(precision),
            "patch_tokens": len(layers) * num_patches * variant.dim * _FP32,
        }
    )


def knn_traffic(dim: int, grid: tuple[int, int], num_bank_patches: int, precision: str) -> Count:
    """Bytes of AnomalyDINO's search.

    Args:
        dim: Width of a patch token.
        grid: Patch grid ``(rows, columns)``.
        num_bank_patches: Rows of the memory bank that are searched.
        precision: Of the rows.

    Returns:
        ``patch_tokens`` in (FP32), ``memory_bank``, ``patch_distances`` out (FP32).

    Raises:
        BenchmarkError: If there is no such precision.
    """
    num_patches = grid[0] * grid[1]
    return Count(
        {
            "patch_tokens": num_patches * dim * _FP32,
            "memory_bank": num_bank_patches * dim * item_bytes(precision),
            "patch_distances": num_patches * _FP32,
        }
    )


def students_traffic(
    dim: int, grid: tuple[int, int], precision: str, combination: str = "product"
) -> Count:
    """Bytes of L2BT's students.

    Args:
        dim: Width of a patch token.
        grid: Patch grid ``(rows, columns)``.
        precision: Of their weights.
        combination: A key of `operations.STUDENTS_RUN`.

    Returns:
        ``patch_tokens`` of two blocks in (FP32), ``weights``, ``patch_distances`` out (FP32).

    Raises:
        BenchmarkError: If there is no such precision.
    """
    num_patches = grid[0] * grid[1]
    weights = len(STUDENTS_RUN[combination]) * _LINEAR_LAYERS * (dim * dim + dim)
    return Count(
        {
            "patch_tokens": 2 * num_patches * dim * _FP32,
            "weights": weights * item_bytes(precision),
            "patch_distances": num_patches * _FP32,
        }
    )


def map_traffic(image_size: tuple[int, int], grid: tuple[int, int]) -> Count:
    """Bytes of an anomaly map, all FP32.

    Args:
        image_size: Height and width of the map in pixels.
        grid: Patch grid ``(rows, columns)``.

    Returns:
        ``patch_distances`` in, the two ``operators`` of upsampling and smoothing, ``map`` out.
    """
    (height, width), (rows, columns) = image_size, grid
    return Count(
        {
            "patch_distances": rows * columns * _FP32,
            "operators": (height * rows + width * columns) * _FP32,
            "map": height * width * _FP32,
        }
    )


def num_parameters(variant: BackboneVariant, grid: tuple[int, int], depth: int) -> int:
    """Numbers in an exported backbone, its position embedding already of the grid's size.

    Args:
        variant: The backbone.
        grid: Patch grid ``(rows, columns)``.
        depth: Its deepest tapped block, counted from one.
    """
    dim, hidden = variant.dim, feed_forward_width(variant)
    num_tokens = 1 + grid[0] * grid[1]  # with the class token; registers have no position
    embedding = (_CHANNELS * variant.patch_size**2 + 1) * dim
    prefix = (1 + variant.num_registers) * dim
    norm = 2 * dim
    attention = (dim + 1) * 3 * dim + (dim + 1) * dim
    into = 2 * hidden if variant.ffn == "swiglu" else hidden
    feed_forward = (dim + 1) * into + (hidden + 1) * dim
    gains = 2 * dim if variant.layer_scale else 0
    block = 2 * norm + attention + feed_forward + gains
    return embedding + prefix + num_tokens * dim + depth * block + norm


def item_bytes(precision: str) -> int:
    """Bytes of a number.

    Raises:
        BenchmarkError: If there is no such precision.
    """
    if precision not in ITEM_BYTES:
        raise BenchmarkError(
            f"precision is {precision!r}, expected one of: {', '.join(ITEM_BYTES)}"
        )
    return ITEM_BYTES[precision]
