"""Two data-parallel processes equal one that runs the halves as separate passes and averages gradients."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from eo_backbones.networks.initialisation import STAGES
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.optim import build_optimizer
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from support.ddp_worker import PAIRS, STEPS, move_target, train_one_rank
from support.tiny_networks import TinyResidual, tiny_views


def variant(name: str, loss: str, batch_norm: str) -> Recipe:
    base = smoke(get_recipe(name))
    # TinyResidual has no stages of a ResNet50: all of it is trained
    model = replace(base.model, batch_norm=batch_norm, trained_stages=STAGES)  # type: ignore[arg-type]
    return replace(base, loss=loss, model=model)  # type: ignore[arg-type]


RECIPES = {
    "byol-joint": variant("byol-mini", "symmetric", "joint"),
    "byol-one-direction": variant("byol-dfc2020", "one-directional", "separate"),
    "simsiam-separate": variant("simsiam-full", "symmetric", "separate"),
    "simsiam-one-direction": variant("simsiam-dfc2020", "one-directional", "separate"),
}


@pytest.fixture(scope="module")
def trained_in_two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    mp.spawn(train_one_rank, args=(folder, RECIPES), nprocs=2)  # type: ignore[no-untyped-call]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_equal_one_that_averages_the_halves(trained_in_two_processes: Path, name: str) -> None:
    ranks = [torch.load(trained_in_two_processes / f"{name}-rank{rank}.pt") for rank in (0, 1)]
    torch.manual_seed(0)
    method = build_method(RECIPES[name], TinyResidual()).double()
    optimizer = build_optimizer(method, RECIPES[name], fused=False, capturable=False)
    for step in range(STEPS):
        optimizer.zero_grad()
        for half in tiny_views(pairs=PAIRS, seed=step).chunk(2, dim=1):
            (method(half).loss / 2).backward()
        optimizer.step()
        move_target(method)

    for key, parameter in method.named_parameters():
        torch.testing.assert_close(ranks[0][key], parameter.detach(), rtol=0, atol=1e-6)
        assert torch.equal(ranks[0][key], ranks[1][key]), f"{key} differs between the ranks"
    statistics = "encoder.stem.1.running_mean"
    assert not torch.equal(ranks[0][statistics], ranks[1][statistics]), "buffers are each rank's own"
