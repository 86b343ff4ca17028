"""The protocol ``knn``: the majority class among the nearest labelled images by cosine, without any training.

Where images have several labels, the answer is each label's share of the neighbours.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eo_backbones.evaluation.task import Task

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
    directions = F.normalize(known, dim=1)
    answers = []
    for block in torch.split(queries, _QUERIES_AT_ONCE):
        similar = F.normalize(block, dim=1) @ directions.T
        nearest = similar.topk(min(neighbours, len(known)), dim=1).indices
        if labels.ndim == 2:
            answers.append(labels[nearest].float().mean(dim=1))
            continue
        votes = F.one_hot(labels[nearest], num_classes).sum(dim=1)
        answers.append(votes.argmax(dim=1))
    return torch.cat(answers)


def run(task: Task, *, neighbours: int) -> np.ndarray:
    """Return the predicted classes of the task's test images ``(m,)``, or scores ``(m, labels)`` of several labels."""
    features = task.standardised(torch.float32)
    known = task.index(task.labelled)
    test = task.index(task.split.test)
    answers = predict(features[known], task.labels[known], features[test], task.num_classes, neighbours=neighbours)
    return answers.cpu().numpy()
