"""One of two processes of the data-parallel test; a module of its own, because spawned processes import it."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from eo_backbones_train.methods.build import build_method
from eo_backbones_train.optim import build_optimizer
from eo_backbones_train.recipes.recipe import Recipe
from support.tiny_networks import TinyResidual, tiny_views

STEPS = 3
PAIRS = 8


def move_target(method: nn.Module) -> None:
    """What follows an optimiser step, where the method has a target."""
    if hasattr(method, "update_target"):
        method.update_target(torch.tensor(0.9, dtype=torch.float64))


def train_one_rank(rank: int, folder: Path, recipes: Mapping[str, Recipe]) -> None:
    """Train on half of each global batch under gloo; write the state of this rank for each recipe."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    share = slice(rank * PAIRS // 2, (rank + 1) * PAIRS // 2)
    for name, recipe in recipes.items():
        torch.manual_seed(rank)  # different weights: rank 0's must win
        method = build_method(recipe, TinyResidual()).double()
        parallel = DistributedDataParallel(method, broadcast_buffers=False)
        optimizer = build_optimizer(method, recipe, fused=False, capturable=False)
        for step in range(STEPS):
            optimizer.zero_grad()
            parallel(tiny_views(pairs=PAIRS, seed=step)[:, share]).loss.backward()
            optimizer.step()
            move_target(method)
        torch.save(method.state_dict(), folder / f"{name}-rank{rank}.pt")
    dist.destroy_process_group()
