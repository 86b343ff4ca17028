"""What a step does around its computation. The computation itself: test_loop.py."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from eo_backbones_train.optim import build_optimizer
from eo_backbones_train.pretraining.step import Snapshot
from support.tiny_run import build_tiny, tiny_recipe


def take_steps(method: nn.Module, optimizer: Optimizer, count: int, *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        method(torch.rand(2, 4, 1, 32, 32, generator=generator)).loss.backward()
        optimizer.step()
        method.update_target(torch.tensor(0.9))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
@pytest.mark.parametrize("before", [0, 2])
def test_the_warm_up_of_a_graph_leaves_no_trace(name: str, before: int) -> None:
    """Steps, restore, steps: as if the first had not been taken, also for an optimiser that had no state yet."""
    recipe = tiny_recipe()
    recipe = replace(recipe, optim=replace(recipe.optim, name=name))
    torch.manual_seed(0)
    method = build_tiny(recipe)
    optimizer = build_optimizer(method, recipe, fused=True, capturable=False)
    take_steps(method, optimizer, before, seed=1)
    twin, twin_optimizer = deepcopy((method, optimizer))
    addresses = {key: value.data_ptr() for key, value in method.state_dict().items()}

    snapshot = Snapshot(method, optimizer)
    take_steps(method, optimizer, 3, seed=2)
    snapshot.restore()
    assert {key: value.data_ptr() for key, value in method.state_dict().items()} == addresses

    take_steps(method, optimizer, 3, seed=3)
    take_steps(twin, twin_optimizer, 3, seed=3)
    for key, value in twin.state_dict().items():
        assert torch.equal(method.state_dict()[key], value), key
