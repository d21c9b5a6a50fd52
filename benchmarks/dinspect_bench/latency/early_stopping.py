"""MLPerf's early stopping: what a small number of queries says of a percentile, with confidence.

A percentile of few queries may lie too low by chance. The estimate here is higher by as much as
chance may explain: were the true percentile above it, so few slower queries would be seen in at
most 1 of 100 runs.

Source: MLPerf Inference Rules, appendix "Early Stopping Criterion", with its tolerance of 0 and
confidence of 0.99. Of n queries that exceed a bound with probability 1 - p each, t or fewer exceed
it with the probability of the cumulative binomial distribution; the largest t for which that is
0.01 at most may exceed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

CONFIDENCE = 0.99


@dataclass(frozen=True)
class PercentileEstimate:
    """A percentile that holds with confidence.

    Attributes:
        percentile: In (0, 1).
        value: In the unit of the latencies; None if there are too few.
        num_discarded: Highest latencies left out, t - 1 in MLPerf's words.
        num_needed: The least number of latencies that allows an estimate.
    """

    percentile: float
    value: float | None
    num_discarded: int
    num_needed: int


def allowed_over_latency(num_queries: int, percentile: float) -> int:
    """How many of some queries may exceed a bound that a percentile of all queries must keep.

    Args:
        num_queries: Queries that were sent.
        percentile: In (0, 1).

    Returns:
        The number; -1 if the queries are too few to tell even when none exceeds it.
    """
    seen = np.arange(num_queries + 1)
    odds = bdtr(seen, num_queries, 1 - percentile)  # of so many or fewer, in the worst system
    return int(np.searchsorted(odds, 1 - CONFIDENCE, side="right")) - 1


def queries_needed(num_over_latency: int, percentile: float) -> int:
    """The least number of queries of which so many may exceed a bound.

    Args:
        num_over_latency: Queries that exceed it, 0 or more.
        percentile: In (0, 1), that must keep it.
    """
    enough = 1
    while allowed_over_latency(enough, percentile) < num_over_latency:
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if allowed_over_latency(middle, percentile) < num_over_latency:
            too_few = middle
        else:
            enough = middle
    return enough


def estimate_percentile(latencies: Sequence[float], percentile: float) -> PercentileEstimate:
    """The early-stopping estimate of SingleStream (p = 0.9) and MultiStream (p = 0.99).

    Args:
        latencies: One per query, of any unit and in any order.
        percentile: In (0, 1).
    """
    num_needed = queries_needed(1, percentile)
    allowed = allowed_over_latency(len(latencies), percentile)
    if allowed < 1:
        return PercentileEstimate(percentile, None, 0, num_needed)
    value = sorted(latencies)[len(latencies) - allowed]
    return PercentileEstimate(percentile, float(value), allowed - 1, num_needed)
