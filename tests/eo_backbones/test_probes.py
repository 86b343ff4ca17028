"""Each protocol against an independent implementation: scikit-learn, or a plain loop."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from eo_backbones.datasets.splits import seeded_split
from eo_backbones.errors import UserError
from eo_backbones.evaluation import metrics
from eo_backbones.evaluation.probes import knn, logistic, mlp, protocols
from eo_backbones.evaluation.probes.task import Task
from support.plain_perceptron import trained_plainly

CLASSES = 4


def blobs(count: int, width: int, *, spread: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes in correlated features, as those of a network are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    centres = rng.normal(size=(CLASSES, 6))
    hidden = centres[labels] + spread * rng.normal(size=(count, 6))
    features = hidden @ rng.normal(size=(6, width)) + 0.1 * rng.normal(size=(count, width))
    return torch.from_numpy(features), torch.from_numpy(labels)


def task(count: int = 300, width: int = 20, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Task:
    features, labels = blobs(count, width)
    return Task(
        features=features.to(dtype),
        labels=labels,
        split=seeded_split(labels.numpy(), seed=seed),
        num_classes=CLASSES,
        seed=seed,
    )


def test_standardised_as_scikit_learn() -> None:
    """On the training part only; a constant feature becomes 0, even far from it."""
    own = task()
    own.features[:, 3] = 1e4
    expected = StandardScaler().fit(own.features[own.split.train].double()).transform(own.features.double())
    np.testing.assert_allclose(own.standardised(torch.float32), expected, atol=1e-5)


def test_half_precision_features_are_standardised_in_double() -> None:
    own = task(dtype=torch.bfloat16)
    train = own.standardised(torch.float32)[own.split.train].double()
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(0, correction=0), 1, atol=1e-6)


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_logistic_has_scikit_learns_solution(strength: float) -> None:
    features, labels = blobs(200, 12)
    ours = logistic.fit(features, labels, CLASSES, strength=strength, tolerance=1e-9)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(features, labels)
    np.testing.assert_allclose(ours.weight, theirs.coef_, rtol=1e-3, atol=1e-4)
    # the mean of the intercepts is free in both; classes are compared by their differences
    np.testing.assert_allclose(
        ours.bias - ours.bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(ours.predict(features), theirs.predict(features))


def test_logistic_in_single_precision_with_repeated_features() -> None:
    """What a network gives: more features than independent directions, some twice, some dead."""
    features, labels = blobs(400, 60)
    features = torch.cat([features, features[:, :10], torch.zeros(400, 5)], dim=1)
    scaled = torch.from_numpy(StandardScaler().fit_transform(features))
    ours = logistic.fit(scaled.float(), labels, CLASSES, strength=0.1)
    theirs = LogisticRegression(C=0.1, max_iter=5000).fit(scaled, labels)
    np.testing.assert_allclose(ours.weight, theirs.coef_, atol=5e-3)
    assert np.mean(ours.predict(scaled.float()).numpy() == theirs.predict(scaled)) > 0.99


def test_preconditioner_and_start_do_not_change_the_solution() -> None:
    features, labels = blobs(200, 12)
    plain = logistic.fit(features, labels, CLASSES, strength=0.5, tolerance=1e-9)
    other = logistic.fit(
        features,
        labels,
        CLASSES,
        strength=0.5,
        tolerance=1e-9,
        second_moment=logistic.gram(features[:50]),
        start=logistic.fit(features, labels, CLASSES, strength=1e-3),
    )
    torch.testing.assert_close(plain.weight, other.weight, atol=1e-6, rtol=0)


def test_few_images_are_fitted_in_the_space_they_span() -> None:
    """Same predictions from 30 dimensions as from 200."""
    features, labels = blobs(130, 200)
    rows = torch.arange(30)
    narrow = logistic.in_row_space(features, rows)
    assert narrow.shape == (130, 30)
    whole, small = (
        logistic.fit(x[rows], labels[rows], CLASSES, strength=1.0, tolerance=1e-9) for x in (features, narrow)
    )
    torch.testing.assert_close(
        F.linear(features, whole.weight, whole.bias), F.linear(narrow, small.weight, small.bias), atol=1e-4, rtol=1e-4
    )


def test_a_class_without_examples_is_not_predicted() -> None:
    features, labels = blobs(100, 5)
    fitted = logistic.fit(features, labels.clamp_max(2), CLASSES, strength=1.0)
    assert set(fitted.predict(features).tolist()) <= {0, 1, 2}


def test_strength_is_the_best_on_validation() -> None:
    """Against scikit-learn over the same values: no other strength validates clearly better."""
    own = task(240, 40)
    x, y = own.standardised(torch.float64), own.labels
    train, val = own.split.train, own.split.val
    chosen, _ = logistic.choose_strength(
        x[train], y[train], x[val], y[val], CLASSES, second_moment=logistic.gram(x[train])
    )

    def validated(strength: float) -> float:
        predicted = LogisticRegression(C=strength, max_iter=5000).fit(x[train], y[train]).predict(x[val])
        return float(metrics.weighted_f1(metrics.confusion_matrix(y[val].numpy(), predicted, CLASSES)))

    assert validated(chosen) >= max(validated(c) for c in logistic.STRENGTHS) - 1.5 / len(val)


def test_final_fit_uses_train_and_validation() -> None:
    own = task()
    x = own.standardised(torch.float64).numpy()
    y, split = own.labels.numpy(), own.split
    rows = np.concatenate([split.train, split.val])
    strength, _ = logistic.choose_strength(
        *(torch.from_numpy(a) for a in (x[split.train], y[split.train], x[split.val], y[split.val])),
        CLASSES,
        second_moment=logistic.gram(torch.from_numpy(x[rows])),
    )
    expected = LogisticRegression(C=strength, max_iter=5000).fit(x[rows], y[rows]).predict(x[split.test])
    assert np.mean(logistic.fit_predict(own) == expected) >= 0.98


@pytest.mark.parametrize("k", [5, 20])
def test_neighbours_equal_scikit_learn(k: int) -> None:
    features, labels = blobs(400, 10, spread=2.0)
    known, queries = features[:300], features[300:]
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(known, labels[:300])
    ours = knn.predict(known, labels[:300], queries, CLASSES, neighbours=k)
    np.testing.assert_array_equal(ours, reference.predict(queries))


def test_neighbours_know_train_and_validation() -> None:
    own = task()
    x = own.standardised(torch.float64).numpy()
    reference = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(
        x[own.labelled], own.labels[own.labelled]
    )
    assert np.mean(knn.fit_predict(own, neighbours=[5])[0] == reference.predict(x[own.split.test])) >= 0.98


def test_one_search_answers_for_every_number_of_neighbours() -> None:
    """5 and 20 together are 5 alone and 20 alone, also with fewer labelled images than neighbours."""
    for own in (task(), task(25)):
        together = protocols.fit_predict(["knn", "knn-20"], [own, own], torch.float32)
        for name, count in protocols.NEIGHBOURS.items():
            (alone,) = knn.fit_predict(own, neighbours=[count])
            np.testing.assert_array_equal(together[name][0], alone)
            np.testing.assert_array_equal(together[name][1], alone)
    assert not np.array_equal(
        *(protocols.fit_predict([name], [task()], torch.float32)[name][0] for name in ("knn", "knn-20"))
    )


def test_perceptron_equals_a_plain_loop() -> None:
    """Same start and batches through ``nn.Sequential``, ``CrossEntropyLoss`` and Adam, one image order an epoch."""
    features, labels = blobs(600, 16)
    features = features.float()
    rows = np.arange(520)  # not a multiple of the batch
    seed, epochs = 5, 3
    model = mlp.train(features[None], labels, [rows], CLASSES, seeds=[seed], epochs=epochs)
    start = mlp.Perceptrons.initialise(16, CLASSES, [seed], torch.device("cpu"))
    plain = trained_plainly(start, features, labels, rows, loss=nn.CrossEntropyLoss(), seed=seed, epochs=epochs)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(features[None])[0], plain(features), atol=1e-4, rtol=1e-4)
        moved = (model.hidden - start.hidden).abs().max()
    assert moved > 1e-3


def test_perceptron_starts_as_torch_does() -> None:
    start = mlp.Perceptrons.initialise(100, CLASSES, [0], torch.device("cpu"))
    assert 0.095 < start.hidden.abs().max() <= 0.1  # 1 / sqrt(100)
    assert 0.08 < start.output.abs().max() <= 128**-0.5


def test_seeds_trained_together_are_those_trained_alone() -> None:
    tasks = [task(seed=seed) for seed in (0, 1, 2)]
    together = mlp.fit_predict(tasks, torch.float32, epochs=5)
    alone = [mlp.fit_predict([own], torch.float32, epochs=5)[0] for own in tasks]
    for one, other in zip(together, alone, strict=True):
        assert np.mean(one == other) >= 0.98
    assert not np.array_equal(tasks[0].split.test, tasks[1].split.test)


def test_perceptrons_of_other_widths_and_sizes_are_trained_apart() -> None:
    """Only what has one shape and fits into memory shares a batch; the predictions come back in order."""
    tasks = [task(), task(seed=1), task(width=30), task(250), task(250, seed=1)]

    def batches(some: list[Task], **options: int) -> list[int]:
        return [len(group) for group in protocols.batch_tasks(some, torch.float32, **options)]

    assert batches(tasks) == [2, 1, 2]
    assert batches(tasks[:2], limit_bytes=2 * 300 * 20 * 4) == [2]
    assert batches(tasks[:2], limit_bytes=300 * 20 * 4) == [1, 1]
    predictions = protocols.fit_predict(["paper"], tasks[1:4], torch.float32)["paper"]
    assert [len(own) for own in predictions] == [len(own.split.test) for own in tasks[1:4]]


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_every_protocol_learns_and_ignores_the_test_labels(protocol: str) -> None:
    own = task(400, 20)
    (predicted,) = protocols.fit_predict([protocol], [own], torch.float32)[protocol]
    truth = own.labels.numpy()[own.split.test]
    assert np.mean(predicted == truth) > 0.6
    scrambled = own.labels.clone()
    scrambled[own.split.test] = 0
    blind = Task(features=own.features, labels=scrambled, split=own.split, num_classes=CLASSES, seed=own.seed)
    np.testing.assert_array_equal(protocols.fit_predict([protocol], [blind], torch.float32)[protocol][0], predicted)


def test_protocol_names() -> None:
    assert protocols.protocol_names(["knn", "paper", "knn"]) == ("knn", "knn-20", "paper")
    with pytest.raises(UserError, match="did you mean logistic"):
        protocols.protocol_names(["logistics"])
