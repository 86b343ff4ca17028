"""How good a map is: measured on points that were held out, and the areas of its classes with intervals.

**Held out** means nested: while the points of some blocks are held out, everything is done again with the others,
strength, temperature and conformal scores included. So the coverage and the confusion are those of the whole
procedure, with a fifth fewer points than the map itself has.

**Intervals** are of 95 %. Shares: Wilson's (1927), each block of neighbouring points counted as one observation,
because its points are not independent. Weighted F1: bootstrap over the blocks. Areas: the stratified estimator of
Olofsson et al. 2014 (doi:10.1016/j.rse.2014.02.015, equations 9 to 11), with the classes of the map as strata.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from eo_backbones.evaluation import metrics
from eo_backbones.mapping import conformal
from eo_backbones.mapping.blocks import MEASURED_FOLDS, Blocks, folds
from eo_backbones.mapping.conformal import Predicted
from eo_backbones.results import Estimate

_Z = 1.959964  # of a two-sided 95 % interval of the normal distribution
_LEAST_IN_STRATUM = 2  # points that a variance needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of the held-out points with its interval; ``None`` where there are no points.

    Attributes:
        points: held-out cells that it is a share of.
        blocks: blocks that these lie in.
        value: the share.
        low, high: ends of its interval.
    """

    points: int
    blocks: int
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: np.ndarray, blocks: np.ndarray) -> "Share":
        """Return the share of hits, bool ``(n,)``, of points in blocks ``(n,)``."""
        if not len(hits):
            return cls(points=0, blocks=0, value=None, low=None, high=None)
        number, value = len(np.unique(blocks)), float(hits.mean())
        low, high = wilson(value, number)
        return cls(points=len(hits), blocks=number, value=value, low=low, high=high)

    def __str__(self) -> str:
        return "no points" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of so many independent observations (Wilson 1927)."""
    middle = (share + _Z**2 / (2 * number)) / (1 + _Z**2 / number)
    half = _Z / (1 + _Z**2 / number) * math.sqrt(share * (1 - share) / number + _Z**2 / (4 * number**2))
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Measured:
    """Predictions of held-out points, and what follows from them.

    Attributes:
        labels: true classes ``(n,)``.
        blocks: of the points ``(n,)``.
        predicted: by classifiers that knew no point of their block or beside it.
        num_classes: how many classes there are.
    """

    labels: np.ndarray
    blocks: np.ndarray
    predicted: Predicted
    num_classes: int

    @property
    def covered(self) -> np.ndarray:
        """Which sets hold the true class, bool ``(n,)``."""
        hits: np.ndarray = self.predicted.members[np.arange(len(self.labels)), self.labels]
        return hits

    def coverage(self, number: int | None = None) -> Share:
        """Return the share of points whose set holds their class: of all points, or of those of one class."""
        chosen = np.full(len(self.labels), True) if number is None else self.labels == number
        return Share.of(self.covered[chosen], self.blocks[chosen])

    def accuracy(self) -> Share:
        """Return the share of points whose most probable class is right."""
        return Share.of(self.predicted.classes == self.labels, self.blocks)

    @property
    def confusion(self) -> np.ndarray:
        """Counts ``(classes, classes)``; row: true class, column: predicted class."""
        return metrics.confusion_matrix(self.labels, self.predicted.classes, self.num_classes)

    def f1(self) -> Estimate:
        """Return the weighted F1 with its interval."""
        tables = np.zeros((int(self.blocks.max()) + 1, self.num_classes, self.num_classes), np.int64)
        np.add.at(tables, (self.blocks, self.labels, self.predicted.classes), 1)
        return metrics.metric_estimate(tables[tables.any(axis=(1, 2))], metrics.weighted_f1)

    def set_sizes(self) -> np.ndarray:
        """Return how many points have a set of 0, 1, 2, ... classes, ``(classes + 1,)``."""
        return np.bincount(self.predicted.members.sum(axis=1), minlength=self.num_classes + 1)


def measure(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    blocks: Blocks,
    *,
    error_rate: float,
    tick: Callable[[int], None] = lambda _: None,
) -> Measured:
    """Predict every point by a classifier that was made without its block.

    Args:
        features: of the labelled cells ``(n, features)``.
        labels: their classes, int64 ``(n,)``.
        num_classes: how many there are.
        blocks: what is held out together.
        error_rate: of the conformal sets.
        tick: called with 1 after each fold.
    """
    count = len(labels)
    classes, probability = np.zeros(count, np.int64), np.zeros(count, np.float32)
    members = np.zeros((count, num_classes), bool)
    for fold in folds(blocks, labels, np.arange(count), MEASURED_FOLDS):
        inner = folds(blocks, labels, fold.train)
        predicted = conformal.fit(features, labels, num_classes, inner, error_rate=error_rate).predict(
            features[fold.held_out]
        )
        classes[fold.held_out] = predicted.classes
        probability[fold.held_out] = predicted.probability
        members[fold.held_out] = predicted.members
        tick(1)
    return Measured(
        labels=labels,
        blocks=blocks.of_point,
        predicted=Predicted(classes=classes, probability=probability, members=members),
        num_classes=num_classes,
    )


def estimated_areas(confusion: np.ndarray, mapped: np.ndarray) -> list[Estimate] | None:
    """Return the area of each class, corrected by what the held-out points say about the map, with its interval.

    Args:
        confusion: counts ``(classes, classes)``; row: true class, column: class of the map.
        mapped: area of each class in the map ``(classes,)``, in any unit.

    Returns:
        In the unit of ``mapped``; ``None`` where a class of the map has fewer than two held-out points.
    """
    strata = np.flatnonzero(mapped > 0)
    in_stratum = confusion.sum(axis=0)[strata]
    if not len(strata) or in_stratum.min() < _LEAST_IN_STRATUM:
        return None
    total = float(mapped.sum())
    weight = mapped[strata] / total
    share = confusion[:, strata] / in_stratum  # of each true class in each stratum
    area = share @ weight
    error = np.sqrt((weight**2 * share * (1 - share) / (in_stratum - 1)).sum(axis=1))
    low, high = np.maximum(area - _Z * error, 0), np.minimum(area + _Z * error, 1)
    return [Estimate(*(float(total * part) for part in one)) for one in zip(area, low, high, strict=True)]
