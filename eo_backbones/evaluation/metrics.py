"""Metrics of a probe on its test images: F1, accuracy, average precision, intersection over union, and intervals.

One class an image, several labels an image, or a class for every pixel. Everything follows from counts: confusion
matrices, or hits, false alarms and misses. Intervals are bootstrapped over the test images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eo_backbones.results import Estimate

RESAMPLES = 1_000
COVERAGE = 0.95
THRESHOLD = 0.5
"""Of several labels an image, those whose probability is above this are predicted."""

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Metric = Callable[[Counts], Floats]
"""Sums of the images' counts ``(..., *counts of one image)`` -> values ``(...)``."""

_NUMBERS_AT_ONCE = 2**22  # bounds the drawn numbers in memory: 32 MiB


# One class an image, or a class for every pixel


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

    A class that only the predictions have lowers the others through their misses; it has no value of its own, because
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


# Several labels an image: average precision and F1 as scikit-learn defines them, the reference for BigEarthNet


def average_precision(true: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean of precision over recall steps of one ranked list; equal scores are one step.

    Args:
        true: bool ``(n,)``, at least one of them true.
        scores: ``(n,)``, higher for what is more likely.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_step = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(true[order])[last_of_step]
    steps = np.diff(hits, prepend=0)
    return float((steps * hits / (last_of_step + 1)).sum() / hits[-1])


def average_precisions(true: np.ndarray, scores: np.ndarray) -> Floats:
    """Return the average precision of each label ``(labels,)``; NaN for one that no image has."""
    return np.array(
        [
            average_precision(of_label, ranked) if of_label.any() else np.nan
            for of_label, ranked in zip(np.ascontiguousarray(true.T), np.ascontiguousarray(scores.T), strict=True)
        ]
    )


def micro_average_precision(true: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of all (image, label) pairs in one list."""
    return average_precision(true.ravel(), scores.ravel())


def count_decisions(true: np.ndarray, predicted: np.ndarray) -> Counts:
    """Return hits, false alarms and misses of each image and label, ``(n, labels, 3)``; bool in."""
    return np.stack([true & predicted, ~true & predicted, true & ~predicted], axis=2).astype(np.int64)


def label_f1(decisions: Counts) -> Floats:
    """Return the F1 of each label from summed decisions ``(..., labels, 3)``; 0 where there is nothing to find."""
    hits, alarms, misses = np.moveaxis(decisions, -1, 0)
    size = 2 * hits + alarms + misses
    f1: Floats = np.divide(2 * hits, size, out=np.zeros(size.shape), where=size > 0)
    return f1


def multilabel_weighted_f1(decisions: Counts) -> Floats:
    """Return the mean of the labels' F1, weighted by how many images have each, of ``(..., labels, 3)``."""
    support = decisions[..., 0] + decisions[..., 2]
    return np.asarray((label_f1(decisions) * support).sum(axis=-1) / np.maximum(support.sum(axis=-1), 1))


def micro_f1(decisions: Counts) -> Floats:
    """Return the F1 of all decisions taken together, of ``(..., labels, 3)``."""
    return np.asarray(label_f1(decisions.sum(axis=-2, keepdims=True))[..., 0])


# Bootstrap intervals
#
# With one class an image, a resample of the test images only changes how often each (true class, predicted class) pair
# occurs. Drawing those counts from a multinomial distribution over the matrix's cells is therefore the same as drawing
# images with replacement, and costs the same for a million images as for ten (Efron & Tibshirani 1993, chapter 6: the
# bootstrap of a statistic that depends on counts only).
#
# With several labels an image, or a class for every pixel, an image carries a whole table of counts, and resampling
# images means summing the tables of the drawn ones. Labels of one image, and its pixels, are so kept together; taking
# them for independent would make intervals far too narrow.


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
        first: one model's predictions ``(n,)``.
        second: the other model's predictions ``(n,)``.
        num_classes: how many classes there are.
        seed: of the resampling.
    """
    triples = (true * num_classes + first) * num_classes + second
    kinds, counts = np.unique(triples, return_counts=True)
    truth, rest = np.divmod(kinds, num_classes**2)
    predictions = (rest // num_classes, rest % num_classes)

    def f1(draws: Counts, predicted: Counts) -> Floats:
        # (resamples, kinds) x (kinds, cells): every kind of triple falls into one cell of this model's matrix
        cell = np.zeros((len(kinds), num_classes**2))
        cell[np.arange(len(kinds)), truth * num_classes + predicted] = 1
        return weighted_f1(np.rint(draws @ cell).astype(np.int64).reshape(-1, num_classes, num_classes))

    def difference(draws: Counts) -> Floats:
        return f1(draws, predictions[0]) - f1(draws, predictions[1])

    low, high = interval(difference(resampled(counts, seed=seed)))
    return Estimate(float(difference(counts[None])[0]), low, high)


def resampled_sums(tables: Counts, *, resamples: int = RESAMPLES, seed: int = 0) -> Counts:
    """Return sums over bootstrap draws of images, ``(resamples, *table)``.

    Args:
        tables: counts of each image ``(n, *table)``.
        resamples: how many draws of n images.
        seed: of the draws; the same for all results that are to be compared.
    """
    count = len(tables)
    flat = tables.reshape(count, -1).astype(np.float64)  # exact below 2**53, and much faster to multiply
    rng = np.random.default_rng(seed)
    at_once = max(1, _NUMBERS_AT_ONCE // count)
    sums = []
    for start in range(0, resamples, at_once):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(at_once, resamples - start))
        sums.append(np.rint(drawn @ flat).astype(np.int64))
    return np.concatenate(sums).reshape(resamples, *tables.shape[1:])


def metric_estimate(tables: Counts, metric: Metric, *, seed: int = 0) -> Estimate:
    """Return a metric of all images, from the counts of each ``(n, *table)``, with its 95 % interval."""
    low, high = interval(metric(resampled_sums(tables, seed=seed)))
    return Estimate(float(metric(tables.sum(axis=0))), low, high)


def metric_difference(first: Counts, second: Counts, metric: Metric, *, seed: int = 0) -> Estimate:
    """Return ``metric(first) - metric(second)`` of the same images with its paired 95 % interval."""
    draws = [metric(resampled_sums(tables, seed=seed)) for tables in (first, second)]
    low, high = interval(draws[0] - draws[1])
    return Estimate(float(metric(first.sum(axis=0)) - metric(second.sum(axis=0))), low, high)


# All metrics of one probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What ``results.csv`` says about one probe; ``None`` where a metric has no meaning.

    Attributes: see :class:`eo_backbones.results.Result`.
    """

    f1: Estimate
    accuracy: float
    f1_micro: float | None = None
    map_macro: float | None = None
    map_micro: float | None = None
    miou: float | None = None
    per_class: str = ""


def class_metrics(true: Counts, predicted: Counts, classes: Sequence[str]) -> Metrics:
    """Return the metrics of one class an image: class numbers ``(n,)`` both."""
    confusion = confusion_matrix(true, predicted, len(classes))
    return Metrics(
        f1=f1_estimate(confusion),
        accuracy=float(accuracy(confusion)),
        per_class=_listed("F1", class_f1(confusion), classes),
    )


def label_metrics(true: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> Metrics:
    """Return the metrics of several labels an image.

    Args:
        true: bool ``(n, labels)``.
        scores: probabilities ``(n, labels)``.
        classes: names of the labels.
    """
    predicted = scores > THRESHOLD
    decisions = count_decisions(true, predicted)
    precisions = average_precisions(true, scores)
    return Metrics(
        f1=metric_estimate(decisions, multilabel_weighted_f1),
        accuracy=float((true == predicted).all(axis=1).mean()),
        f1_micro=float(micro_f1(decisions.sum(axis=0))),
        map_macro=float(np.nanmean(precisions)),
        map_micro=micro_average_precision(true, scores),
        per_class=_listed("AP", precisions, classes),
    )


def pixel_metrics(confusions: Counts, classes: Sequence[str]) -> Metrics:
    """Return the metrics of a class for every pixel.

    Args:
        confusions: of each test image ``(n, classes, classes)``; row = true class.
        classes: names of the classes.
    """
    whole = confusions.sum(axis=0)
    return Metrics(
        f1=metric_estimate(confusions, weighted_f1),
        accuracy=float(accuracy(whole)),
        miou=float(mean_iou(whole)),
        per_class=_listed("IoU", class_iou(whole), classes),
    )


def _listed(metric: str, values: Floats, classes: Sequence[str]) -> str:
    """Return the values of the classes that the test images have, as text."""
    known = [f"{name} {value:.4f}" for name, value in zip(classes, values, strict=True) if np.isfinite(value)]
    return f"{metric}: {'; '.join(known)}"
