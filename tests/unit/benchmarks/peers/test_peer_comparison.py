"""Medians, quartiles and the two ratios, by hand-made samples."""

from __future__ import annotations

import pytest

from dinspect_bench.errors import MetricError
from dinspect_bench.peers.comparison import Spread, compare, spread


def test_spread_is_median_and_quartiles():
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([1.0, 2.0]) == Spread(1.25, 1.5, 1.75)
    with pytest.raises(MetricError, match="no value"):
        spread([])


def test_ratio_is_ours_by_the_peers():
    ratio = compare([50.0, 60.0, 70.0], [100.0, 120.0, 140.0])
    assert ratio.paired == Spread(0.5, 0.5, 0.5)
    assert ratio.of_medians == 0.5


def test_pairs_cancel_what_the_machine_does_and_medians_do_not():
    """In the second round everything takes ten times as long."""
    ratio = compare([10.0, 100.0, 10.0, 30.0], [20.0, 200.0, 20.0, 20.0])
    assert ratio.paired.p50 == 0.5
    assert ratio.paired.p75 == 0.75
    assert ratio.of_medians == pytest.approx(20.0 / 20.0)


@pytest.mark.parametrize(
    ("ours", "peer", "words"),
    [([1.0], [1.0, 2.0], "must pair up"), ([], [], "must pair up"),
     ([1.0, 0.0], [1.0, 1.0], "not positive"), ([1.0], [float("nan")], "not positive")],
)  # fmt: skip
def test_samples_that_do_not_pair_are_refused(ours, peer, words):
    with pytest.raises(MetricError, match=words):
        compare(ours, peer)
