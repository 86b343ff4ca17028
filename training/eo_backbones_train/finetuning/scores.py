"""Metrics of the predictions for one part of the images, as a whole and class by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eo_backbones.evaluation.metrics import (
    Counts,
    accuracy,
    class_f1,
    class_iou,
    confusion_matrix,
    f1_estimate,
    mean_iou,
    metric_estimate,
)


def score(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of one part as JSON types.

    Args:
        truth: class numbers, int64 ``(n,)``.
        predicted: predicted class numbers, int64 ``(n,)``.
        classes: their names.

    Returns:
        ``images``, ``f1_weighted`` with its 95 % bootstrap interval over the images (``f1_low``, ``f1_high``),
        ``accuracy``, ``per_class`` (``precision``, ``recall``, ``f1``, ``support``; ``None`` where undefined: no image
        of the class, or for precision no such prediction) and ``confusion`` (row: true class, column: predicted).
    """
    confusion = confusion_matrix(truth, predicted, len(classes))
    overall = f1_estimate(confusion)
    return {
        "images": len(truth),
        "f1_weighted": overall.value,
        "f1_low": overall.low,
        "f1_high": overall.high,
        "accuracy": float(accuracy(confusion)),
        "per_class": _by_class(confusion, classes),
        "confusion": confusion.tolist(),
    }


def score_pixels(confusions: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """Return the metrics of one part of images to segment, as JSON types.

    Args:
        confusions: of the pixels of each image that have a class, int64 ``(images, classes, classes)``.
        classes: their names.

    Returns:
        ``images``, ``pixels`` (with a class), ``miou`` (intersection over union of all pixels of a class, mean over the
        classes that occur) with its 95 % bootstrap interval over the images (``miou_low``, ``miou_high``), ``accuracy``
        of the pixels, ``per_class`` and ``confusion`` as :func:`score`, in pixels, with ``iou``.
    """
    whole = confusions.sum(axis=0)
    overall = metric_estimate(confusions, mean_iou)
    iou = class_iou(whole)
    per_class = _by_class(whole, classes)
    return {
        "images": len(confusions),
        "pixels": int(whole.sum()),
        "miou": overall.value,
        "miou_low": overall.low,
        "miou_high": overall.high,
        "accuracy": float(accuracy(whole)),
        "per_class": {
            name: {"iou": float(iou[i]) if row["support"] else None, **row}
            for i, (name, row) in enumerate(per_class.items())
        },
        "confusion": whole.tolist(),
    }


def _by_class(confusion: Counts, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    hits, support, predictions = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = class_f1(confusion)
    return {
        name: {
            "precision": _ratio(hits[i], predictions[i]),
            "recall": _ratio(hits[i], support[i]),
            "f1": float(f1[i]) if support[i] else None,
            "support": int(support[i]),
        }
        for i, name in enumerate(classes)
    }


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
