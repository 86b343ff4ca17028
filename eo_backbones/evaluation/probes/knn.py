"""The protocols ``knn``: the majority class among the nearest labelled images by cosine, without any training.

One search serves every number of neighbours, since finding them is what takes time. Where images have several labels,
each label's score is its share of the neighbours.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eo_backbones.evaluation.probes.task import Task

_QUERIES_AT_ONCE = 1024  # bounds the table of similarities


def predict(known: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, neighbours: int) -> Tensor:
    """Return the class numbers of queries ``(m,)``, or where images have several labels, shares ``(m, labels)``.

    Every neighbour has one vote; of equally many votes the smaller class number wins, as in scikit-learn's
    ``KNeighborsClassifier(metric="cosine")``.

    Args:
        known: features of the labelled images ``(n, d)``.
        labels: their classes, int64 ``(n,)``, or labels, bool ``(n, labels)``.
        queries: features to classify ``(m, d)``.
        num_classes: number of classes.
        neighbours: how many vote; all labelled images where there are fewer.
    """
    return _vote(labels[nearest(known, queries, neighbours)], num_classes)


def nearest(known: Tensor, queries: Tensor, count: int) -> Tensor:
    """Return the row numbers of the nearest by cosine, nearest first: ``(m, count)``, or all rows if there are fewer.

    Args:
        known: features of the labelled images ``(n, d)``.
        queries: features ``(m, d)``.
        count: how many for each query.
    """
    directions = F.normalize(known, dim=1)
    indices = [
        (F.normalize(block, dim=1) @ directions.T).topk(min(count, len(known)), dim=1).indices
        for block in torch.split(queries, _QUERIES_AT_ONCE)
    ]
    return torch.cat(indices)


def _vote(labels: Tensor, num_classes: int) -> Tensor:
    """Return the majority class ``(m,)`` of neighbours with labels ``(m, k)``, or shares of ``(m, k, labels)``."""
    if labels.ndim == 3:
        return labels.float().mean(dim=1)
    return F.one_hot(labels, num_classes).sum(dim=1).argmax(dim=1)


def fit_predict(task: Task, *, neighbours: Sequence[int]) -> list[np.ndarray]:
    """Return the predictions for the task's test images, once for each number of neighbours.

    Classes ``(m,)``, or where images have several labels, scores ``(m, labels)``.
    """
    features = task.standardised(torch.float32)
    known = task.index(task.labelled)
    indices = nearest(features[known], features[task.index(task.split.test)], max(neighbours))
    labels = task.labels[known]
    return [_vote(labels[indices[:, :count]], task.num_classes).cpu().numpy() for count in neighbours]
