"""Several labels an image: metrics and protocols against scikit-learn, and BigEarthNet end to end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from eo_backbones.datasets.bigearthnet import BIGEARTHNET_CLASSES
from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation import metrics, predictions
from eo_backbones.evaluation.predictions import compare_models
from eo_backbones.evaluation.probes import knn, logistic, mlp, protocols
from eo_backbones.evaluation.probes.task import Task
from eo_backbones.evaluation.request import Request, run_evaluation
from eo_backbones.progress import SILENT
from eo_backbones.results import read_results
from support.plain_perceptron import trained_plainly
from support.result_rows import result
from support.synthetic_layouts import write_bigearthnet

LABELS = 4


def images(count: int, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in which every label leaves a trace, over noise."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, LABELS)) < [0.6, 0.4, 0.3, 0.15]
    features = labels @ rng.normal(size=(LABELS, width)) + rng.normal(size=(count, width))
    return torch.from_numpy(features), torch.from_numpy(labels)


def task(count: int = 300, seed: int = 0) -> Task:
    features, labels = images(count)
    rows = np.arange(count)
    split = Split(name="seeded", train=rows[: count // 2], val=rows[count // 2 : 200], test=rows[200:])
    return Task(features=features, labels=labels, split=split, num_classes=LABELS, seed=seed)


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores with many ties, as shares of neighbours are."""
    rng = np.random.default_rng(1)
    true = rng.random((150, 6)) < 0.3
    return true, np.round(0.3 * true + 0.7 * rng.random(true.shape), 1)


def test_average_precision_equals_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    true, scores = scored
    np.testing.assert_allclose(
        metrics.average_precisions(true, scores), average_precision_score(true, scores, average=None), atol=1e-12
    )
    expected = average_precision_score(true, scores, average="micro")
    assert metrics.micro_average_precision(true, scores) == pytest.approx(expected, abs=1e-12)


def test_a_hand_made_average_precision() -> None:
    """Ranked right, wrong, right: (1/1 + 2/3) / 2; all equal: the share of the label."""
    assert metrics.average_precision(np.array([1, 0, 1], bool), np.array([0.9, 0.8, 0.7])) == pytest.approx(5 / 6)
    assert metrics.average_precision(np.array([1, 0, 1], bool), np.zeros(3)) == pytest.approx(2 / 3)


def test_metrics_equal_scikit_learn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    true, scores = scored
    found = metrics.label_metrics(true, scores, "abcdef")
    predicted = scores > 0.5
    assert found.f1.value == pytest.approx(f1_score(true, predicted, average="weighted"), abs=1e-12)
    assert found.f1_micro == pytest.approx(f1_score(true, predicted, average="micro"), abs=1e-12)
    assert found.map_macro == pytest.approx(average_precision_score(true, scores, average="macro"), abs=1e-12)
    assert found.accuracy == pytest.approx((true == predicted).all(axis=1).mean())
    assert found.per_class.startswith("AP: a 0.")


def test_a_label_that_no_image_has_is_left_out_of_the_macro_mean(scored: tuple[np.ndarray, np.ndarray]) -> None:
    true, scores = scored
    true = true.copy()
    true[:, 2] = False
    present = [0, 1, 3, 4, 5]
    found = metrics.label_metrics(true, scores, "abcdef")
    assert found.map_macro == pytest.approx(average_precision_score(true[:, present], scores[:, present]), abs=1e-12)
    assert "; c 0." not in found.per_class


