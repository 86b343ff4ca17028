"""From a recipe to its optimiser, and to learning rate and moving-average decay at every step.

The schedules are pure functions of the step number, which counts from 0; a value is the one that this step uses.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from eo_backbones.errors import UserError
from eo_backbones_train.recipes.recipe import REFERENCE_BATCH, Recipe

Schedule = Literal["constant", "cosine"]

_ADAM_BETA2 = 0.999  # Adam's second moment, as in its paper and torch's default


def learning_rate(step: int, *, peak: float, schedule: Schedule, total_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up, then constant or half a cosine down to 0.

    As in BYOL (Grill et al., arXiv 2006.07733, section 3.2) and SimSiam, but the warm-up counts from 1, so that the
    first step is not lost to a rate of 0. If training is shorter than the warm-up, the peak is never reached.

    Args:
        step: 0 to ``total_steps`` - 1.
        peak: the rate at the end of the warm-up.
        schedule: what follows the warm-up.
        total_steps: steps of the whole training, warm-up included.
        warmup_steps: steps of the warm-up; 0 for none.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def target_decay(step: int, *, base: float, schedule: Schedule, total_steps: int) -> float:
    """Return the decay of BYOL's moving average after a step.

    ``"cosine"`` is ``1 - (1 - base) * (cos(pi * k / K) + 1) / 2`` (BYOL, section 3.2): ``base`` at k = 0, 1 at k = K.

    Args:
        step: k, 0 to ``total_steps``.
        base: the decay at the start.
        schedule: ``"constant"`` keeps ``base``.
        total_steps: K.
    """
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * step / total_steps) + 1) / 2


def peak_learning_rate(recipe: Recipe) -> float:
    """Return the learning rate at the end of the warm-up, scaled with the global batch where the recipe says so."""
    scale = recipe.global_batch / REFERENCE_BATCH if recipe.optim.scale_lr else 1.0
    return recipe.optim.base_lr * scale


def parameter_groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Split the trainable parameters by weight decay and by learning-rate schedule.

    Args:
        module: BYOL or SimSiam; its predictor is named ``predictor``.
        recipe: decides whether biases and BatchNorm decay, and whether the predictor's rate is fixed.

    Returns:
        Up to four groups for ``torch.optim``, each with ``params``, ``weight_decay`` and ``fixed_lr``. Parameters
        without gradient (BYOL's target) are in none of them. The order depends on the module only.
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
        capturable: for a CUDA graph: step counts and the learning rate of each group are tensors on the device, which
            are filled before a replay.

    Raises:
        UserError: LARS in a CUDA graph.
    """
    if recipe.optim.name == "lars" and capturable:
        raise UserError("optim.name=lars has not been tried in a CUDA graph; add --no-graph")
    optim, groups = recipe.optim, parameter_groups(module, recipe)
    peak = peak_learning_rate(recipe)
    device = next(module.parameters()).device
    for group in groups:
        group["lr"] = torch.tensor(peak, device=device) if capturable else peak
    initial: float | Tensor = groups[0]["lr"]
    if optim.name == "sgd":  # keeps no step count, so nothing else has to be capturable
        return SGD(groups, lr=initial, momentum=optim.momentum, fused=fused)
    if optim.name == "lars":  # has no fused kernel
        lars: Optimizer = Lars(groups, lr=initial, momentum=optim.momentum)
        return lars
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
