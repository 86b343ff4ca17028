"""The protocols by name: how frozen features are evaluated."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from eo_backbones import device
from eo_backbones.errors import unknown_name
from eo_backbones.evaluation.probes import knn, logistic, mlp, segmentation
from eo_backbones.evaluation.probes.task import Task

NEIGHBOURS = {"knn": 5, "knn-20": 20}
PROTOCOLS = ("paper", "logistic", *NEIGHBOURS)
"""Those that classify images by their features."""
SEGMENTATION = "segmentation"
"""The one that classifies pixels, :mod:`eo_backbones.evaluation.probes.segmentation`."""
RETRIEVAL = "retrieval"
"""The one without labels, :mod:`eo_backbones.evaluation.retrieval`."""
TYPED_ALONE = {"knn": ("knn", "knn-20")}
"""What a name on the command line stands for, where it is more than itself."""

DESCRIPTIONS = {
    "paper": (
        f"one hidden layer of {mlp.HIDDEN}, softmax, cross-entropy, {mlp.EPOCHS} epochs (the paper); "
        f"Adam {mlp.LEARNING_RATE:g}, batches of {mlp.BATCH}, ReLU, no dropout, no weight decay, last "
        "epoch (not stated there, ours); several labels an image: sigmoid and binary cross-entropy (ours)"
    ),
    "logistic": (
        "multinomial logistic regression by L-BFGS; C out of "
        f"{logistic.STRENGTHS[0]:g} to {logistic.STRENGTHS[-1]:g} by powers of ten by weighted F1 on validation, then "
        "fitted again on train + validation; several labels an image: one against the rest, C by micro mAP"
    ),
    "knn": "majority of the 5 nearest labelled images by cosine; several labels an image: each label's share of them",
    "knn-20": "the same with the 20 nearest",
    SEGMENTATION: (
        f"a class for every pixel: 1 x 1 convolution on the last {segmentation.STAGES} stages, enlarged bilinearly to "
        f"the class map; cross-entropy on {segmentation.PIXELS:,} pixels, equally many of each labelled image; L-BFGS, "
        "C as logistic on validation pixels; F1 and accuracy are of pixels, intervals over images"
    ),
}


def protocol_names(typed: Sequence[str]) -> tuple[str, ...]:
    """Return the protocols that typed names stand for, each once, in order.

    Raises:
        UserError: an unknown name.
    """
    names: list[str] = []
    for name in typed:
        if name not in (*PROTOCOLS, SEGMENTATION):
            raise unknown_name("protocol", name, (*PROTOCOLS, SEGMENTATION, RETRIEVAL))
        names += TYPED_ALONE.get(name, (name,))
    return tuple(dict.fromkeys(names))


def family(protocol: str) -> str:
    """Return the name under which protocols share most of their work."""
    return "knn" if protocol in NEIGHBOURS else protocol


def fit_predict(names: Sequence[str], tasks: Sequence[Task], dtype: torch.dtype) -> Mapping[str, list[np.ndarray]]:
    """Return for each protocol the predictions for each task's test images.

    Classes ``(m,)``, or where images have several labels, scores ``(m, labels)``.

    Args:
        names: of :data:`PROTOCOLS`, all of one :func:`family`.
        tasks: the same model and label budget with several seeds, or several bands.
        dtype: the fast one of the device; only ``paper`` uses it.

    Raises:
        UserError: a name that is none of these.
    """
    (kind,) = {family(name) for name in names}
    if kind == "knn":
        counts = [NEIGHBOURS[name] for name in names]
        by_task = [knn.fit_predict(task, neighbours=counts) for task in tasks]
        return {name: [by_count[number] for by_count in by_task] for number, name in enumerate(names)}
    if kind == "logistic":
        return {kind: [logistic.fit_predict(task) for task in tasks]}
    if kind != "paper":
        raise unknown_name("protocol", kind, PROTOCOLS)
    groups = batch_tasks(tasks, dtype)
    return {kind: [predicted for group in groups for predicted in mlp.fit_predict(group, dtype)]}


def batch_tasks(tasks: Sequence[Task], dtype: torch.dtype, *, limit_bytes: int | None = None) -> Iterator[list[Task]]:
    """Group neighbouring tasks that can be trained as one batch: features of one shape, and not too much memory.

    Args:
        tasks: in the order of the results.
        dtype: of the features while they are trained on.
        limit_bytes: memory that the features of a group may take; default: what the device has to spare.
    """
    group: list[Task] = []
    limit = device.bytes_for_probes(tasks[0].features.device) if limit_bytes is None else limit_bytes
    for task in tasks:
        size = (len(group) + 1) * task.features.numel() * dtype.itemsize
        first = group[0] if group else task
        same_shape = (len(task.labelled), task.features.shape) == (len(first.labelled), first.features.shape)
        if group and (not same_shape or size > limit):
            yield group
            group = []
        group.append(task)
    yield group
