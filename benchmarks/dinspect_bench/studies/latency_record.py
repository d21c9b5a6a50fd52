"""From the inspections of a row to the figures of its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dinspect_bench.errors import BenchmarkError
from dinspect_bench.latency.single_stream import LatencySamples, SingleStreamRun, summarize
from dinspect_bench.latency.stages import Stages, stages_of
from dinspect_bench.records import Record


@dataclass(frozen=True)
class MeasuredProduct:
    """Inspections of one product.

    Attributes:
        run: Their times.
        bank_s: Seconds that filling its memory bank took; None where there is none.
    """

    run: SingleStreamRun
    bank_s: float | None = None

    @property
    def stages(self) -> Stages:
        """Where their time went; transport is what is left over.

        Raises:
            BenchmarkError: If the server did not show its times.
        """
        if self.run.server is None:
            raise BenchmarkError(f"there are no times by step: {self.run.server_unavailable}")
        return stages_of(self.run.summary, self.run.server)


def time_figures(products: Sequence[MeasuredProduct]) -> Record:
    """Times over all samples of all products.

    Returns:
        ``p50_ms``, ``p90_ms``, ``p99_ms``, ``mean_ms``, ``std_ms``, ``num_samples``,
        ``num_failed``, ``num_products``; ``stages_ms``, the mean time by stage, whose sum is
        ``mean_ms``, for transport is the remainder; ``memory_bank_s`` and ``memory_bank_std_s``
        over the products (None of a single one), if there are banks.

    Raises:
        BenchmarkError: If a sample failed, or the server did not show its times.
    """
    failures = [reason for one in products for reason in one.run.samples.failures]
    if failures:
        raise BenchmarkError(f"{len(failures)} inspections failed, the first with: {failures[0]}")
    samples = LatencySamples(tuple(ns for one in products for ns in one.run.samples.succeeded_ns))
    summary = summarize(samples)
    return {
        "p50_ms": summary.p50,
        "p90_ms": summary.p90,
        "p99_ms": summary.p99,
        "mean_ms": summary.mean,
        "std_ms": summary.std,
        "num_samples": summary.count,
        "num_failed": summary.num_failed,
        "num_products": len(products),
        "stages_ms": mean_stages(products),
        "transport": products[0].stages.transport,
        **_bank_figures([one.bank_s for one in products if one.bank_s is not None]),
    }


def mean_stages(products: Sequence[MeasuredProduct]) -> dict[str, float]:
    """Mean milliseconds by stage, each sample of each product alike; see `latency.stages`.

    Raises:
        BenchmarkError: If the server did not show its times.
    """
    total = sum(one.run.summary.count for one in products)
    stages: dict[str, float] = {}
    for one in products:
        weight = one.run.summary.count / total
        for name, ms in one.stages.times_ms.items():
            stages[name] = stages.get(name, 0.0) + weight * ms
    return stages


def _bank_figures(banks_s: Sequence[float]) -> Record:
    if not banks_s:
        return {}
    return {
        "memory_bank_s": fmean(banks_s),
        "memory_bank_std_s": stdev(banks_s) if len(banks_s) > 1 else None,
    }
