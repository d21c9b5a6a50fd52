"""Ours against a peer, from samples that were taken in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dinspect_bench.errors import MetricError


@dataclass(frozen=True)
class Spread:
    """Median and quartiles, in the unit of the values.

    Attributes:
        p25, p50, p75: Percentiles, interpolated linearly between samples.
    """

    p25: float
    p50: float
    p75: float


@dataclass(frozen=True)
class Ratio:
    """Ours divided by the peer's; below 1 ours is faster.

    Attributes:
        paired: Ratios of the rounds: what the machine does in a round cancels.
        of_medians: Ratio of the two medians.
    """

    paired: Spread
    of_medians: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles.

    Raises:
        MetricError: If there is no value.
    """
    if not values:
        raise MetricError("there is no value to take a median of")
    p25, p50, p75 = np.percentile(np.asarray(values, dtype=np.float64), [25, 50, 75])
    return Spread(float(p25), float(p50), float(p75))


def compare(ours_ms: Sequence[float], peer_ms: Sequence[float]) -> Ratio:
    """The two ratios of a peer.

    Args:
        ours_ms: Our latencies, one per round.
        peer_ms: The peer's in the same rounds, in the same order.

    Raises:
        MetricError: If they are not as many, none, or not positive.
    """
    ours, peer = (np.asarray(one, dtype=np.float64) for one in (ours_ms, peer_ms))
    if len(ours) != len(peer) or not len(ours):
        raise MetricError(f"{len(ours)} samples of ours and {len(peer)} of the peer must pair up")
    if not (ours > 0).all() or not (peer > 0).all():
        raise MetricError("a latency is not positive, so there is no ratio")
    return Ratio(spread((ours / peer).tolist()), float(np.median(ours) / np.median(peer)))
