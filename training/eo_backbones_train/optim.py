"""From a recipe to an optimiser: parameter groups, peak rate, and the rate of each group at each step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from eo_backbones_train.recipe import REFERENCE_BATCH, Recipe
from eo_backbones_train.schedules import learning_rate

_ADAM_BETA2 = 0.999  # Adam's second moment, as in its paper and torch's default


def peak_learning_rate(recipe: Recipe) -> float:
    """Return the learning rate at the end of the warm-up, scaled with the global batch where the recipe says so."""
    scale = recipe.global_batch / REFERENCE_BATCH if recipe.optim.scale_lr else 1.0
    return recipe.optim.base_lr * scale


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Split the trainable parameters by weight decay and by learning-rate schedule.

    Args:
        module: BYOL or SimSiam; its predictor is named ``predictor``.
        recipe: says whether biases and BatchNorm decay, and whether the predictor's rate is fixed.

    Returns:
        Up to four groups for ``torch.optim``, each with ``params``, ``weight_decay`` and ``fixed_lr``. Parameters
        without gradient (BYOL's target) are in none. The order depends on the module only.
    """
    optim = recipe.optim
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            # Biases and BatchNorm's scales and offsets are the vectors among the parameters.
            decays = optim.decay_norm_and_bias or parameter.ndim > 1
            fixed = optim.fixed_predictor_lr and name.startswith("predictor.")
            groups.setdefault((decays, fixed), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": optim.weight_decay if decays else 0.0, "fixed_lr": fixed}
        for (decays, fixed), parameters in groups.items()
    ]


def build_optimizer(module: nn.Module, recipe: Recipe, *, fused: bool, capturable: bool) -> Optimizer:
    """Return the recipe's optimiser over the trainable parameters.

    Args:
        module: BYOL or SimSiam, already on its device.
        recipe: the values.
        fused: one kernel for all parameters (machine setting).
        capturable: for a CUDA graph: step counts and the learning rate of each group are tensors on the device, to be
            filled before a replay.
    """
    optim, groups = recipe.optim, parameter_groups(module, recipe)
    peak = peak_learning_rate(recipe)
    device = next(module.parameters()).device
    for group in groups:
        group["lr"] = torch.tensor(peak, device=device) if capturable else peak
    initial: float | Tensor = groups[0]["lr"]
    if optim.name == "sgd":  # keeps no step count, so nothing else has to be capturable
        return SGD(groups, lr=initial, momentum=optim.momentum, fused=fused)
    kind: type[Adam] = AdamW if optim.name == "adamw" else Adam
    return kind(groups, lr=initial, betas=(optim.momentum, _ADAM_BETA2), fused=fused, capturable=capturable)


def learning_rates(
    recipe: Recipe, groups: Sequence[dict[str, Any]], step: int, *, steps_per_epoch: int
) -> tuple[float, ...]:
    """Return the learning rate of each parameter group at a step.

    Args:
        recipe: the schedule.
        groups: ``optimizer.param_groups``.
        step: counted from 0 over the whole training.
        steps_per_epoch: full batches in one pass over the scenes.
    """
    peak = peak_learning_rate(recipe)
    scheduled = learning_rate(
        step,
        peak=peak,
        schedule=recipe.optim.schedule,
        total_steps=recipe.epochs * steps_per_epoch,
        warmup_steps=recipe.optim.warmup_epochs * steps_per_epoch,
    )
    return tuple(peak if group["fixed_lr"] else scheduled for group in groups)
