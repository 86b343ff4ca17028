"""How good the answers for one part of the images are, class by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eo_backbones.evaluation.metrics import accuracy, class_f1, confusion_matrix, f1_estimate


def score(truth: np.ndarray, answers: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Return the figures of one part as JSON types.

    Args:
        truth: class numbers, int64 ``(n,)``.
        answers: predicted class numbers, int64 ``(n,)``.
        classes: their names.

    Returns:
        ``images``, ``f1_weighted`` with its 95 % bootstrap interval over the images (``f1_low``, ``f1_high``),
        ``accuracy``, ``per_class`` (``precision``, ``recall``, ``f1``, ``support``; ``None`` where undefined: no image
        of the class, or for precision no such answer) and ``confusion`` (row: true class, column: answer).
    """
    confusion = confusion_matrix(truth, answers, len(classes))
    estimate = f1_estimate(confusion)
    hits, support, answered = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = class_f1(confusion)
    return {
        "images": len(truth),
        "f1_weighted": estimate.value,
        "f1_low": estimate.low,
        "f1_high": estimate.high,
        "accuracy": float(accuracy(confusion)),
        "per_class": {
            name: {
                "precision": _ratio(hits[i], answered[i]),
                "recall": _ratio(hits[i], support[i]),
                "f1": float(f1[i]) if support[i] else None,
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
