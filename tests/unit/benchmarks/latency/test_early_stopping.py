"""MLPerf's early stopping against its published figures and the exact binomial distribution."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from dinspect_bench.latency.early_stopping import (
    allowed_over_latency,
    estimate_percentile,
    queries_needed,
)

P90, P99 = Fraction(9, 10), Fraction(99, 100)


def exact_odds(num_over, num_queries, percentile):
    """Of so many or fewer over the bound, if each exceeds it with 1 - percentile."""
    worse = 1 - percentile
    return sum(
        comb(num_queries, k) * worse**k * percentile ** (num_queries - k)
        for k in range(num_over + 1)
    )


@pytest.mark.parametrize(
    ("percentile", "num_over", "needed"),
    [
        # LoadGen's `mlperf.conf`: *.MultiStream.min_query_count = 662.
        (0.99, 1, 662),
        # LoadGen's summary of 100 queries: "Processed at least 64 queries".
        (0.9, 1, 64),
        # Of none over the bound: ceil(log 0.01 / log p), LoadGen's `early_stopping.cc`.
        (0.9, 0, 44),
        (0.99, 0, 459),
    ],
)
def test_least_numbers_of_queries_are_mlperfs(percentile, num_over, needed):
    assert queries_needed(num_over, percentile) == needed
    assert allowed_over_latency(needed, percentile) == num_over
    assert allowed_over_latency(needed - 1, percentile) == num_over - 1


@pytest.mark.parametrize(
    ("percentile", "margin", "queries"),
    [
        (0.90, 0.005, 24_576),
        (0.95, 0.0025, 57_344),
        (0.97, 0.0015, 90_112),
        (0.99, 0.0005, 270_336),
    ],
)
def test_at_the_rules_number_of_queries_the_penalty_is_within_the_rules_margin(
    percentile, margin, queries
):
    """Inference Rules, section "Scenarios", table of percentile, margin of error and inferences."""
    allowed = allowed_over_latency(queries, percentile)
    penalty = (1 - percentile) - allowed / queries
    assert 0.8 * margin < penalty < margin


@pytest.mark.parametrize("percentile", [P90, P99])
@pytest.mark.parametrize("num_queries", [1, 43, 100, 458, 700, 1000])
def test_allowed_is_the_largest_number_that_chance_explains_once_in_a_hundred(
    percentile, num_queries
):
    allowed = allowed_over_latency(num_queries, float(percentile))
    if allowed >= 0:
        assert exact_odds(allowed, num_queries, percentile) <= Fraction(1, 100)
    assert exact_odds(allowed + 1, num_queries, percentile) > Fraction(1, 100)


@pytest.mark.parametrize("num_over", [0, 1, 5, 40])
def test_queries_needed_is_the_least(num_over):
    needed = queries_needed(num_over, 0.9)
    assert exact_odds(num_over, needed, P90) <= Fraction(1, 100)
    assert exact_odds(num_over, needed - 1, P90) > Fraction(1, 100)


def test_estimate_leaves_out_the_highest_but_one_fewer_than_allowed():
    latencies = list(range(1, 101))
    estimate = estimate_percentile(latencies[::-1], 0.9)
    # Of 100 three may exceed it: two are discarded, and the highest of the rest is the estimate.
    assert (estimate.value, estimate.num_discarded) == (98.0, 2)
    assert estimate.num_needed == 64


def test_estimate_is_never_below_the_percentile_itself():
    for count in (64, 100, 500, 2000):
        assert estimate_percentile(range(count), 0.9).value >= 0.9 * (count - 1)


def test_too_few_latencies_give_no_estimate():
    assert estimate_percentile(range(63), 0.9).value is None
    assert estimate_percentile([], 0.9).value is None
    assert estimate_percentile(range(64), 0.9).value == 63.0
    assert estimate_percentile(range(661), 0.99).value is None
