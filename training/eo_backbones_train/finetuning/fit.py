"""The epochs of a fine-tuning: AdamW, warm-up and cosine, early stopping, a checkpoint after each epoch.

Order and views follow from (seed, epoch) and (seed, step), and nothing else draws random numbers, so a run that was
killed goes on from its last epoch as if nothing had happened, bit for bit on the same kind of machine.

:class:`Approach` is what a task (:mod:`~eo_backbones_train.finetuning.classification`,
:mod:`~eo_backbones_train.finetuning.segmentation`) adds to this.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

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
from eo_backbones.rasters.options import ReadingOptions
from eo_backbones_train.finetuning.images import OwnImages
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.optim import learning_rate
from eo_backbones_train.pretraining.checkpoint import newest_checkpoint, save_checkpoint
from eo_backbones_train.pretraining.runlog import RunLog
from eo_backbones_train.pretraining.stops import SIGNAL_STATUS, RunStopped, StopSignals
from eo_backbones_train.tracking.logger import Tracking

CHECKPOINTS = "checkpoints"
PREDICTIONS_FILE = "predictions.csv"
NO_CLASS = -100
"""Class number of what counts neither in the loss nor in a metric; no class has it."""

_WARM_UP = 0.05  # of all steps
_BN_BATCHES = 8  # that BatchNorm statistics are recomputed from

logger = logging.getLogger(__name__)

Batches = Callable[[np.ndarray, int], Iterator[tuple[Tensor, Tensor]]]
"""Rows of images and batch size -> (inputs of the module, targets), in order, on the module's device.

Targets are class numbers, int64 ``(batch,)``, or ``(batch, height, width)`` with :data:`NO_CLASS` where there is none.
"""


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
class FinetuneContext:
    """One fine-tuning, ready to begin.

    Attributes:
        network: on its device, frozen as the mode says.
        images: its inputs.
        split: which of them train, validate and test.
        settings: all else that decides the result.
        run: folder of the run.
        tracking: where curves go.
        progress: where progress is reported.
    """

    network: nn.Module
    images: OwnImages
    split: Split
    settings: Settings
    run: Path
    tracking: Tracking
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How a training went: the epoch (from 1) whose weights were kept, and how many there were."""

    best_epoch: int
    epochs: int


class Approach(Protocol):
    """What classification and segmentation do differently: a module with these functions."""

    def open_data(self, path: Path, bands: list[str], reading: ReadingOptions) -> OpenedData:
        """Open ``--data``, or say what is wrong with it."""

    def training_size(self, images: LabelledImages, requested: int | None) -> int:
        """Return the side in pixels of the images that a network is trained on: as requested, or the default."""

    def check(self, split: Split, settings: Settings) -> None:
        """Refuse settings that these many images do not allow."""

    def train(self, context: FinetuneContext) -> FitResult:
        """Train the network; it ends with the weights of the best epoch."""

    def evaluate(self, context: FinetuneContext, folder: Path) -> dict[str, Any]:
        """Return the metrics of validation and test images; write predictions to the run, a picture to ``folder``."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Learner:
    """What is trained, and on what.

    Attributes:
        module: from the inputs of ``batches`` to logits, classes in the second dimension.
        groups: for AdamW, with ``lr_scale``.
        batches: see :data:`Batches`.
        augment: (inputs, targets, step) -> the same, in training only.
        to_train_mode: called before an epoch.
        recomputed_bn: BatchNorm layers whose statistics are recomputed before each validation: those of a decoder that
            starts from scratch change faster than their running mean follows, which with a handful of images is many
            epochs ("precise BN": Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021).
    """

    module: nn.Module
    groups: list[dict[str, Any]]
    batches: Batches
    augment: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
    to_train_mode: Callable[[], object]
    recomputed_bn: Sequence[nn.BatchNorm2d] = ()


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Goal:
    """What a module is trained for.

    Attributes:
        class_weights: how much each class counts in the loss, float32 ``(classes,)``.
        metric: confusion matrix of the validation images -> what decides which epoch is kept; more is better.
        name: of the metric, in the log.
        eval_batch_size: validation images a batch.
    """

    class_weights: Tensor
    metric: Callable[[Counts], Floats]
    name: str
    eval_batch_size: int


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class BestEpoch:
    """The epoch (from 1) with the best validation so far: its metric and loss, and the module's state after it."""

    epoch: int
    metric: float
    loss: float
    module: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class FitState:
    """How far a training has come, besides module and optimiser.

    Attributes:
        epoch, step: how many are done.
        epochs_since_best: epochs done since validation was best.
        best: ``None`` before the first validation.
    """

    epoch: int = 0
    step: int = 0
    epochs_since_best: int = 0
    best: BestEpoch | None = None

    def after_epoch(self, step: int, metric: float, loss: float, module: nn.Module) -> Self:
        """Return the state after one more epoch, which ended at ``step`` with these validation results."""
        epoch, best = self.epoch + 1, self.best
        better = best is None or (metric, -loss) > (best.metric, -best.loss)
        if better:
            weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            best = BestEpoch(epoch=epoch, metric=metric, loss=loss, module=weights)
        since = 0 if better else self.epochs_since_best + 1
        return replace(self, epoch=epoch, step=step, epochs_since_best=since, best=best)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return the entries of a checkpoint; their names are part of its format."""
        assert self.best is not None, "a checkpoint is written after an epoch"
        best = {
            "figure": self.best.metric,
            "loss": self.best.loss,
            "epoch": self.best.epoch,
            "module": self.best.module,
        }
        return {"epoch": self.epoch, "step": self.step, "since": self.epochs_since_best, "best": best}

    @classmethod
    def from_checkpoint(cls, content: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_checkpoint` wrote."""
        saved = content["best"]
        best = BestEpoch(epoch=saved["epoch"], metric=saved["figure"], loss=saved["loss"], module=saved["module"])
        return cls(epoch=content["epoch"], step=content["step"], epochs_since_best=content["since"], best=best)


