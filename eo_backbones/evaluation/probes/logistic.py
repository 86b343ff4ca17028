"""Multinomial logistic regression by preconditioned L-BFGS: the protocol ``logistic``.

Objective, as in scikit-learn's ``LogisticRegression`` (whose solution it reproduces, see the tests)::

    mean cross-entropy + ||W||^2 / (2 C n)        the intercept is not penalised

Where images have several labels, each has a classifier of its own (one against the rest): the mean over images of the
labels' binary cross-entropies, summed, with the same penalty, as in scikit-learn's ``OneVsRestClassifier``.

The features of a frozen network are strongly correlated, so plain L-BFGS needs hundreds of passes over them. Here it
starts each step from the inverse of ``X'X / 2n + I / Cn``, an upper bound of the Hessian for one class (Bohning 1992,
"Multinomial logistic regression algorithm"; for one label against the rest ``X'X / 4n``), which reduces that to a few
tens.

The strength C is chosen on the validation part by weighted F1 (several labels: micro average precision) along a path
from strong to weak regularisation, each fit starting from the previous one; then the classifier is fitted again on
train + validation with that C.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eo_backbones.evaluation import metrics
from eo_backbones.evaluation.probes.task import Task

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""The values of C that are tried, from strong to weak regularisation (ours)."""
PATIENCE = 2
"""The path ends after this many values in a row that did not improve the validation F1 (ours)."""
TOLERANCE = 1e-4
"""Largest entry of the gradient at which the final fit ends, as in scikit-learn."""
ROUGH_TOLERANCE = 1e-3
"""The same while C is being chosen; on EuroSAT this moves no validation F1 by more than half a point (ours)."""
MAX_ITERATIONS = 1000
MEMORY = 10  # pairs that L-BFGS keeps (Liu & Nocedal 1989 suggest 3 to 20)
ARMIJO = 1e-4  # sufficient decrease (Nocedal & Wright, section 3.1)
SMALLEST_STEP = 1e-6


