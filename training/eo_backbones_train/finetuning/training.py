"""The epochs of a fine-tuning: AdamW, warm-up and cosine, early stopping, a checkpoint after each epoch.

Order and views follow from (seed, epoch) and (seed, step), and nothing else draws random numbers, so a run that was
killed goes on from its last epoch as if nothing had happened, bit for bit on the same kind of machine.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from eo_backbones.datasets.splits import Split
from eo_backbones.errors import UserError
from eo_backbones.evaluation.metrics import confusion_matrix, weighted_f1
from eo_backbones_train.finetuning.settings import Settings
from eo_backbones_train.run.checkpoint import newest_checkpoint, save_checkpoint
from eo_backbones_train.run.runlog import RunLog
from eo_backbones_train.run.stops import SIGNAL_STATUS, RunStopped, StopSignals
from eo_backbones_train.schedules import learning_rate

_WARM_UP = 0.05  # of all steps
CHECKPOINTS = "checkpoints"

logger = logging.getLogger(__name__)

Inputs = Callable[[np.ndarray, int], Iterator[tuple[int, Tensor]]]
"""Images and batch size -> (position, what the module gets), in order."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Learner:
    """What is trained, and on what.

    Attributes:
        module: from what ``inputs`` yields to logits.
        groups: for AdamW, with ``lr_scale``.
        inputs: see :data:`Inputs`.
        augment: (inputs, step) -> inputs, in training only.
        to_train_mode: before an epoch.
    """

    module: nn.Module
    groups: list[dict[str, Any]]
    inputs: Inputs
    augment: Callable[[Tensor, int], Tensor]
    to_train_mode: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """How a training went: the epoch (from 1) whose weights were kept, and how many there were."""

    best_epoch: int
    epochs: int
    val_f1: float


def fit(
    learner: Learner,
    labels: np.ndarray,
    split: Split,
    settings: Settings,
    *,
    num_classes: int,
    folder: Path,
    tensorboard: bool,
    tick: Callable[[int], None],
) -> Fitted:
    """Train until the validation images stop getting better; the module ends with the best epoch's weights.

    Args:
        learner: what is trained.
        labels: class of every image, int64 ``(n,)``.
        split: rows of ``labels``; ``test`` is not looked at.
        settings: see :class:`Settings`.
        num_classes: how many classes there are.
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
    optimizer = AdamW(learner.groups, lr=settings.learning_rate)
    weights = class_weights(labels[split.train], num_classes, settings).to(device)
    progress = _resume(learner.module, optimizer, folder)
    tick(progress["epoch"])
    with StopSignals() as stop, RunLog(folder, step=progress["step"], tensorboard=tensorboard) as log:
        while progress["epoch"] < settings.epochs and progress["since"] < settings.patience:
            epoch, step, losses = progress["epoch"], progress["step"], []
            order = split.train[np.random.default_rng([settings.seed, epoch]).permutation(len(split.train))]
            learner.to_train_mode()
            for start, inputs in learner.inputs(order, size):
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
                answers = learner.module(learner.augment(inputs, step))
                truth = torch.from_numpy(labels[order[start : start + len(inputs)]]).to(device)
                loss = F.cross_entropy(answers, truth, weight=weights)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.detach())
                step += 1
            loss_mean = float(torch.stack(losses).mean())
            if not math.isfinite(loss_mean):
                raise UserError(f"the loss is {loss_mean} in epoch {epoch + 1}; pass a smaller --lr")
            f1, val_loss = _validate(learner, labels, split.val, num_classes, size)
            log.write({"step": step, "loss": loss_mean, "val_loss": val_loss, "val_f1": f1, "epoch": epoch + 1})
            best = progress["best"]
            better = best is None or (f1, -val_loss) > (best["f1"], -best["loss"])
            if better:
                state = {name: tensor.detach().clone() for name, tensor in learner.module.state_dict().items()}
                best = {"f1": f1, "loss": val_loss, "epoch": epoch + 1, "module": state}
            progress = {
                "epoch": epoch + 1,
                "step": step,
                "since": 0 if better else progress["since"] + 1,
                "best": best,
            }
            state = {"module": learner.module.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(folder / CHECKPOINTS, step, progress | state)
            logger.info("epoch %d: loss %.4f, validation F1 %.4f%s", epoch + 1, loss_mean, f1, " *" if better else "")
            tick(1)
        log.sync()
    best = progress["best"]
    learner.module.load_state_dict(best["module"])
    return Fitted(best_epoch=best["epoch"], epochs=progress["epoch"], val_f1=best["f1"])


def batch_size(images: int, largest: int) -> int:
    """Return images a step: as asked for, or a few more, so that none is left alone for BatchNorm in the last step."""
    size = min(largest, images)
    while images > size and images % size == 1:
        size += 1
    return size


def class_weights(labels: np.ndarray, num_classes: int, settings: Settings) -> Tensor:
    """Return how much an image of each class counts in the loss, float32 ``(classes,)``; 1 on average over images."""
    if settings.class_weights == "none":
        return torch.ones(num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return torch.from_numpy(len(labels) / (num_classes * counts)).float()


@torch.no_grad()
def logits(module: nn.Module, inputs: Inputs, rows: np.ndarray, size: int) -> Tensor:
    """Return the module's answers for rows, in eval mode, ``(len(rows), classes)`` on the CPU."""
    module.eval()
    return torch.cat([module(batch).float().cpu() for _, batch in inputs(rows, size)])


def _validate(
    learner: Learner, labels: np.ndarray, rows: np.ndarray, num_classes: int, size: int
) -> tuple[float, float]:
    answers = logits(learner.module, learner.inputs, rows, size)
    truth = labels[rows]
    confusion = confusion_matrix(truth, answers.argmax(dim=1).numpy(), num_classes)
    return float(weighted_f1(confusion)), float(F.cross_entropy(answers, torch.from_numpy(truth)))


def _resume(module: nn.Module, optimizer: AdamW, folder: Path) -> Mapping[str, Any]:
    found = newest_checkpoint(folder / CHECKPOINTS)
    if found is None:
        return {"epoch": 0, "step": 0, "since": 0, "best": None}
    path, content = found
    module.load_state_dict(content["module"])
    optimizer.load_state_dict(content["optimizer"])
    logger.info("going on after epoch %d (%s)", content["epoch"], path)
    return {name: content[name] for name in ("epoch", "step", "since", "best")}