def fit(
    learner: Learner,
    goal: Goal,
    split: Split,
    settings: Settings,
    *,
    folder: Path,
    tracking: Tracking,
    tick: Tick,
) -> FitResult:
    """Train until the validation images stop getting better; the module ends with the best epoch's weights.

    Args:
        learner: what is trained.
        goal: what for.
        split: rows of the images; ``test`` is not used.
        settings: see :class:`Settings`.
        folder: for checkpoints and log; a run that is in it goes on.
        tracking: where curves go.
        tick: called after each epoch.

    Raises:
        UserError: the loss is not finite, the disk is full, or a logger cannot be opened.
        RunStopped: by Ctrl-C or SIGTERM.
    """
    size = batch_size(len(split.train), settings.batch)
    total = settings.epochs * math.ceil(len(split.train) / size)
    optimizer = AdamW(learner.groups, lr=settings.learning_rate, fused=True)
    weights = goal.class_weights.to(next(learner.module.parameters()).device)
    state = _resume(learner.module, optimizer, folder)
    tick(state.epoch)
    with StopSignals() as stop, RunLog(folder, step=state.step, tracking=tracking) as log:
        while state.epoch < settings.epochs and state.epochs_since_best < settings.patience:
            epoch, step, losses = state.epoch, state.step, []
            order = split.train[np.random.default_rng([settings.seed, epoch]).permutation(len(split.train))]
            learner.to_train_mode()
            for batch in learner.batches(order, size):
                if stop.received is not None:
                    raise RunStopped(
                        f"stopped after {epoch} of {settings.epochs} epochs; the same command with --resume goes on",
                        exit_status=SIGNAL_STATUS + stop.received,
                    )
                _set_rates(optimizer, step, total, peak=settings.learning_rate)
                inputs, targets = learner.augment(*batch, step)
                loss = weighted_cross_entropy(learner.module(inputs), targets, weights)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
                step += 1
            loss_mean = float(torch.stack(losses).mean())
            if not math.isfinite(loss_mean):
                raise UserError(f"the loss is {loss_mean} in epoch {epoch + 1}; pass a smaller --lr")
            recompute_bn_statistics(learner, order[: _BN_BATCHES * size], size, state.step)
            metric, val_loss = _validate(learner, goal, split.val)
            state = state.after_epoch(step, metric, val_loss, learner.module)
            entry = {"step": step, "loss": loss_mean, "val_loss": val_loss, f"val_{goal.name}": metric}
            log.write({**entry, "epoch": state.epoch})
            resumable = {"module": learner.module.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(folder / CHECKPOINTS, step, state.to_checkpoint() | resumable)
            logger.info(
                "epoch %d: loss %.4f, validation %s %.4f%s",
                state.epoch,
                loss_mean,
                goal.name,
                metric,
                "" if state.epochs_since_best else " *",
            )
            tick(1)
        log.sync()
    assert state.best is not None, "there is at least one epoch"
    learner.module.load_state_dict(state.best.module)
    return FitResult(best_epoch=state.best.epoch, epochs=state.epoch)


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


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the cross-entropy, 0 where nothing has a class."""
    total = F.cross_entropy(logits, targets, weight=weights, ignore_index=NO_CLASS, reduction="sum")
    known = targets[targets != NO_CLASS]
    return total / weights[known].sum().clamp_min(torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def recompute_bn_statistics(learner: Learner, rows: np.ndarray, size: int, step: int) -> None:
    """Replace the statistics of ``learner.recomputed_bn`` by their mean over batches of rows.

    The batches are augmented as the training steps from ``step`` on.
    """
    if not learner.recomputed_bn:
        return
    with estimating_batch_norm(learner.recomputed_bn):
        for number, batch in enumerate(learner.batches(rows, size)):
            inputs, _ = learner.augment(*batch, step + number)
            learner.module(inputs)


@torch.no_grad()
def _validate(learner: Learner, goal: Goal, rows: np.ndarray) -> tuple[float, float]:
    """Return metric and cross-entropy of the validation images."""
    learner.module.eval()
    classes = len(goal.class_weights)
    confusion = np.zeros((classes, classes), np.int64)
    total = 0.0
    for inputs, targets in learner.batches(rows, goal.eval_batch_size):
        logits = learner.module(inputs).float()
        total += float(F.cross_entropy(logits, targets, ignore_index=NO_CLASS, reduction="sum"))
        known = targets != NO_CLASS
        predicted = logits.argmax(dim=1)
        confusion += confusion_matrix(targets[known].cpu().numpy(), predicted[known].cpu().numpy(), classes)
    return float(goal.metric(confusion)), total / int(confusion.sum())


def _set_rates(optimizer: AdamW, step: int, total: int, *, peak: float) -> None:
    warm_up = max(1, round(_WARM_UP * total))
    rate = learning_rate(step, peak=peak, schedule="cosine", total_steps=total, warmup_steps=warm_up)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def _resume(module: nn.Module, optimizer: AdamW, folder: Path) -> FitState:
    """Load the newest checkpoint of a run, if there is one."""
    found = newest_checkpoint(folder / CHECKPOINTS)
    if found is None:
        return FitState()
    path, content = found
    module.load_state_dict(content["module"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("going on after epoch %d (%s)", content["epoch"], path)
    return FitState.from_checkpoint(content)
