"""Metrics and intervals against scikit-learn, hand-made cases and a literal bootstrap."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from eo_backbones.evaluation import metrics
from eo_backbones.results import Estimate


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth and two models' predictions for 400 images of 5 classes; the first model is right more often."""
    rng = np.random.default_rng(3)
    true = rng.choice(5, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    first = np.where(rng.random(400) < 0.8, true, rng.integers(0, 5, 400))
    second = np.where(rng.random(400) < 0.6, true, rng.integers(0, 5, 400))
    return true, first, second


def test_metrics_equal_scikit_learn(predictions: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    true, predicted, _ = predictions
    counts = metrics.confusion_matrix(true, predicted, 5)
    np.testing.assert_array_equal(counts, confusion_matrix(true, predicted))
    assert metrics.weighted_f1(counts) == pytest.approx(f1_score(true, predicted, average="weighted"), abs=1e-12)
    assert metrics.accuracy(counts) == pytest.approx(accuracy_score(true, predicted), abs=1e-12)


def test_a_hand_made_f1() -> None:
    """Class 0: 2 of 3 right and one false alarm, F1 2/3; class 1: 0 of 1, F1 0; class 2 absent and never predicted."""
    counts = metrics.confusion_matrix(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0]), 3)
    assert metrics.weighted_f1(counts) == pytest.approx(3 / 4 * 2 / 3)
    assert metrics.accuracy(counts) == 0.5


def test_a_perfect_model_has_no_spread() -> None:
    true = np.repeat(np.arange(4), 10)
    assert metrics.f1_estimate(metrics.confusion_matrix(true, true, 4)) == Estimate(1.0, 1.0, 1.0)


def test_accuracy_interval_is_the_binomial_one() -> None:
    """Two classes, 900 of 1,000 right: the standard deviation of the accuracy is sqrt(0.9 * 0.1 / 1000)."""
    counts = np.array([[450, 50], [50, 450]])
    low, high = metrics.interval(metrics.accuracy(metrics.resampled(counts)))
    half = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert low == pytest.approx(0.9 - half, abs=0.004)
    assert high == pytest.approx(0.9 + half, abs=0.004)


def test_interval_equals_resampling_the_images(predictions: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """The multinomial draw over cells is the bootstrap over images, up to Monte-Carlo noise."""
    true, predicted, _ = predictions
    rng = np.random.default_rng(1)
    picks = rng.integers(0, len(true), (1000, len(true)))
    literal = [f1_score(true[i], predicted[i], average="weighted", zero_division=0) for i in picks]
    estimate = metrics.f1_estimate(metrics.confusion_matrix(true, predicted, 5))
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])), abs=0.008)
    assert estimate.low < estimate.value < estimate.high


def test_paired_difference_equals_resampling_the_images(predictions: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    true, first, second = predictions

    def f1(a: np.ndarray, b: np.ndarray) -> float:
        return float(f1_score(a, b, average="weighted", zero_division=0))

    difference = metrics.f1_difference(true, first, second, 5)
    assert difference.value == pytest.approx(f1(true, first) - f1(true, second), abs=1e-12)
    rng = np.random.default_rng(2)
    picks = rng.integers(0, len(true), (1000, len(true)))
    literal = [f1(true[i], first[i]) - f1(true[i], second[i]) for i in picks]
    assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])), abs=0.012)


def test_a_model_does_not_differ_from_itself(predictions: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    true, first, _ = predictions
    difference = metrics.f1_difference(true, first, first, 5)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
