"""Agreement of two runs of one backbone: patch by patch, and in what a plant acts on.

One bad patch is a missed defect, and a similarity over the whole tensor hides it: so the figure for
tokens is always the worst patch. What follows from the tokens, the image score and the verdict, is
compared as AnomalyDINO forms it, each run with the memory bank and threshold of its own, because a
product is enrolled by the very engine that inspects it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP_FRACTION = 0.01
"""Share of largest patch distances in the image score (AnomalyDINO supplement, C.2)."""

_QUERIES_AT_ONCE = 1024


def cosine_distance_per_patch(
    tokens: NDArray[np.float32], reference: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Cosine distance of corresponding patch tokens.

    Args:
        tokens: ``(..., N, D)`` patch tokens.
        reference: The same shape, from the run that is trusted.

    Returns:
        ``(..., N)`` in [0, 2]; NaN where a token has no direction or is not finite.

    Raises:
        ValueError: If the shapes differ.
    """
    if tokens.shape != reference.shape:
        raise ValueError(f"tokens are {tokens.shape}, expected {reference.shape} as the reference")
    a, b = tokens.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return 1.0 - cosine


def max_cosine_distance(tokens: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The worst patch's cosine distance; infinite when any patch has none.

    Raises:
        ValueError: If the shapes differ.
    """
    distance = cosine_distance_per_patch(tokens, reference)
    return float(distance.max()) if np.isfinite(distance).all() else float("inf")


@dataclass(frozen=True)
class Inspections:
    """What a run says of images after it has enrolled references.

    Attributes:
        scores: Image scores, one per inspected image, float64.
        threshold: Largest score of a reference against all the other references.
    """

    scores: NDArray[np.float64]
    threshold: float

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Which images are above the threshold; a score that is not a number is."""
        return ~(self.scores <= self.threshold)


def inspect_tokens(references: NDArray[np.float32], images: NDArray[np.float32]) -> Inspections:
    """Enrol references and score images, exactly and without any approximation.

    Args:
        references: ``(R, N, D)`` patch tokens of at least two good images.
        images: ``(I, N, D)`` patch tokens of the images to score.

    Raises:
        ValueError: If there are fewer than two references: one has nothing to be compared with.
    """
    if len(references) < 2:
        raise ValueError(f"{len(references)} reference images, expected at least 2")
    bank, queries = _unit(references), _unit(images)
    left_out = [_score(tokens, np.delete(bank, index, axis=0)) for index, tokens in enumerate(bank)]
    return Inspections(
        scores=np.array([_score(tokens, bank) for tokens in queries]), threshold=max(left_out)
    )


def max_score_change(run: Inspections, reference: Inspections) -> float:
    """Largest relative change of an image score; infinite when a score is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        change = np.abs(run.scores / reference.scores - 1.0)
    return float(change.max()) if np.isfinite(change).all() else float("inf")


def verdict_flips(run: Inspections, reference: Inspections) -> int:
    """Images that one run calls anomalous and the other does not."""
    return int((run.anomalous != reference.anomalous).sum())


def _unit(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = tokens.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)


def _score(tokens: NDArray[np.float32], bank: NDArray[np.float32]) -> float:
    """Mean of the largest distances of unit ``(N, D)`` tokens to their nearest in the bank."""
    rows = bank.reshape(-1, bank.shape[-1]).T
    nearest = [
        (tokens[start : start + _QUERIES_AT_ONCE] @ rows).max(axis=1)
        for start in range(0, len(tokens), _QUERIES_AT_ONCE)
    ]
    distances = 1.0 - np.concatenate(nearest).astype(np.float64)
    count = max(int(TOP_FRACTION * len(distances)), 1)
    return float(np.sort(distances)[-count:].mean())