@dataclass(frozen=True, slots=True)
class Classifier:
    """A linear classifier: ``weight (classes, features)``, ``bias (classes,)``."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return ``(n, classes)`` for features ``(n, features)``."""
        return F.linear(features, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """Return class numbers ``(n,)`` for features ``(n, features)``."""
        return self.logits(features).argmax(dim=1)


def gram(features: Tensor) -> Tensor:
    """Return ``X'X / n`` of features ``(n, d)``: the part of the preconditioner that does not depend on C."""
    return features.T @ features / len(features)


def fit(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    strength: float,
    second_moment: Tensor | None = None,
    start: Classifier | None = None,
    tolerance: float = TOLERANCE,
) -> Classifier:
    """Minimise the objective above.

    Args:
        features: ``(n, d)``, standardised, float32 or float64; the whole fit runs in that precision.
        labels: class numbers ``(n,)``, int64; or several labels an image, bool ``(n, labels)``.
        num_classes: number of classes, also those without an example here.
        strength: C, the inverse of the regularisation as in scikit-learn.
        second_moment: :func:`gram` of these or similar features. It changes the number of steps, not the solution.
        start: initial weights; zero if not given.
        tolerance: largest entry of the gradient at which the fit ends.
    """
    count, width = features.shape
    penalty = 1 / (strength * count)
    steepest = 1 / 2 if labels.ndim == 1 else 1 / 4  # largest curvature of the loss of one class, of one label
    bound = (gram(features) if second_moment is None else second_moment) * steepest
    # more than the rounding error of the second moment, so that its factorisation exists where features repeat
    ridge = penalty + 4 * torch.finfo(features.dtype).eps * float(bound.diagonal().sum())
    factor = torch.linalg.cholesky(bound + ridge * torch.eye(width, dtype=features.dtype, device=features.device))

    def precondition(step: Tensor) -> Tensor:
        # the last column is the intercept
        return torch.cat([torch.cholesky_solve(step[:, :-1].T, factor).T, step[:, -1:] / steepest], dim=1)

    def evaluate(theta: Tensor) -> tuple[float, Tensor]:
        weight = theta[:, :-1]
        logits = torch.addmm(theta[:, -1:], weight, features.T).T  # on a CPU faster than F.linear for few classes
        loss, residual = _loss(logits, labels)
        value = loss + penalty / 2 * weight.square().sum()
        slope = torch.cat([residual.T @ features + penalty * weight, residual.sum(dim=0)[:, None]], dim=1)
        return float(value), slope

    theta = features.new_zeros(num_classes, width + 1)
    if start is not None:
        theta[:, :-1], theta[:, -1] = start.weight, start.bias
    value, slope = evaluate(theta)
    noise = 4 * torch.finfo(features.dtype).eps  # relative rounding error of the objective
    history = _History(precondition)
    for _ in range(MAX_ITERATIONS):
        if float(slope.abs().max()) < tolerance:
            break
        direction = -history.newton_step(slope)
        descent = float((slope * direction).sum())
        size = 1.0
        candidate = theta + direction
        new_value, new_slope = evaluate(candidate)
        while new_value > value + ARMIJO * size * descent + noise * abs(value) and size > SMALLEST_STEP:
            size /= 2
            candidate = theta + size * direction
            new_value, new_slope = evaluate(candidate)
        history.add(candidate - theta, new_slope)
        finished = abs(value - new_value) <= noise * abs(value)
        theta, value, slope = candidate, new_value, new_slope
        if finished:  # the minimum, as far as this precision can tell
            break
    return Classifier(theta[:, :-1], theta[:, -1])


def _loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean loss over images and its derivative by the logits."""
    if labels.ndim == 2:
        targets = labels.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)
        return loss, (logits.sigmoid() - targets) / len(logits)
    log_odds = F.log_softmax(logits, dim=1)
    loss = F.nll_loss(log_odds, labels)
    residual = log_odds.exp_()
    residual[torch.arange(len(labels), device=labels.device), labels] -= 1
    return loss, residual.div_(len(logits))


class _History:
    """The last steps of L-BFGS, and the approximate inverse Hessian that they stand for.

    Every gradient is preconditioned once; everything else that the algorithm needs are differences of these products.
    """

    def __init__(self, precondition: Callable[[Tensor], Tensor]) -> None:
        self._precondition = precondition
        self._pairs: deque[tuple[Tensor, Tensor, Tensor, float]] = deque(maxlen=MEMORY)
        self._scale = 1.0
        self._slope: Tensor | None = None
        self._conditioned: Tensor | None = None

    def newton_step(self, slope: Tensor) -> Tensor:
        """Return inverse Hessian x slope: the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
        if self._slope is not slope:
            self._slope, self._conditioned = slope, self._precondition(slope)
        assert self._conditioned is not None
        rest, product = slope.clone(), self._conditioned.clone()
        shares = []
        for step, change, conditioned, curvature in reversed(self._pairs):
            share = float((step * rest).sum()) / curvature
            rest -= share * change
            product -= share * conditioned
            shares.append(share)
        product *= self._scale
        for (step, change, _, curvature), share in zip(self._pairs, reversed(shares), strict=True):
            product += (share - float((change * product).sum()) / curvature) * step
        return product

    def add(self, step: Tensor, new_slope: Tensor) -> None:
        """Learn from a step and the slope at its end."""
        assert self._slope is not None and self._conditioned is not None, "a step follows from a slope"
        new_conditioned = self._precondition(new_slope)
        change, conditioned = new_slope - self._slope, new_conditioned - self._conditioned
        curvature = float((step * change).sum())
        if curvature > 0:  # true for a convex objective, but for rounding at its minimum
            self._pairs.append((step, change, conditioned, curvature))
            self._scale = curvature / float((change * conditioned).sum())
        self._slope, self._conditioned = new_slope, new_conditioned


def choose_strength(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, num_classes: int, *, second_moment: Tensor
) -> tuple[float, Classifier]:
    """Return the C of :data:`STRENGTHS` with the best validation score (the smaller C on a tie).

    The score is the weighted F1, or where images have several labels, the micro average precision.

    The second value is the classifier fitted on the training part with that C. ``second_moment``: see :func:`fit`.
    """
    classifier: Classifier | None = None
    best: tuple[float, Classifier] | None = None
    best_score, worse = -1.0, 0
    for strength in STRENGTHS:
        classifier = fit(
            train,
            train_labels,
            num_classes,
            strength=strength,
            second_moment=second_moment,
            start=classifier,
            tolerance=ROUGH_TOLERANCE,
        )
        score = _validation_score(classifier, val, val_labels)
        if score > best_score:
            best, best_score, worse = (strength, classifier), score, 0
        else:
            worse += 1
            if worse == PATIENCE:
                break
    assert best is not None, "a score is never below -1"
    return best


def _validation_score(classifier: Classifier, features: Tensor, labels: Tensor) -> float:
    true = labels.cpu().numpy()
    if labels.ndim == 2:
        return metrics.micro_average_precision(true, classifier.logits(features).cpu().numpy())
    predicted = classifier.predict(features).cpu().numpy()
    return float(metrics.weighted_f1(metrics.confusion_matrix(true, predicted, len(classifier.bias))))


def in_row_space(features: Tensor, rows: Tensor) -> Tensor:
    """Return features in coordinates of the space that some of them span, if that has fewer dimensions.

    The penalty keeps the weights inside the span of the images they are fitted on, so the fits and all their
    predictions stay the same, at the cost of ``len(rows)`` instead of ``d`` dimensions. This pays off with few labels.

    Args:
        features: ``(n, d)``.
        rows: the images that classifiers will be fitted on.
    """
    basis = row_space(features, rows)
    return features if basis is None else features @ basis


def row_space(features: Tensor, rows: Tensor) -> Tensor | None:
    """Return an orthonormal basis ``(d, rows)`` of the space that some rows span; ``None`` if they may span all."""
    if len(rows) >= features.shape[1]:
        return None
    basis: Tensor = torch.linalg.qr(features[rows].T).Q
    return basis


def fit_predict(task: Task) -> np.ndarray:
    """Return the predicted classes of the task's test images ``(m,)``, or scores ``(m, labels)`` of several labels."""
    features = in_row_space(task.standardised(torch.float32), task.index(task.labelled))
    classifier = fit_task(task, features)
    test = features[task.index(task.split.test)]
    predicted = classifier.logits(test).sigmoid() if task.multilabel else classifier.predict(test)
    return predicted.cpu().numpy()


def fit_task(task: Task, features: Tensor) -> Classifier:
    """Return the classifier of a task: C chosen on its validation part, fitted on all that is labelled.

    Args:
        task: labels and split.
        features: of all images, standardised ``(n, d)``.
    """
    train, val, labelled = (task.index(rows) for rows in (task.split.train, task.split.val, task.labelled))
    moment = gram(features[labelled])  # good enough a preconditioner for the fits on the training part, too
    strength, start = choose_strength(
        features[train], task.labels[train], features[val], task.labels[val], task.num_classes, second_moment=moment
    )
    return fit(
        features[labelled],
        task.labels[labelled],
        task.num_classes,
        strength=strength,
        second_moment=moment,
        start=start,
    )
