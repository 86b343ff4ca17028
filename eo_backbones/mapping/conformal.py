"""A classifier of cells that says how sure it is: calibrated probabilities, and sets of classes at an error rate.

**Classifier.** The probe ``logistic`` of the evaluation (:mod:`eo_backbones.evaluation.probes.logistic`) on
standardised features, its strength C being the one with the lowest log loss over the cross-validation.

**Sets.** CV+ for classification (Romano, Sesia & Candes 2020, arXiv:2006.02544, section 2.3; with one fold a point:
jackknife+) with the score ``1 - probability of the class`` (Sadinle, Lei & Wasserman 2019, which gives the smallest
sets). A class belongs to the set of a cell unless fewer than ``floor(rate * (n + 1))`` of the n points have a score as
high, each compared by the model that did not learn from its fold. Over exchangeable points the true class is missed
with a probability of at most twice the rate, and of about the rate in practice; that is why the coverage is measured
as well (:mod:`eo_backbones.mapping.accuracy`). A set may be empty: no class is as probable as the true ones of the
points usually are.

**Probabilities** of the classifier that learned from all points, softened or sharpened by a temperature (Guo et al.
2017, arXiv:1706.04599) that is fitted to the cross-validated ones. Where all of few points are right, the best
temperature would be 0 and every probability 1; so, as Platt (1999) does for two classes, the targets are a little less
sure than the labels: as if one point more were there, whose class is unknown.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eo_backbones.evaluation.probes import logistic
from eo_backbones.mapping.blocks import Fold

_COLDEST, _HOTTEST = -6.0, 6.0  # natural logarithms of the temperatures that are searched
_GOLDEN = (math.sqrt(5) - 1) / 2
_WORTH_THREADS = 2**20  # numbers, 1,000 points of 1,000 features (ours)
_TEMPERATURE_STEPS = 40  # of the golden section, which then knows the logarithm to 6e-8


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """A linear classifier of raw features: float32 ``weight (features, classes)`` and ``bias (classes,)``."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return ``(n, classes)`` for features ``(n, features)``."""
        scores: np.ndarray = features @ self.weight + self.bias
        return scores


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Predicted:
    """What is known about cells.

    Attributes:
        classes: most probable class, int64 ``(n,)``.
        probability: of that class, calibrated, float32 ``(n,)``.
        members: which classes the conformal set holds, bool ``(n, classes)``.
    """

    classes: np.ndarray
    probability: np.ndarray
    members: np.ndarray


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class ConformalClassifier:
    """The classifier; made by :func:`fit`.

    Attributes:
        final: learned from all points.
        temperature: its logits are divided by this.
        strength: C of all fits.
        of_folds: classifiers that did not learn from a fold.
        scores: of the points of each fold by its classifier, ascending, ``(points of the fold,)``.
        error_rate: of the sets.
    """

    final: Linear
    temperature: float
    strength: float
    of_folds: tuple[Linear, ...]
    scores: tuple[np.ndarray, ...]
    error_rate: float

    @property
    def rank(self) -> int:
        """How many points must have a score at least as high as a class of the set."""
        return math.floor(self.error_rate * (sum(map(len, self.scores)) + 1) + 1e-9)

    def predict(self, features: np.ndarray) -> Predicted:
        """Classify cells: features ``(n, features)`` without NaN."""
        probabilities = softmax(self.final.logits(features) / self.temperature)
        classes = probabilities.argmax(axis=1)
        return Predicted(
            classes=classes,
            probability=probabilities[np.arange(len(classes)), classes].astype(np.float32),
            members=self.sets(features),
        )

    def sets(self, features: np.ndarray) -> np.ndarray:
        """Return which classes belong to the set of each cell, bool ``(n, classes)``."""
        above = np.zeros((len(features), len(self.final.bias)), np.int64)
        for classifier, scores in zip(self.of_folds, self.scores, strict=True):
            own = nonconformity(classifier.logits(features))
            above += len(scores) - np.searchsorted(scores, own, side="left")
        return above >= self.rank


