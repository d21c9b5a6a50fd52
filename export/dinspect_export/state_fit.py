"""Whether a state dict fits a network, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

_MOST_NAMES_SHOWN = 6


def misfit(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, left over and of another shape; empty when the state fits.

    Args:
        state: Parameter names to tensors.
        expected: Parameter names to shapes.
    """
    missing = [name for name in expected if name not in state]
    left_over = [name for name in state if name not in expected]
    misshaped = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if not (missing or left_over or misshaped):
        return ""
    return (
        f"missing {some_of(missing)}; left over {some_of(left_over)}; "
        f"wrong shape {some_of(misshaped)}"
    )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of parameters with a value that is NaN or infinite."""
    return [name for name, tensor in state.items() if not tensor.isfinite().all()]


def some_of(names: Sequence[str]) -> str:
    """The first names of a list that may be long, and how many more there are."""
    if not names:
        return "nothing"
    more = len(names) - _MOST_NAMES_SHOWN
    return ", ".join(names[:_MOST_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
