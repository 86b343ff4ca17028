"""The protocols by name: how frozen features are turned into a figure."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from eo_backbones.errors import unknown_name
from eo_backbones.evaluation import logistic, neighbours, perceptron
from eo_backbones.evaluation.task import Task

NEIGHBOURS = {"knn": 5, "knn-20": 20}
PROTOCOLS = ("paper", "logistic", *NEIGHBOURS)
TYPED_ALONE = {"knn": ("knn", "knn-20")}
"""What a name on the command line stands for, where it is more than itself."""

DESCRIPTIONS = {
    "paper": (
        f"one hidden layer of {perceptron.HIDDEN}, softmax, cross-entropy, {perceptron.EPOCHS} epochs (the paper); "
        f"Adam {perceptron.LEARNING_RATE:g}, batches of {perceptron.BATCH}, ReLU, no dropout, no weight decay, last "
        "epoch (not stated there, ours); several labels an image: sigmoid and binary cross-entropy (ours)"
    ),
    "logistic": (
        "multinomial logistic regression by L-BFGS; C out of "
        f"{logistic.STRENGTHS[0]:g} to {logistic.STRENGTHS[-1]:g} by powers of ten by weighted F1 on validation, then "
        "fitted again on train + validation; several labels an image: one against the rest, C by micro mAP"
    ),
    "knn": "majority of the 5 nearest labelled images by cosine; several labels an image: each label's share of them",
    "knn-20": "the same with the 20 nearest",
}

_BYTES_AT_ONCE = 2**30  # of standardised features that the probes of several seeds may hold together


def protocol_names(typed: Sequence[str]) -> tuple[str, ...]:
    """Return the protocols that typed names stand for, each once, in order.

    Raises:
        UserError: an unknown name.
    """
    names: list[str] = []
    for name in typed:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
        names += TYPED_ALONE.get(name, (name,))
    return tuple(dict.fromkeys(names))


def run(protocol: str, tasks: Sequence[Task], dtype: torch.dtype) -> list[np.ndarray]:
    """Return the predicted classes of each task's test images ``(m,)``, or scores ``(m, labels)`` of several labels.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        tasks: the same model, band and label budget with several seeds.
        dtype: the fast number format of the device; only ``paper`` uses it.
    """
    if protocol == "paper":
        return [answers for group in _together(tasks, dtype) for answers in perceptron.run(group, dtype)]
    if protocol == "logistic":
        return [logistic.run(task) for task in tasks]
    return [neighbours.run(task, neighbours=NEIGHBOURS[protocol]) for task in tasks]


def _together(tasks: Sequence[Task], dtype: torch.dtype) -> Iterator[list[Task]]:
    """Group neighbouring tasks that can be trained as one: equally many images, and not too much memory."""
    group: list[Task] = []
    for task in tasks:
        size = (len(group) + 1) * task.features.numel() * dtype.itemsize
        if group and (len(task.labelled) != len(group[0].labelled) or size > _BYTES_AT_ONCE):
            yield group
            group = []
        group.append(task)
    yield group
