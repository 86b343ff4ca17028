"""Predictions for the test images, kept beside ``results.csv``, and the paired comparisons that follow from them."""

import hashlib
import logging
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from itertools import combinations
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from eo_backbones.device import seeded
from eo_backbones.evaluation.encoders import BASELINES
from eo_backbones.evaluation.metrics import (
    count_decisions,
    f1_difference,
    metric_difference,
    multilabel_weighted_f1,
    weighted_f1,
)
from eo_backbones.files import atomic_file
from eo_backbones.results import Estimate, Key, Result

logger = logging.getLogger(__name__)

FOLDER = "predictions"
NO_PROJECTION = np.empty((0, 2), np.float32)


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """Predictions behind one row of ``results.csv``.

    Attributes:
        test: indices of the test images ``(n,)``.
        predicted: class numbers ``(n,)``; several labels an image: bool ``(n, labels)``; classes of pixels: each
            image's confusion matrix ``(n, classes, classes)``.
        maps: predicted classes of the first test images' pixels, uint8 ``(images, height, width)``, if there are such.
        projection: the features' first two principal components ``(n, 2)``, or ``(0, 2)`` where they were not kept.
    """

    test: np.ndarray
    predicted: np.ndarray
    projection: np.ndarray
    maps: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0), np.uint8))


def predictions_path(out: Path, key: Key) -> Path:
    """Return the file that belongs to a row."""
    return out / FOLDER / f"{hashlib.sha256(repr(astuple(key)).encode()).hexdigest()[:20]}.npz"


def write_predictions(out: Path, key: Key, predictions: Predictions) -> None:
    """Keep the predictions behind a row; a file of the same row is replaced."""
    path = predictions_path(out, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as unfinished:
        np.savez_compressed(
            unfinished, **{name: getattr(predictions, name) for name in ("test", "predicted", "projection", "maps")}
        )


def read_predictions(out: Path, key: Key) -> Predictions | None:
    """Return the predictions behind a row, or ``None`` if the file is gone, or damaged, which the log says."""
    path = predictions_path(out, key)
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            return Predictions(**stored)
    except (OSError, ValueError, TypeError, EOFError, zlib.error, BadZipFile) as error:
        logger.warning(
            "%s is damaged (%s), so its row is compared with no other; delete both to measure again", path, error
        )
        return None


def principal_components(features: Tensor) -> np.ndarray:
    """Return the first two principal components of features ``(n, d)`` as float32 ``(n, 2)``, deviation 1 each."""
    centred = (features - features.mean(dim=0)).float()
    with seeded(0, centred.device):  # the range finder draws random directions
        left, _, _ = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    pair = left[:, :2] * len(left) ** 0.5
    if pair.shape[1] < 2:
        pair = torch.cat([pair, torch.zeros(len(pair), 2 - pair.shape[1], device=pair.device)], dim=1)
    components: np.ndarray = pair.cpu().numpy()
    return components


# Comparisons


@dataclass(frozen=True, slots=True)
class Comparison:
    """``first`` minus ``second``, by band; mean over the seeds that both were measured with."""

    first: str
    second: str
    bands: dict[str, Estimate]


def is_baseline(line: str) -> bool:
    """Return whether a line of a table is a baseline, ImageNet included."""
    return line.partition(" ")[0].partition("=")[0] in BASELINES


def pairs_to_compare(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs worth comparing: every encoder with every other line; without an encoder, all baselines."""
    encoders = [line for line in lines if not is_baseline(line)]
    baselines = [line for line in lines if is_baseline(line)]
    if not encoders:
        return list(combinations(baselines, 2))
    return list(combinations(encoders, 2)) + [(encoder, other) for encoder in encoders for other in baselines]


def compare_models(out: Path, labels: np.ndarray, num_classes: int, lines: dict[str, list[Result]]) -> list[Comparison]:
    """Return the paired differences of the lines of one table.

    As in the table itself, value and interval are means over the seeds: the interval is that of one test set.

    Args:
        out: folder of the results.
        labels: class numbers of all images, or several labels of each.
        num_classes: how many classes there are.
        lines: line of the table -> its rows.
    """
    comparisons = []
    for first, second in pairs_to_compare(list(lines)):
        bands: dict[str, list[Estimate]] = {}
        others = {(row.band, row.seed): row for row in lines[second]}
        for row in lines[first]:
            other = others.get((row.band, row.seed))
            if other is None:
                continue
            one, two = read_predictions(out, row.key), read_predictions(out, other.key)
            if one is None or two is None or not np.array_equal(one.test, two.test):
                continue
            difference = _difference(labels[one.test], one.predicted, two.predicted, num_classes)
            bands.setdefault(row.band, []).append(difference)
        if bands:
            by_band = {band: Estimate.mean(seeds) for band, seeds in bands.items()}
            comparisons.append(Comparison(first, second, by_band))
    return comparisons


def _difference(true: np.ndarray, first: np.ndarray, second: np.ndarray, num_classes: int) -> Estimate:
    if first.ndim == 1:
        return f1_difference(true, first, second, num_classes)
    if first.ndim == 2:  # several labels an image
        decisions = [count_decisions(true, predicted) for predicted in (first, second)]
        return metric_difference(decisions[0], decisions[1], multilabel_weighted_f1)
    return metric_difference(first, second, weighted_f1)  # confusion matrices of pixels
