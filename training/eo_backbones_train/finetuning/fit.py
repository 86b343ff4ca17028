"""The epochs of a fine-tuning: AdamW, warm-up and cosine, early stopping, a checkpoint after each epoch.

Order and views follow from (seed, epoch) and (seed, step), and nothing else draws random numbers, so a run that was
killed goes on from its last epoch as if nothing had happened, bit for bit on the same kind of machine.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from eo_backbones.datasets.labelled import LabelledImages
from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation.metrics import Counts, Floats, confusion_matrix
from eo_backbones.networks.state import estimating_batch_norm
from eo_backbones.progress import Progress, Tick
from eo_backbones_train.finetuning.images import OwnImages
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.optim import learning_rate
from eo_backbones_train.pretraining.checkpoint import newest_checkpoint, save_checkpoint
from eo_backbones_train.pretraining.runlog import RunLog
from eo_backbones_train.pretraining.stops import SIGNAL_STATUS, RunStopped, StopSignals

_WARM_UP = 0.05  # of all steps
_SETTLING = 8  # batches that BatchNorm statistics are taken from
CHECKPOINTS = "checkpoints"

logger = logging.getLogger(__name__)

NO_CLASS = -100
"""Class number of what counts neither in the loss nor in a figure; no number of a class can be it."""

Examples = Callable[[np.ndarray, int], Iterator[tuple[Tensor, Tensor]]]
"""Images and batch size -> (what the module gets, class numbers), in order, on the module's device.

Class numbers are int64 ``(batch,)``, or ``(batch, height, width)`` with :data:`NO_CLASS` where there is none."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Learner:
    """What is trained, and on what.

    Attributes:
        module: from what ``examples`` yields to logits, classes in the second dimension.
        groups: for AdamW, with ``lr_scale``.
        examples: see :data:`Examples`.
        augment: (inputs, class numbers, step) -> the same, in training only.
        to_train_mode: before an epoch.
        settled: BatchNorm layers whose statistics are taken anew before each validation: those of a decoder that starts
            from scratch change faster than their running mean follows, which with a handful of images is many epochs
            ("precise BN": Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021).
    """

    module: nn.Module
    groups: list[dict[str, Any]]
    examples: Examples
    augment: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    to_train_mode: Callable[[], object]
    settled: Sequence[nn.BatchNorm2d] = ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Goal:
    """What is asked of a module.

    Attributes:
        class_weights: how much each class counts in the loss, float32 ``(classes,)``.
        figure: confusion matrix of the validation images -> what decides which epoch is kept; more is better.
        name: of the figure, in the log.
        most: validation images at once.
    """

    class_weights: Tensor
    figure: Callable[[Counts], Floats]
    name: str
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """How a training went: the epoch (from 1) whose weights were kept, and how many there were."""

    best_epoch: int
    epochs: int


