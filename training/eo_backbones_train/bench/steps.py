"""The training steps that bench compares: ours in four variants, and two of lightly's parts, on the same tiles."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from eo_backbones_train.loader import Batch
from eo_backbones_train.methods import build_method
from eo_backbones_train.optim import build_optimizer, peak_learning_rate
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.recipes import get_recipe
from eo_backbones_train.run.run_options import Machine
from eo_backbones_train.run.step import StepResult, TrainStep
from eo_backbones_train.views import draw_view_params, make_views

# The paper's BYOL on SEN12MS: Adam, and heads as in BYOL and in lightly's defaults.
_PAPER = get_recipe("byol-sen12ms-90k")
_JOINT = replace(_PAPER, loss="symmetric", model=replace(_PAPER.model, batch_norm="joint"))

VARIANTS: Mapping[str, Recipe] = MappingProxyType(
    {
        "joint": _JOINT,
        "separate": replace(_PAPER, loss="symmetric"),
        "one_directional": _PAPER,
        "simsiam": replace(_JOINT, method="simsiam", target=None),
    }
)
"""BYOL symmetric in joint passes, the same in separate passes, the paper's one-directional, SimSiam like the first.

They differ in nothing else, so that their times can be compared.
"""


class RunningStep:
    """The step of a recipe with fresh weights, built as a run builds it (:mod:`eo_backbones_train.run.loop`)."""

    def __init__(self, recipe: Recipe, machine: Machine, device: torch.device) -> None:
        """Build method and optimiser."""
        method = build_method(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(method, recipe, fused=True, capturable=device.type == "cuda")
        self._step = TrainStep(method, method, optimizer, size_px=recipe.views.size_px, machine=machine)
        self._rates = [peak_learning_rate(recipe)] * len(optimizer.param_groups)
        self._decay = recipe.target.decay if recipe.target is not None else None

    def __call__(self, batch: Batch, params: Tensor) -> StepResult:
        """Train on a batch with these view parameters."""
        return self._step(batch, params, rates=self._rates, decay=self._decay)


def resized(recipe: Recipe, *, size_px: int, pairs: int) -> Recipe:
    """Return the recipe with other views and another batch."""
    return replace(recipe, views=replace(recipe.views, size_px=size_px), global_batch=pairs)


def has_lightly() -> bool:
    """Whether the reference can be measured."""
    return find_spec("lightly") is not None


def steps_on(batch: Batch, *, size_px: int, machine: Machine, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return all steps, each ready to be called any number of times on the same batch.

    Args:
        batch: the tiles.
        size_px: side of the views.
        machine: settings of our steps.
        device: where the batch is.

    Returns:
        The keys of :data:`VARIANTS`, and with lightly also ``"lightly"`` (symmetric) and ``"lightly_one_directional"``.
    """
    pairs = batch.codes.shape[1]
    params = draw_view_params(_PAPER.views, seed=0, step=0, global_batch=pairs)

    def ours(recipe: Recipe) -> Callable[[], object]:
        step = RunningStep(resized(recipe, size_px=size_px, pairs=pairs), machine, device)
        return lambda: step(batch, params)

    steps = {name: ours(recipe) for name, recipe in VARIANTS.items()}
    if not has_lightly():
        return steps
    from eo_backbones_train.bench.lightly_step import lightly_step  # noqa: PLC0415 -- a dev dependency

    def theirs(loss: Literal["symmetric", "one-directional"]) -> Callable[[], object]:
        train = lightly_step(_PAPER, loss, device)
        return lambda: train(views_of(batch, params.to(device), size_px))

    return steps | {"lightly": theirs("symmetric"), "lightly_one_directional": theirs("one-directional")}


def views_of(batch: Batch, params: Tensor, size_px: int) -> Tensor:
    """Return the views [2, B, 1, size, size] of a batch."""
    return make_views(batch.codes, batch.extent, batch.decode, params, size_px)
