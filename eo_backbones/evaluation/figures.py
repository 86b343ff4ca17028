"""All figures of one probe on its test images: one class an image, several labels an image, or a class a pixel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eo_backbones.evaluation import metrics, metrics_by_image, multilabel_metrics
from eo_backbones.evaluation.metrics import Counts, Estimate, Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The columns of ``results.csv`` that hold figures; ``None`` where a figure has no meaning.

    Attributes: see :class:`eo_backbones.evaluation.results.Result`.
    """

    f1_weighted: float
    accuracy: float
    f1_low: float
    f1_high: float
    f1_micro: float | None = None
    map_macro: float | None = None
    map_micro: float | None = None
    miou: float | None = None
    per_class: str = ""


def of_classes(true: Counts, predicted: Counts, classes: Sequence[str]) -> Figures:
    """Return the figures of one class an image: class numbers ``(n,)`` both."""
    confusion = metrics.confusion_matrix(true, predicted, len(classes))
    return Figures(
        **_f1(metrics.f1_estimate(confusion)),
        accuracy=float(metrics.accuracy(confusion)),
        per_class=_listed("F1", metrics.class_f1(confusion), classes),
    )


def of_labels(true: np.ndarray, scores: np.ndarray, classes: Sequence[str]) -> Figures:
    """Return the figures of several labels an image.

    Args:
        true: bool ``(n, labels)``.
        scores: probabilities ``(n, labels)``.
        classes: names of the labels.
    """
    predicted = scores > multilabel_metrics.THRESHOLD
    decisions = multilabel_metrics.count_decisions(true, predicted)
    precisions = multilabel_metrics.average_precisions(true, scores)
    return Figures(
        **_f1(metrics_by_image.estimate(decisions, multilabel_metrics.weighted_f1)),
        accuracy=float((true == predicted).all(axis=1).mean()),
        f1_micro=float(multilabel_metrics.micro_f1(decisions.sum(axis=0))),
        map_macro=float(np.nanmean(precisions)),
        map_micro=multilabel_metrics.micro_average_precision(true, scores),
        per_class=_listed("AP", precisions, classes),
    )


def of_pixels(confusions: Counts, classes: Sequence[str]) -> Figures:
    """Return the figures of a class for every pixel.

    Args:
        confusions: of each test image ``(n, classes, classes)``; row = true class.
        classes: names of the classes.
    """
    whole = confusions.sum(axis=0)
    return Figures(
        **_f1(metrics_by_image.estimate(confusions, metrics.weighted_f1)),
        accuracy=float(metrics.accuracy(whole)),
        miou=float(metrics.mean_iou(whole)),
        per_class=_listed("IoU", metrics.class_iou(whole), classes),
    )


def _f1(found: Estimate) -> dict[str, float]:
    return {"f1_weighted": found.value, "f1_low": found.low, "f1_high": found.high}


def _listed(figure: str, values: Floats, classes: Sequence[str]) -> str:
    """Return the figures of the classes that the test images have, as text."""
    known = [f"{name} {value:.4f}" for name, value in zip(classes, values, strict=True) if np.isfinite(value)]
    return f"{figure}: {'; '.join(known)}"
