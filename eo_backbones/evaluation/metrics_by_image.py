"""Bootstrap intervals of figures that follow from counts which add up over images.

Several labels an image, or a class for every pixel: here an image carries a whole table of counts, and resampling
images means summing the tables of the drawn ones. Labels of one image, and its pixels, are so kept together; taking
them for independent would make intervals far too narrow.
"""

from collections.abc import Callable

import numpy as np

from eo_backbones.evaluation.metrics import RESAMPLES, Counts, Estimate, Floats, interval

Score = Callable[[Counts], Floats]
"""Sums of tables ``(..., *table)`` -> figures ``(...)``."""

_CELLS_AT_ONCE = 2**22  # bounds the drawn numbers in memory: 32 MiB


def resampled_sums(tables: Counts, *, resamples: int = RESAMPLES, seed: int = 0) -> Counts:
    """Return sums over bootstrap draws of images, ``(resamples, *table)``.

    Args:
        tables: counts of each image ``(n, *table)``.
        resamples: how many draws of n images.
        seed: of the draws; the same for all figures that are to be compared.
    """
    count = len(tables)
    flat = tables.reshape(count, -1).astype(np.float64)  # exact below 2**53, and much faster to multiply
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS_AT_ONCE // count)
    sums = []
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, resamples - start))
        sums.append(np.rint(drawn @ flat).astype(np.int64))
    return np.concatenate(sums).reshape(resamples, *tables.shape[1:])


def estimate(tables: Counts, score: Score, *, seed: int = 0) -> Estimate:
    """Return a figure of all images with its 95 % interval."""
    low, high = interval(score(resampled_sums(tables, seed=seed)))
    return Estimate(float(score(tables.sum(axis=0))), low, high)


def difference(first: Counts, second: Counts, score: Score, *, seed: int = 0) -> Estimate:
    """Return ``score(first) - score(second)`` of the same images with its paired 95 % interval."""
    draws = [score(resampled_sums(tables, seed=seed)) for tables in (first, second)]
    low, high = interval(draws[0] - draws[1])
    return Estimate(float(score(first.sum(axis=0)) - score(second.sum(axis=0))), low, high)