def test_the_interval_draws_whole_images(scored: tuple[np.ndarray, np.ndarray]) -> None:
    """Against a literal bootstrap; every image twice does not narrow it as twice as many independent ones would."""
    true, scores = scored
    decisions = metrics.count_decisions(true, scores > 0.5)
    found = metrics.metric_estimate(decisions, metrics.multilabel_weighted_f1)
    rng = np.random.default_rng(9)
    draws = [rng.integers(0, len(true), len(true)) for _ in range(600)]
    literal = [f1_score(true[rows], scores[rows] > 0.5, average="weighted") for rows in draws]
    low, high = np.quantile(literal, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


def test_paired_difference_of_equal_answers_is_nothing(scored: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    true, scores = scored
    worse = (scores > 0.5) & (np.random.default_rng(0).random(scores.shape) < 0.5)
    rows = {}
    for model, predicted in (("a", scores > 0.5), ("b", scores > 0.5), ("stats", worse)):
        rows[model] = [result(model=model)]
        kept = predictions.Predictions(np.arange(len(true)), predicted, np.empty((0, 2), np.float32))
        predictions.write_predictions(tmp_path, rows[model][0].key, kept)
    found = {(pair.first, pair.second): pair.bands["B04"] for pair in compare_models(tmp_path, true, 6, rows)}
    assert (found["a", "b"].low, found["a", "b"].value, found["a", "b"].high) == (0, 0, 0)
    better = found["a", "stats"]
    expected = f1_score(true, scores > 0.5, average="weighted") - f1_score(true, worse, average="weighted")
    assert better.value == pytest.approx(expected, abs=1e-12)
    assert better.low > 0


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_logistic_is_scikit_learns_one_against_the_rest(strength: float) -> None:
    features, labels = images(200)
    ours = logistic.fit(features, labels, LABELS, strength=strength, tolerance=1e-10)
    theirs = OneVsRestClassifier(LogisticRegression(C=strength, tol=1e-10, max_iter=5000)).fit(features, labels)
    for number, own in enumerate(theirs.estimators_):
        np.testing.assert_allclose(ours.weight[number], own.coef_[0], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(ours.bias[number], own.intercept_[0], rtol=1e-3, atol=1e-5)


def test_a_label_without_examples_is_unlikely() -> None:
    features, labels = images(100)
    labels[:, 3] = False
    fitted = logistic.fit(features, labels, LABELS, strength=1.0)
    assert fitted.logits(features)[:, 3].sigmoid().max() < 0.2


@pytest.mark.parametrize("k", [5, 20])
def test_neighbours_equal_scikit_learn(k: int) -> None:
    features, labels = images(300)
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(features[:200], labels[:200])
    shares = knn.predict(features[:200], labels[:200], features[200:], LABELS, neighbours=k)
    expected = np.stack([own[:, 1] for own in reference.predict_proba(features[200:])], axis=1)
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    np.testing.assert_array_equal(shares.numpy() > 0.5, reference.predict(features[200:]).astype(bool))


def test_perceptron_equals_a_plain_loop() -> None:
    features, labels = images(300)
    features = features.float()
    model = mlp.train(features[None], labels, [np.arange(300)], LABELS, seeds=[5], epochs=3)
    start = mlp.Perceptrons.initialise(12, LABELS, [5], torch.device("cpu"))
    truth = labels.float()
    plain = trained_plainly(start, features, truth, np.arange(300), loss=nn.BCEWithLogitsLoss(), seed=5, epochs=3)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(features[None])[0], plain(features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_protocol_gives_scores_and_ignores_the_test_labels(protocol: str) -> None:
    own = task()
    (scores,) = protocols.fit_predict([protocol], [own], torch.float32)[protocol]
    true = own.labels.numpy()[own.split.test]
    assert scores.shape == true.shape
    assert 0 <= scores.min() < scores.max() <= 1
    assert np.nanmean(metrics.average_precisions(true, scores)) > true.mean() + 0.2
    scrambled = own.labels.clone()
    scrambled[own.split.test] = False
    blind = Task(features=own.features, labels=scrambled, split=own.split, num_classes=LABELS, seed=own.seed)
    np.testing.assert_array_equal(protocols.fit_predict([protocol], [blind], torch.float32)[protocol][0], scores)


def test_bigearthnet_end_to_end(tmp_path: Path) -> None:
    root = write_bigearthnet(tmp_path / "data", patches=24)
    request = Request(
        dataset="bigearthnet", models=("stats",), bands=("B04", "VV"), protocols=("logistic", "paper"), sizes=(32,)
    )
    common = {"root": root, "out": tmp_path / "out", "cache": tmp_path / "cache", "device": "cpu", "progress": SILENT}
    run_evaluation(request, **common)  # type: ignore[arg-type]
    rows = read_results(tmp_path / "out" / "results.csv")
    assert [(row.band, row.protocol) for row in rows] == [
        (band, protocol) for band in ("B04", "VV") for protocol in ("logistic", "paper")
    ]
    for row in rows:
        assert row.map_macro is not None
        assert row.map_micro is not None
        assert 0 < row.map_macro <= 1
        assert row.f1_low <= row.f1_weighted <= row.f1_high
        assert row.miou is None
        assert any(name in row.per_class for name in BIGEARTHNET_CLASSES)
    kept = predictions.read_predictions(tmp_path / "out", rows[0].key)
    assert kept is not None
    assert kept.predicted.shape == (rows[0].n_test, 19)
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"| mean average precision, macro: stats | {rows[0].map_macro:.3f} |" in text
    assert "sigmoid and binary cross-entropy (ours)" in text
    with pytest.raises(UserError, match="--shots counts images of each class, but bigearthnet has several labels"):
        run_evaluation(Request(dataset="bigearthnet", models=("stats",), shots=(2,)), **common)  # type: ignore[arg-type]
