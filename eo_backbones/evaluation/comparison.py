"""Is one model better than another? Paired differences on the same test images, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np

from eo_backbones.evaluation import metrics_by_image, multilabel_metrics, predictions
from eo_backbones.evaluation.encoders import BASELINES
from eo_backbones.evaluation.metrics import Estimate, f1_difference, weighted_f1
from eo_backbones.evaluation.results import Result


@dataclass(frozen=True, slots=True)
class Comparison:
    """``first`` minus ``second``, by band; mean over the seeds that both were measured with."""

    first: str
    second: str
    bands: dict[str, Estimate]


def is_baseline(line: str) -> bool:
    """Return whether a line of a table is a baseline, ImageNet included."""
    return line.partition(" ")[0].partition("=")[0] in BASELINES


def pairs_of(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is worth comparing: every encoder with every other line; without an encoder, all baselines."""
    encoders = [line for line in lines if not is_baseline(line)]
    baselines = [line for line in lines if is_baseline(line)]
    if not encoders:
        return list(combinations(baselines, 2))
    return list(combinations(encoders, 2)) + [(encoder, other) for encoder in encoders for other in baselines]


def compare(out: Path, labels: np.ndarray, num_classes: int, lines: dict[str, list[Result]]) -> list[Comparison]:
    """Return the paired differences of the lines of one table.

    As in the table itself, value and interval are means over the seeds: the interval is that of one test set.

    Args:
        out: folder of the results.
        labels: class numbers of all images, or several labels of each.
        num_classes: how many classes there are.
        lines: line of the table -> its rows.
    """
    found = []
    for first, second in pairs_of(list(lines)):
        bands: dict[str, list[Estimate]] = {}
        others = {(row.band, row.seed): row for row in lines[second]}
        for row in lines[first]:
            other = others.get((row.band, row.seed))
            if other is None:
                continue
            one, two = predictions.read(out, row.key), predictions.read(out, other.key)
            if one is None or two is None or not np.array_equal(one.test, two.test):
                continue
            difference = _difference(labels[one.test], one.predicted, two.predicted, num_classes)
            bands.setdefault(row.band, []).append(difference)
        if bands:
            found.append(Comparison(first, second, {band: _mean(parts) for band, parts in bands.items()}))
    return found


def _difference(true: np.ndarray, first: np.ndarray, second: np.ndarray, num_classes: int) -> Estimate:
    if first.ndim == 1:
        return f1_difference(true, first, second, num_classes)
    if first.ndim == 2:  # several labels an image
        decisions = [multilabel_metrics.count_decisions(true, predicted) for predicted in (first, second)]
        return metrics_by_image.difference(decisions[0], decisions[1], multilabel_metrics.weighted_f1)
    return metrics_by_image.difference(first, second, weighted_f1)  # confusion matrices of pixels


def _mean(parts: Sequence[Estimate]) -> Estimate:
    return Estimate(fmean(p.value for p in parts), fmean(p.low for p in parts), fmean(p.high for p in parts))
