"""The mean of a figure over categories and seeds, as the papers take it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from dinspect_bench.records import Record

NO_MASKS = "no masks"


@dataclass(frozen=True)
class CategoryMean:
    """A figure over categories and seeds.

    Attributes:
        value: The mean.
        std: Standard deviation (n - 1) of the categories' mean from seed to seed; None where there
            is none.
        num_categories: Categories that take part, those for which the figure is not null.
    """

    value: float
    std: float | None
    num_categories: int


def mean_over_categories(
    by_category: Iterable[Sequence[Record]], figure: str
) -> CategoryMean | None:
    """Mean over categories of the mean over seeds.

    Its deviation is that of the categories' mean from seed to seed, as the papers count "three
    independent runs"; there is none unless every category was measured with the same seeds, several
    of them. Categories for which the figure is null, for they have no masks, take no part.

    Args:
        by_category: Records of each category, one for each seed, at least one.
        figure: Key of the figure.

    Returns:
        The mean, None where no category takes part.
    """
    having = [
        records for records in by_category if all(record[figure] is not None for record in records)
    ]
    if not having:
        return None
    by_seed: dict[Any, list[float]] = {}
    for record in (record for records in having for record in records):
        by_seed.setdefault(record["seed"], []).append(record[figure])
    is_even = all(len(values) == len(having) for values in by_seed.values())
    means = [fmean(record[figure] for record in records) for records in having]
    spread = [fmean(values) for values in by_seed.values()] if is_even else []
    return CategoryMean(fmean(means), stdev(spread) if spread[1:] else None, len(having))


def mean_text(mean: CategoryMean | None, num_categories: int) -> str:
    """As a table has it: ``0.912 ± 0.004``, and of how many categories where some have no masks.

    Args:
        mean: The mean.
        num_categories: Categories there are.
    """
    if mean is None:
        return NO_MASKS
    deviation = "" if mean.std is None else f" ± {mean.std:.3f}"
    few = "" if mean.num_categories == num_categories else f" (mean of {mean.num_categories})"
    return f"{mean.value:.3f}{deviation}{few}"
