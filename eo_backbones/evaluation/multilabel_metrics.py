"""Average precision and F1 where an image may have several labels, as scikit-learn defines them.

The reference for BigEarthNet: mean average precision, macro (the mean over labels) and micro (all decisions in one
list), and F1 of the labels whose probability is above one half.
"""

import numpy as np

from eo_backbones.evaluation.metrics import Counts, Floats

THRESHOLD = 0.5
"""A label is predicted if its probability is above this."""


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
            average_precision(own, ranked) if own.any() else np.nan
            for own, ranked in zip(np.ascontiguousarray(true.T), np.ascontiguousarray(scores.T), strict=True)
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


def weighted_f1(decisions: Counts) -> Floats:
    """Return the mean of the labels' F1, weighted by how many images have each, of ``(..., labels, 3)``."""
    support = decisions[..., 0] + decisions[..., 2]
    return np.asarray((label_f1(decisions) * support).sum(axis=-1) / np.maximum(support.sum(axis=-1), 1))


def micro_f1(decisions: Counts) -> Floats:
    """Return the F1 of all decisions taken together, of ``(..., labels, 3)``."""
    return np.asarray(label_f1(decisions.sum(axis=-2, keepdims=True))[..., 0])
