"""Better or not: paired differences, and which pairs are worth a line."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from eo_backbones.bands import PAPER_BANDS
from eo_backbones.evaluation import predictions
from eo_backbones.evaluation.metrics import f1_difference
from eo_backbones.evaluation.predictions import (
    Predictions,
    compare_models,
    is_baseline,
    pairs_to_compare,
    principal_components,
)
from eo_backbones.evaluation.report import PAPER_F1
from support.result_rows import result

NOTHING = np.empty((0, 2), np.float32)


def test_pairs_are_encoders_against_everything() -> None:
    assert pairs_to_compare(["a", "random", "b", "stats"]) == [
        ("a", "b"),
        ("a", "random"),
        ("a", "stats"),
        ("b", "random"),
        ("b", "stats"),
    ]
    assert pairs_to_compare(["random", "stats"]) == [("random", "stats")]
    assert is_baseline("imagenet (64 px, div10000)")
    assert is_baseline("imagenet=local-dir:X (64 px, div10000)")
    assert not is_baseline("eo_resnet50.byol_dfc2020")


def test_difference_is_the_mean_over_common_seeds(tmp_path: Path) -> None:
    """Seed 2 was measured with one of the two only, band B03 with one test set each: neither counts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    rows: dict[str, list] = {"a": [], "stats": []}
    expected = []
    for seed in (0, 1):
        test = np.sort(rng.choice(600, 200, replace=False))
        predictions_of = {
            model: np.where(rng.random(200) < right, labels[test], rng.integers(0, 3, 200))
            for model, right in (("a", 0.9), ("stats", 0.4))
        }
        for model, predicted in predictions_of.items():
            row = result(model=model, seed=seed)
            predictions.write_predictions(tmp_path, row.key, Predictions(test, predicted, NOTHING))
            rows[model].append(row)
        one, two = (f1_score(labels[test], predictions_of[model], average="weighted") for model in ("a", "stats"))
        expected.append(one - two)
    lonely = result(model="a", seed=2)
    predictions.write_predictions(tmp_path, lonely.key, Predictions(np.arange(5), labels[:5], NOTHING))
    rows["a"].append(lonely)
    for model, first in (("a", 0), ("stats", 1)):
        row = result(model=model, band="B03")
        predictions.write_predictions(tmp_path, row.key, Predictions(np.arange(first, 5), labels[first:5], NOTHING))
        rows[model].append(row)

    (found,) = compare_models(tmp_path, labels, 3, rows)
    assert (found.first, found.second, list(found.bands)) == ("a", "stats", ["B04"])
    estimate = found.bands["B04"]
    assert estimate.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0.2 < estimate.low < estimate.value < estimate.high < 0.8


def test_paired_is_narrower_than_unpaired() -> None:
    """Two models that mostly fail on the same images: pairing sees that they differ clearly."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 500)
    hard = rng.random(500) < 0.3
    second = np.where(hard, 1 - true, true)
    first = np.where(hard & (rng.random(500) < 0.9), 1 - true, true)
    paired = f1_difference(true, first, second, 2)
    assert paired.low > 0
    assert paired.high - paired.low < 0.04  # unpaired, each F1 alone has an interval of about 0.08


def test_predictions_come_back(tmp_path: Path) -> None:
    key = result().key
    assert predictions.read_predictions(tmp_path, key) is None
    predictions.write_predictions(
        tmp_path, key, Predictions(np.array([3, 5]), np.array([1, 0]), np.ones((2, 2), np.float32))
    )
    kept = predictions.read_predictions(tmp_path, key)
    assert kept is not None
    assert (kept.test.tolist(), kept.predicted.tolist(), kept.projection.tolist()) == ([3, 5], [1, 0], [[1, 1], [1, 1]])
    assert predictions.predictions_path(tmp_path, key) != predictions.predictions_path(tmp_path, result(seed=1).key)


def test_principal_components_equal_numpy() -> None:
    """Up to the sign of each component; deviation 1."""
    import torch

    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 8)) * np.array([9, 5, 1, 1, 1, 1, 1, 1])
    found = principal_components(torch.from_numpy(points))
    left, _, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    for column in range(2):
        assert abs(np.corrcoef(found[:, column], left[:, column])[0, 1]) > 0.9999
        assert found[:, column].std() == pytest.approx(1, abs=1e-3)
    assert principal_components(torch.randn(5, 1)).shape == (5, 2)


def test_the_papers_results() -> None:
    """Spot checks of Table I as recorded in the project's notes: first, last and the odd row of B8A."""
    assert all(tuple(f1) == PAPER_BANDS for f1 in PAPER_F1.values())
    assert PAPER_F1["BYOL-90K"]["B02"] == 0.87
    assert PAPER_F1["ImageNet"]["B12"] == 0.47
    assert [f1["B8A"] for f1 in PAPER_F1.values()] == [0.44, 0.50, 0.52, 0.59, 0.59]
    assert [f1["B11"] for f1 in PAPER_F1.values()] == [0.58, 0.72, 0.70, 0.77, 0.83]
