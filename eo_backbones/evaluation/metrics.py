"""Weighted F1, accuracy and their bootstrap intervals, all from the confusion matrix.

A bootstrap resample of the test images only changes how often each (true class, predicted class) pair occurs. Drawing
those counts from a multinomial distribution over the matrix's cells is therefore the same as drawing images with
replacement, and costs the same for a million images as for ten (Efron & Tibshirani 1993, chapter 6: the bootstrap of
a statistic that depends on counts only).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1_000
COVERAGE = 0.95

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % bootstrap interval over the test images."""

    value: float
    low: float
    high: float


def confusion_matrix(true: Counts, predicted: Counts, num_classes: int) -> Counts:
    """Return the counts ``(num_classes, num_classes)``; row = true class, column = predicted class."""
    cells = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_f1(confusion: Counts) -> Floats:
    """Return the F1 of each class of one matrix ``(classes, classes)``; NaN for one that no test image has."""
    hits, support = np.diagonal(confusion), confusion.sum(axis=1)
    both = support + confusion.sum(axis=0)
    f1: Floats = np.divide(2 * hits, both, out=np.full(len(hits), np.nan), where=support > 0)
    return f1


def class_iou(confusion: Counts) -> Floats:
    """Return the intersection over union of each class of ``(..., classes, classes)``; NaN where it is not in truth.

    A class that only the predictions have lowers the others through their misses; it has no figure of its own, because
    there is nothing of it to find.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support = confusion.sum(axis=-1)
    union = support + confusion.sum(axis=-2) - hits
    iou: Floats = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=support > 0)
    return iou


def mean_iou(confusion: Counts) -> Floats:
    """Return the mean of :func:`class_iou` over the classes that the truth has."""
    return np.asarray(np.nanmean(class_iou(confusion), axis=-1))


def weighted_f1(confusion: Counts) -> Floats:
    """Return the mean of the classes' F1, weighted by how many test images each class has.

    Args:
        confusion: ``(..., classes, classes)``. A class that is neither present nor predicted counts as 0, as in
            scikit-learn's ``f1_score(average="weighted", zero_division=0)``.
    """
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)
    support = confusion.sum(axis=-1)
    both = support + confusion.sum(axis=-2)
    f1 = np.divide(2 * hits, both, out=np.zeros_like(hits), where=both > 0)
    return np.asarray((f1 * support).sum(axis=-1) / support.sum(axis=-1))


def accuracy(confusion: Counts) -> Floats:
    """Return the share of hits of ``(..., classes, classes)`` counts."""
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    return np.asarray(hits / confusion.sum(axis=(-2, -1)))


def resampled(counts: Counts, *, resamples: int = RESAMPLES, seed: int = 0) -> Counts:
    """Return bootstrap counts ``(resamples, *counts.shape)`` of the images behind ``counts``."""
    cells = counts.ravel()
    total = int(cells.sum())
    draws = np.random.default_rng(seed).multinomial(total, cells / total, size=resamples)
    return draws.reshape(resamples, *counts.shape)


def interval(samples: Floats) -> tuple[float, float]:
    """Return the central 95 % of bootstrap values (percentile method)."""
    low, high = np.quantile(samples, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def f1_estimate(confusion: Counts, *, seed: int = 0) -> Estimate:
    """Return the weighted F1 of one test set with its 95 % interval over 1,000 resamples of the test images."""
    low, high = interval(weighted_f1(resampled(confusion, seed=seed)))
    return Estimate(float(weighted_f1(confusion)), low, high)


def f1_difference(true: Counts, first: Counts, second: Counts, num_classes: int, *, seed: int = 0) -> Estimate:
    """Return ``F1(first) - F1(second)`` on the same test images, with its paired 95 % interval.

    Both models are resampled with the same images, so that what is hard for both cancels out.

    Args:
        true: class numbers of the test images ``(n,)``.
        first: one model's answers ``(n,)``.
        second: the other model's answers ``(n,)``.
        num_classes: how many classes there are.
        seed: of the resampling.
    """
    triples = (true * num_classes + first) * num_classes + second
    kinds, counts = np.unique(triples, return_counts=True)
    truth, rest = np.divmod(kinds, num_classes**2)
    answers = (rest // num_classes, rest % num_classes)

    def scores(draws: Counts, answer: Counts) -> Floats:
        # (resamples, kinds) x (kinds, cells): every kind of triple falls into one cell of this model's matrix
        cell = np.zeros((len(kinds), num_classes**2))
        cell[np.arange(len(kinds)), truth * num_classes + answer] = 1
        return weighted_f1(np.rint(draws @ cell).astype(np.int64).reshape(-1, num_classes, num_classes))

    def difference(draws: Counts) -> Floats:
        return scores(draws, answers[0]) - scores(draws, answers[1])

    low, high = interval(difference(resampled(counts, seed=seed)))
    return Estimate(float(difference(counts[None])[0]), low, high)