def fit(
    features: np.ndarray, labels: np.ndarray, num_classes: int, folds: Sequence[Fold], *, error_rate: float
) -> ConformalClassifier:
    """Learn from labelled cells.

    Args:
        features: of all cells ``(n, features)``; those that no fold names are not used.
        labels: their classes, int64 ``(n,)``.
        num_classes: how many there are, also those without a cell here.
        folds: of :func:`eo_backbones.mapping.blocks.folds`; every cell that takes part is held out once.
        error_rate: of the sets.
    """
    points = np.sort(np.concatenate([fold.held_out for fold in folds]))
    paths = [_Path(features, labels, num_classes, fold.train) for fold in folds]
    best: tuple[float, float, list[Linear], list[np.ndarray]] | None = None
    worse = 0
    true = np.concatenate([labels[fold.held_out] for fold in folds])
    for strength in logistic.STRENGTHS:
        of_folds = [path.fit(strength) for path in paths]
        logits = [one.logits(features[fold.held_out]) for one, fold in zip(of_folds, folds, strict=True)]
        loss = _log_loss(np.concatenate(logits), true)
        if best is None or loss < best[0]:
            best, worse = (loss, strength, of_folds, logits), 0
        else:
            worse += 1
            if worse == logistic.PATIENCE:
                break
    assert best is not None, "the first loss is lower than none"
    _, strength, of_folds, logits = best
    scores = [
        nonconformity(one)[np.arange(len(one)), labels[fold.held_out]] for one, fold in zip(logits, folds, strict=True)
    ]
    return ConformalClassifier(
        final=_Path(features, labels, num_classes, points).fit(strength),
        temperature=fit_temperature(np.concatenate(logits), true),
        strength=strength,
        of_folds=tuple(of_folds),
        scores=tuple(np.sort(each) for each in scores),
        error_rate=error_rate,
    )


@contextmanager
def few_threads(features: np.ndarray) -> Iterator[None]:
    """Fit small problems on one thread: the threads would wait for each other longer than they work.

    Args:
        features: of the labelled cells.
    """
    before = torch.get_num_threads()
    if features.size < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Path:
    """Fits on one set of cells for one C after the other, each from where the previous one ended."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, num_classes: int, rows: np.ndarray) -> None:
        raw = torch.from_numpy(features[rows]).double()
        deviation, self._mean = torch.std_mean(raw, dim=0, correction=0)
        self._deviation = torch.where(deviation > 1e-6 * self._mean.abs(), deviation, torch.inf)
        self._features = (raw - self._mean) / self._deviation
        self._basis = logistic.row_space(self._features, torch.arange(len(rows)))
        if self._basis is not None:
            self._features = self._features @ self._basis
        self._moment = logistic.gram(self._features)
        self._labels = torch.from_numpy(labels[rows])
        self._num_classes = num_classes
        self._last: logistic.Classifier | None = None

    def fit(self, strength: float) -> Linear:
        self._last = logistic.fit(
            self._features,
            self._labels,
            self._num_classes,
            strength=strength,
            second_moment=self._moment,
            start=self._last,
        )
        weight = self._last.weight if self._basis is None else self._last.weight @ self._basis.T
        weight = weight / self._deviation
        bias = self._last.bias - weight @ self._mean
        return Linear(_float32(weight.T), _float32(bias))


def _float32(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.numpy().astype(np.float32))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities ``(n, classes)`` in float64."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponents / exponents.sum(axis=1, keepdims=True)
    return probabilities


def nonconformity(logits: np.ndarray) -> np.ndarray:
    """Return ``1 - probability`` of each class, ``(n, classes)``."""
    return 1 - softmax(logits)


def _log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    probabilities = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return what to divide logits by so that their softmax is calibrated on these points.

    Args:
        logits: of points that the classifier did not learn from ``(n, classes)``.
        labels: their classes ``(n,)``.
    """
    num_points, num_classes = logits.shape
    targets = np.full(logits.shape, 1 / (num_classes * (num_points + 1)))
    targets[np.arange(num_points), labels] += num_points / (num_points + 1)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        log_odds = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return float(-(targets * log_odds).sum(axis=1).mean())

    low, high = _COLDEST, _HOTTEST  # the loss has one minimum: it is convex in the inverse of the temperature
    for _ in range(_TEMPERATURE_STEPS):
        span = _GOLDEN * (high - low)
        if loss(high - span) < loss(low + span):
            high = low + span
        else:
            low = high - span
    return math.exp((low + high) / 2)