def fit(
    learner: Learner,
    goal: Goal,
    split: Split,
    settings: Settings,
    *,
    folder: Path,
    tensorboard: bool,
    tick: Tick,
) -> Fitted:
    """Train until the validation images stop getting better; the module ends with the best epoch's weights.

    Args:
        learner: what is trained.
        goal: how it is judged.
        split: rows of the images; ``test`` is not looked at.
        settings: see :class:`Settings`.
        folder: for checkpoints and log; a run that is in it goes on.
        tensorboard: also write TensorBoard events.
        tick: told after each epoch how many were done.

    Raises:
        UserError: the loss is not finite, or the disk is full.
        RunStopped: by Ctrl-C or SIGTERM.
    """
    size = batch_size(len(split.train), settings.batch)
    steps = math.ceil(len(split.train) / size)
    total = settings.epochs * steps
    device = next(learner.module.parameters()).device
    optimizer = AdamW(learner.groups, lr=settings.learning_rate, fused=True)
    weights = goal.class_weights.to(device)
    progress = _resume(learner.module, optimizer, folder)
    tick(progress["epoch"])
    with StopSignals() as stop, RunLog(folder, step=progress["step"], tensorboard=tensorboard) as log:
        while progress["epoch"] < settings.epochs and progress["since"] < settings.patience:
            epoch, step, losses = progress["epoch"], progress["step"], []
            order = split.train[np.random.default_rng([settings.seed, epoch]).permutation(len(split.train))]
            learner.to_train_mode()
            for inputs, truth in learner.examples(order, size):
                if stop.received is not None:
                    raise RunStopped(
                        f"stopped after {epoch} of {settings.epochs} epochs; the same command with --resume goes on",
                        exit_status=SIGNAL_STATUS + stop.received,
                    )
                rate = learning_rate(
                    step,
                    peak=settings.learning_rate,
                    schedule="cosine",
                    total_steps=total,
                    warmup_steps=max(1, round(_WARM_UP * total)),
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate * group["lr_scale"]
                seen, wanted = learner.augment(inputs, truth, step)
                loss = _loss(learner.module(seen), wanted, weights)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
                step += 1
            loss_mean = float(torch.stack(losses).mean())
            if not math.isfinite(loss_mean):
                raise UserError(f"the loss is {loss_mean} in epoch {epoch + 1}; pass a smaller --lr")
            _settle(learner, order[: _SETTLING * size], size, progress["step"])
            figure, val_loss = _validate(learner, goal, split.val)
            log.write(
                {"step": step, "loss": loss_mean, "val_loss": val_loss, f"val_{goal.name}": figure, "epoch": epoch + 1}
            )
            best = progress["best"]
            better = best is None or (figure, -val_loss) > (best["figure"], -best["loss"])
            if better:
                state = {name: tensor.detach().clone() for name, tensor in learner.module.state_dict().items()}
                best = {"figure": figure, "loss": val_loss, "epoch": epoch + 1, "module": state}
            progress = {
                "epoch": epoch + 1,
                "step": step,
                "since": 0 if better else progress["since"] + 1,
                "best": best,
            }
            state = {"module": learner.module.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(folder / CHECKPOINTS, step, progress | state)
            logger.info(
                "epoch %d: loss %.4f, validation %s %.4f%s",
                epoch + 1,
                loss_mean,
                goal.name,
                figure,
                " *" if better else "",
            )
            tick(1)
        log.sync()
    best = progress["best"]
    learner.module.load_state_dict(best["module"])
    return Fitted(best_epoch=best["epoch"], epochs=progress["epoch"])


def batch_size(images: int, largest: int) -> int:
    """Return images a step: as asked for, or a few more, so that none is left alone for BatchNorm in the last step."""
    size = min(largest, images)
    while images > size and images % size == 1:
        size += 1
    return size


def class_weights(counts: np.ndarray, settings: Settings) -> Tensor:
    """Return how much each class counts in the loss, float32 ``(classes,)``; 1 on average over what was counted.

    Args:
        counts: training images, or pixels, of each class, int64 ``(classes,)``; none is 0.
        settings: say whether the classes differ.
    """
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    return torch.from_numpy(counts.sum() / (len(counts) * counts)).float()


def _loss(answers: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the cross-entropy, 0 where nothing has a class."""
    total = F.cross_entropy(answers, truth, weight=weights, ignore_index=NO_CLASS, reduction="sum")
    known = truth[truth != NO_CLASS]
    return total / weights[known].sum().clamp_min(torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def _settle(learner: Learner, rows: np.ndarray, size: int, step: int) -> None:
    """Replace the statistics of layers by their mean over batches of rows, as the steps from ``step`` on saw them."""
    if not learner.settled:
        return
    with estimating_batch_norm(learner.settled):
        for number, (inputs, truth) in enumerate(learner.examples(rows, size)):
            learner.module(learner.augment(inputs, truth, step + number)[0])


@torch.no_grad()
def _validate(learner: Learner, goal: Goal, rows: np.ndarray) -> tuple[float, float]:
    """Return figure and cross-entropy of the validation images."""
    learner.module.eval()
    classes = len(goal.class_weights)
    confusion = np.zeros((classes, classes), np.int64)
    total = 0.0
    for inputs, truth in learner.examples(rows, goal.most):
        answers = learner.module(inputs).float()
        total += float(F.cross_entropy(answers, truth, ignore_index=NO_CLASS, reduction="sum"))
        known = truth != NO_CLASS
        confusion += confusion_matrix(truth[known].cpu().numpy(), answers.argmax(dim=1)[known].cpu().numpy(), classes)
    return float(goal.figure(confusion)), total / int(confusion.sum())


def _resume(module: nn.Module, optimizer: AdamW, folder: Path) -> Mapping[str, Any]:
    found = newest_checkpoint(folder / CHECKPOINTS)
    if found is None:
        return {"epoch": 0, "step": 0, "since": 0, "best": None}
    path, content = found
    module.load_state_dict(content["module"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("going on after epoch %d (%s)", content["epoch"], path)
    return {name: content[name] for name in ("epoch", "step", "since", "best")}


# FOLDED training/eo_backbones_train/finetuning/fit.py: 'What a fine-tuning works with, whatever its task.'

PREDICTIONS_FILE = "predictions.csv"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class OpenedData:
    """The user's images, opened.

    Attributes:
        images: the files with their classes.
        bands: canonical names of the bands to use, one a channel.
        mask_values: value of each class in the masks; empty for classification.
    """

    images: LabelledImages
    bands: tuple[str, ...]
    mask_values: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Work:
    """One fine-tuning, ready to begin.

    Attributes:
        network: on its device, frozen as the mode says.
        images: what it gets.
        split: which of them train, validate and test.
        settings: all else that decides the result.
        run: folder of the run.
        tensorboard: also write TensorBoard events.
        progress: is told how it is getting on.
    """

    network: nn.Module
    images: OwnImages
    split: Split
    settings: Settings
    run: Path
    tensorboard: bool
    progress: Progress


class Approach(Protocol):
    """What classification and segmentation do differently: a module with these functions."""

    def open_data(self, path: Path, bands: list[str], units: list[str]) -> OpenedData:
        """Open ``--data``, or say what is wrong with it."""

    def size(self, images: LabelledImages, asked: int | None) -> int:
        """Return the side of the images that a network is trained on: as asked for, or the default."""

    def check(self, split: Split, settings: Settings) -> None:
        """Refuse settings that these many images do not allow."""

    def train(self, work: Work) -> Fitted:
        """Train the network; it ends with the weights of the best epoch."""

    def judge(self, work: Work, folder: Path) -> dict[str, Any]:
        """Return the figures of validation and test images; write answers into the run, a picture into ``folder``."""
