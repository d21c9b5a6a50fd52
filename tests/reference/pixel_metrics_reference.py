"""Segmentation figures computed the slow, obvious way, to hold the fast code to.

Each figure walks over every threshold that occurs and counts pixels again for each. Regions are
filled pixel by pixel. Nothing here is shared with what is tested.
"""

from __future__ import annotations

import numpy as np


def regions_of(mask):
    """Sets of pixels of one mask that touch by side or corner, as boolean masks."""
    height, width = mask.shape
    unvisited = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    found = []
    while unvisited:
        waiting = [unvisited.pop()]
        region = np.zeros((height, width), dtype=bool)
        while waiting:
            row, column = waiting.pop()
            region[row, column] = True
            for neighbour in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if neighbour in unvisited:
                    unvisited.remove(neighbour)
                    waiting.append(neighbour)
        found.append(region)
    return found


def thresholds_of(maps):
    """Every score that occurs, highest first."""
    return sorted({float(score) for one in maps for score in one.ravel()}, reverse=True)


def pro_points(maps, masks, max_size_px=None):
    """The PRO curve, one point a threshold (Bergmann et al. 2021; Section IV-A of L2BT).

    Args:
        maps: Anomaly maps.
        masks: Their ground truths.
        max_size_px: Regions above it take part neither as defects nor as normal pixels.

    Returns:
        False positive rates and mean overlaps, from (0, 0).
    """
    pairs = [
        (one, region)
        for one, mask in zip(maps, masks, strict=True)
        for region in regions_of(mask)
        if max_size_px is None or region.sum() <= max_size_px
    ]
    num_normal = sum(int((~mask).sum()) for mask in masks)
    rates, overlaps = [0.0], [0.0]
    for threshold in thresholds_of(maps):
        false_positives = sum(
            int((one[~mask] >= threshold).sum()) for one, mask in zip(maps, masks, strict=True)
        )
        shares = [float((one[region] >= threshold).mean()) for one, region in pairs]
        rates.append(false_positives / num_normal)
        overlaps.append(sum(shares) / len(shares))
    return rates, overlaps


def area_up_to(limit, xs, ys):
    """Trapezoids under a curve, the last one cut where x is the limit."""
    area = 0.0
    for left, right, low, high in zip(xs[:-1], xs[1:], ys[:-1], ys[1:], strict=True):
        if left >= limit:
            break
        if right > limit:
            high = low + (high - low) * (limit - left) / (right - left)
            right = limit
        area += (right - left) * (low + high) / 2
    return area


def aupro(maps, masks, limit, max_size_px=None):
    return area_up_to(limit, *pro_points(maps, masks, max_size_px)) / limit


def size_bounds_px(masks):
    """25th, 50th, 75th and 100th percentile of the regions' sizes, linear between two of them."""
    sizes = sorted(int(region.sum()) for mask in masks for region in regions_of(mask))
    bounds = []
    for share in (0.25, 0.5, 0.75, 1.0):
        position = share * (len(sizes) - 1)
        lower = int(position)
        upper = min(lower + 1, len(sizes) - 1)
        bounds.append(sizes[lower] + (position - lower) * (sizes[upper] - sizes[lower]))
    return bounds


def aupro_quartiles(maps, masks, limit):
    return [aupro(maps, masks, limit, bound) for bound in size_bounds_px(masks)]


def robustness(quartiles):
    """Equation 4 of L2BT, letter by letter."""
    w = 1 / 4 * sum(quartiles)
    s = abs(quartiles[3] - quartiles[0]) / max(quartiles[0], quartiles[3])
    return w * (1 - s)


def counts(maps, masks):
    """True positives, false positives and false negatives at every threshold, highest first."""
    scores = np.concatenate([one.ravel() for one in maps])
    truth = np.concatenate([mask.ravel() for mask in masks])
    for threshold in thresholds_of(maps):
        called = scores >= threshold
        yield (
            int((called & truth).sum()),
            int((called & ~truth).sum()),
            int((~called & truth).sum()),
        )


def pixel_auroc(maps, masks):
    """Share of pairs of a defective and a normal pixel in the right order, a tie counting half."""
    wins = pairs = 0.0
    normal = [float(s) for one, mask in zip(maps, masks, strict=True) for s in one[~mask]]
    for one, mask in zip(maps, masks, strict=True):
        for score in one[mask]:
            wins += sum(1.0 if score > other else 0.5 if score == other else 0 for other in normal)
            pairs += len(normal)
    return wins / pairs


def pixel_f1_max(maps, masks):
    return max(2 * tp / (2 * tp + fp + fn) for tp, fp, fn in counts(maps, masks))


def pixel_average_precision(maps, masks):
    """Sum over thresholds of the rise in recall times the precision there."""
    total = recall_before = 0.0
    for tp, fp, fn in counts(maps, masks):
        recall = tp / (tp + fn)
        total += (recall - recall_before) * tp / (tp + fp)
        recall_before = recall
    return total
