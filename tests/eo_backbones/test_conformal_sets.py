"""Sets of classes: equal to MAPIE's and to the formula of the paper, right as often as they say, and calibrated."""

import numpy as np
import pytest
from mapie.classification import CrossConformalClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eo_backbones.mapping import conformal
from eo_backbones.mapping.blocks import Blocks, Fold, choose_blocks, folds, least_points, metres
from eo_backbones.mapping.conformal import ConformalClassifier, Linear, fit_temperature, softmax


def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes that overlap, and the classes."""
    centres = np.random.default_rng(3).normal(size=(3, 4))
    labels = rng.integers(0, 3, count)
    return (centres[labels] + 1.5 * rng.normal(size=(count, 4))).astype(np.float32), labels


def by_chance(count: int, number: int, rng: np.random.Generator) -> list[Fold]:
    """Folds of single points."""
    of_point = rng.permutation(np.arange(count) % number)
    return [Fold(np.flatnonzero(of_point == fold), np.flatnonzero(of_point != fold)) for fold in range(number)]


@pytest.mark.parametrize("error_rate", [0.1, 0.3])
def test_sets_are_those_of_mapie(error_rate: float) -> None:
    rng = np.random.default_rng(0)
    features, labels = draw(rng, 99)
    chosen = by_chance(99, 5, rng)
    own = conformal.fit(features, labels, 3, chosen, error_rate=error_rate)
    of_point = np.empty(99, int)
    for number, fold in enumerate(chosen):
        of_point[fold.held_out] = number
    peer = CrossConformalClassifier(
        make_pipeline(StandardScaler(), LogisticRegression(C=own.strength, tol=1e-8, max_iter=10_000)),
        confidence_level=1 - error_rate,
        conformity_score="lac",
        cv=PredefinedSplit(of_point),
    ).fit_conformalize(features.astype(np.float64), labels)
    cells, _ = draw(rng, 400)
    predicted, sets = peer.predict_set(cells.astype(np.float64), agg_scores="crossval")
    found = own.predict(cells)
    # a class whose score lies within the tolerance of the two solvers may fall on either side
    assert (found.members != sets[..., 0]).mean() < 0.002
    np.testing.assert_array_equal(found.classes, predicted)
    assert len(set(found.members.sum(axis=1).tolist())) > 1


def test_sets_follow_the_formula_of_cv_plus() -> None:
    """Equation (8) of Romano, Sesia & Candes 2020, point by point."""
    rng = np.random.default_rng(1)
    models = tuple(Linear(rng.normal(size=(2, 3)).astype(np.float32), rng.normal(size=3)) for _ in range(3))
    scores = tuple(np.sort(rng.uniform(0.1, 0.9, count)) for count in (6, 7, 6))
    cells = rng.normal(size=(50, 2)).astype(np.float32)
    for error_rate in (0.05, 0.1, 0.25):
        made = ConformalClassifier(
            final=models[0], temperature=1.0, strength=1.0, of_folds=models, scores=scores, error_rate=error_rate
        )
        expected = np.zeros((50, 3), bool)
        for cell in range(50):
            for number in range(3):
                lower = 0
                for model, of_fold in zip(models, scores, strict=True):
                    own = 1 - softmax(model.logits(cells[cell : cell + 1]))[0, number]
                    lower += sum(score < own for score in of_fold)
                expected[cell, number] = lower < (1 - error_rate) * (19 + 1)
        np.testing.assert_array_equal(made.sets(cells), expected)


@pytest.mark.parametrize(("count", "error_rate"), [(20, 0.1), (40, 0.2)])
def test_sets_miss_the_class_as_often_as_they_say(count: int, error_rate: float) -> None:
    """Over many draws of few points; within three standard errors, and not by holding everything."""
    rng = np.random.default_rng(2)
    hits, sizes = [], []
    for _ in range(25):
        features, labels = draw(rng, count + 500)
        made = conformal.fit(features, labels, 3, by_chance(count, 5, rng), error_rate=error_rate)
        members = made.sets(features[count:])
        hits.append(members[np.arange(500), labels[count:]].mean())
        sizes.append(members.sum(axis=1).mean())
    error = np.std(hits) / np.sqrt(len(hits))
    # from above: CV+ with few points is conservative, by some 1 / (points + 1)
    assert 1 - error_rate - 3 * error < np.mean(hits) < 1 - error_rate + 3 * error + 2 / count
    assert np.mean(sizes) < 2.7


def test_probabilities_are_calibrated_on_points_that_were_held_out() -> None:
    rng = np.random.default_rng(4)
    features, labels = draw(rng, 4200)
    made = conformal.fit(features, labels, 3, by_chance(200, 10, rng), error_rate=0.1)
    found = made.predict(features[200:])
    hits = found.classes == labels[200:]
    assert found.probability.mean() == pytest.approx(hits.mean(), abs=0.04)
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 1.0)):
        chosen = (found.probability >= low) & (found.probability < high)
        assert hits[chosen].mean() == pytest.approx(found.probability[chosen].mean(), abs=0.08)


def test_the_temperature_is_the_best_one_and_finite_where_all_is_right() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 2000)
    logits = 4 * np.eye(3)[labels] + 4 * rng.normal(size=(2000, 3))
    found = fit_temperature(logits, labels)
    losses = {temperature: log_loss(labels, softmax(logits / temperature)) for temperature in np.linspace(1, 9, 81)}
    assert found == pytest.approx(min(losses, key=lambda temperature: losses[temperature]), abs=0.15)
    certain = fit_temperature(100.0 * np.eye(3)[labels[:20]], labels[:20])
    probability = softmax(100 * np.eye(3)[:1] / certain)[0, 0]
    assert probability == pytest.approx(20 / 21 + 1 / 63, abs=1e-3)  # as if a 21st point had no class


def test_neighbours_are_held_out_together_and_not_learned_from_beside() -> None:
    rng = np.random.default_rng(6)
    places = rng.uniform(0, 20_000, (300, 2))
    labels = rng.integers(0, 3, 300)
    blocks = Blocks.of(places, side_m=2_000, window_m=640)
    squares = np.floor((places - places.min(axis=0)) / 2_000)
    same = (squares[:, None] == squares[None]).all(axis=2)
    np.testing.assert_array_equal(same, blocks.of_point[:, None] == blocks.of_point[None])
    made = folds(blocks, labels, np.arange(300))
    assert len(made) == 10
    np.testing.assert_array_equal(np.sort(np.concatenate([fold.held_out for fold in made])), np.arange(300))
    for fold in made:
        assert not np.isin(blocks.of_point[fold.train], blocks.of_point[fold.held_out]).any()
        apart = np.abs(places[fold.train, None] - places[None, fold.held_out]).max(axis=2)
        assert apart.min() >= 640
        assert len(fold.held_out) == pytest.approx(30, abs=6)
        assert np.bincount(labels[fold.held_out], minlength=3).min() >= 5
    inner = folds(blocks, labels, made[0].train)
    assert not np.isin(np.concatenate([fold.train for fold in inner]), made[0].held_out).any()


def test_blocks_shrink_until_the_points_do() -> None:
    """Points every 700 m on 5 km: squares of four windows would leave too few for three classes."""
    places = np.stack(np.meshgrid(np.arange(8) * 700.0, np.arange(8) * 700.0), axis=-1).reshape(-1, 2)
    labels = np.arange(64) % 3
    given = {"window_m": 640.0, "cell_m": 320.0, "error_rate": 0.1}
    assert choose_blocks(places, labels, "abc", **given).side_m == 2560
    close = choose_blocks(places / 4, labels[:64], "abc", **{**given, "window_m": 160.0, "cell_m": 80.0})
    assert close.side_m == 640
    assert choose_blocks(places, labels, "abc", side_m=900, **given).side_m == 900


def test_distances_are_those_of_the_ground() -> None:
    lon, lat = np.array([179.95, -179.95, 179.95]), np.array([60.0, 60.0, 60.1])
    places = metres(lon, lat)
    assert np.linalg.norm(places[0] - places[1]) == pytest.approx(0.1 * 111_195 * 0.5, rel=1e-3)
    assert np.linalg.norm(places[0] - places[2]) == pytest.approx(0.1 * 111_195, rel=1e-3)


@pytest.mark.parametrize(("error_rate", "points"), [(0.5, 1), (0.2, 4), (0.1, 9), (0.05, 19), (0.01, 99)])
def test_a_set_needs_a_rank(error_rate: float, points: int) -> None:
    assert least_points(error_rate) == points
    assert np.ceil(round((points + 1) * (1 - error_rate), 9)) <= points < np.ceil(round(points / error_rate, 9))
