"""The protocol ``paper``: a classifier with one hidden layer of 128 on frozen features (Jain et al., IGARSS 2021).

The paper states: hidden layer of 128, softmax, cross-entropy, 100 epochs. It does not state the optimiser, learning
rate, batch size, initialisation or activation; the values below are ours: Adam with learning rate 1e-3, batches of
256 in a new random order every epoch, torch's default initialisation of ``Linear``, ReLU, no dropout, no weight decay,
the weights after the last epoch.

Where images have several labels, sigmoid and binary cross-entropy, averaged over the labels, take the place of softmax
and cross-entropy. The paper has no such case: this is our extension.

The probes of several seeds, and on a GPU of several bands, are trained together, as one batched matrix product a layer:
on a GPU that saves most of the launches, on a CPU it costs nothing. Features stay on the device and are copied batch by
batch into one reused buffer, in bfloat16 where that is faster; weights and optimiser state stay float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from eo_backbones.evaluation.probes.task import Task

HIDDEN = 128
EPOCHS = 100
LEARNING_RATE = 1e-3
BATCH = 256


@dataclass(frozen=True, eq=False, slots=True)
class Perceptrons:
    """Several classifiers: ``hidden (tasks, d, 128)``, ``output (tasks, 128, classes)`` and their biases."""

    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor

    @classmethod
    def initialise(cls, width: int, num_classes: int, seeds: Sequence[int], device: torch.device) -> "Perceptrons":
        """Draw each seed's weights from its own generator, uniformly within +-1/sqrt(inputs) as ``Linear`` does."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(*shape: int, inputs: int) -> Tensor:
            bound = inputs**-0.5
            drawn = [torch.empty(shape).uniform_(-bound, bound, generator=generator) for generator in generators]
            return torch.stack(drawn).to(device).requires_grad_()

        return cls(
            hidden=draw(width, HIDDEN, inputs=width),
            hidden_bias=draw(1, HIDDEN, inputs=width),
            output=draw(HIDDEN, num_classes, inputs=HIDDEN),
            output_bias=draw(1, num_classes, inputs=HIDDEN),
        )

    @property
    def parameters(self) -> list[Tensor]:
        """All weights."""
        return [self.hidden, self.hidden_bias, self.output, self.output_bias]

    def logits(self, features: Tensor) -> Tensor:
        """Return ``(tasks, batch, classes)`` in float32 for features ``(tasks, batch, d)``."""
        hidden = torch.bmm(features, self.hidden.to(features.dtype)).float() + self.hidden_bias
        return torch.baddbmm(self.output_bias, F.relu(hidden), self.output)

    def alone(self, number: int) -> "Perceptrons":
        """Return the classifier of one task."""
        return Perceptrons(*(weight[number : number + 1] for weight in self.parameters))


def train(
    features: Tensor,
    labels: Tensor,
    rows: Sequence[np.ndarray],
    num_classes: int,
    *,
    seeds: Sequence[int],
    epochs: int = EPOCHS,
) -> Perceptrons:
    """Train several classifiers as one batch.

    Args:
        features: standardised ``(tasks, n, d)``, contiguous (tasks differ in the split, the encoder or the band).
        labels: int64 ``(n,)``, or several labels an image, bool ``(n, labels)``.
        rows: the images to learn from, one array a task; all of one length.
        num_classes: number of classes.
        seeds: one a task; each draws its own initial weights and batches, so that a task is trained as it would be
            alone.
        epochs: passes over the rows.
    """
    number, images, width = features.shape
    device, count = features.device, len(rows[0])
    model = Perceptrons.initialise(width, num_classes, seeds, device)
    optimiser = torch.optim.Adam(model.parameters, lr=LEARNING_RATE, fused=True)
    positions = torch.from_numpy(np.stack(rows)).to(device)
    orders = {seed: np.random.default_rng(seed) for seed in seeds}
    everything = features.flatten(0, 1)
    offsets = torch.arange(0, number * images, images, device=device)[:, None]  # where a task's images begin in it
    buffer = torch.empty(number * BATCH, width, dtype=features.dtype, device=device)
    for _ in range(epochs):
        drawn = {seed: order.permutation(count) for seed, order in orders.items()}
        order_of_all = torch.from_numpy(np.stack([drawn[seed] for seed in seeds])).to(device)
        for batch in torch.split(positions.gather(1, order_of_all), BATCH, dim=1):
            inputs = buffer[: batch.numel()]
            torch.index_select(everything, 0, (batch + offsets).flatten(), out=inputs)
            logits = model.logits(inputs.view(*batch.shape, width))
            # the sum over tasks of each one's mean, so that every task sees the gradient it would see alone
            loss = _loss(logits.flatten(0, 1), labels[batch].flatten(0, 1)) / batch.shape[1]
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
    return model


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over images of the cross-entropy, or of the labels' mean binary cross-entropy."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, reduction="sum")
    return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum") / labels.shape[1]


def fit_predict(tasks: Sequence[Task], dtype: torch.dtype, *, epochs: int = EPOCHS) -> list[np.ndarray]:
    """Return the predicted classes of each task's test images ``(m,)``, or scores ``(m, labels)`` of several labels.

    Args:
        tasks: probes that differ in features, split or seed, with equally many images to learn from.
        dtype: of the standardised features.
        epochs: passes over the labelled images.
    """
    first = tasks[0].features
    features = torch.empty(len(tasks), *first.shape, dtype=dtype, device=first.device)
    for of_task, task in zip(features, tasks, strict=True):
        task.standardised(dtype, out=of_task)
    model = train(
        features,
        tasks[0].labels,
        [task.labelled for task in tasks],
        tasks[0].num_classes,
        seeds=[task.seed for task in tasks],
        epochs=epochs,
    )
    predicted = []
    with torch.inference_mode():
        for number, (of_task, task) in enumerate(zip(features, tasks, strict=True)):
            logits = model.alone(number).logits(of_task[task.index(task.split.test)][None])
            predicted.append((logits[0].sigmoid() if task.multilabel else logits[0].argmax(dim=1)).cpu().numpy())
    return predicted
