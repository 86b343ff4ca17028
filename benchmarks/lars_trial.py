"""LARS (timm's) in place of AdamW in ``byol-full``, on small data with a small network.

    python benchmarks/lars_trial.py STORE DIR OUT [--arms NAME...] [--seeds N...] [--epochs N]

STORE as ``training/README.md`` prepares OMBRIA ("Small data of your own"), DIR holds EuroSAT RGB, OUT gets the runs and
``results.csv``. Each arm is ``byol-full`` with the changes of ``_SMALL`` and one optimiser; scores as
``mini_validation.py`` gives them. What is in OUT already is not done again.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mini_validation import scores
from rich import print as show
from rich.table import Table
from timm.optim import Lars
from torch import nn
from torch.optim import Optimizer

from eo_backbones_train.export import export
from eo_backbones_train.optim import build_optimizer, parameter_groups, peak_learning_rate
from eo_backbones_train.pretraining import loop
from eo_backbones_train.pretraining.run_options import RunOptions
from eo_backbones_train.recipes.published import get_recipe
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import override

_SMALL = (
    "model.architecture=test_resnet",
    "model.projector_hidden=512",
    "model.predictor_hidden=512",
    "model.projector_out=128",
    "views.size_px=32",
    "views.crop_scale=0.0156,0.25",
    "global_batch=512",
    "optim.warmup_epochs=4",
)
_LARS = ("optim.weight_decay=1e-6", "optim.momentum=0.9")  # deepmind-research byol/configs/byol.py
ARMS: Mapping[str, tuple[str, ...]] = {
    "adamw 1.5e-4": (),  # the recipe's
    "adamw 1e-3": ("optim.base_lr=0.001",),
    "lars 0.45": (*_LARS, "optim.base_lr=0.45"),  # BYOL's preset for 100 epochs
    "lars 1.5": (*_LARS, "optim.base_lr=1.5"),
}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args()
    table = Table("arm", "seed", "B02", "B03", "B04", "mean")
    for seed in options.seeds:
        for arm in options.arms:
            folder = options.out / f"{arm.replace(' ', '-')}-seed{seed}"
            if not (folder / "config.json").exists():
                settings = (*_SMALL, *ARMS[arm], f"seed={seed}", f"epochs={options.epochs}")
                run = folder.with_name(f"{folder.name}-run")
                train(override(get_recipe("byol-full"), settings), options.store, run, lars=arm.startswith("lars"))
                export(run, folder)
            found = scores(options.root, options.out, f"local-dir:{folder}")
            mean = sum(found.values()) / len(found)
            table.add_row(arm, str(seed), *(f"{found[band]:.3f}" for band in found), f"{mean:.3f}")
    show(table)


def train(recipe: Recipe, store: Path, run: Path, *, lars: bool) -> None:
    """Pretrain one arm, or resume it."""
    options = RunOptions(
        store=store, out=run, resume=True, device="cpu", threads=1, tensorboard=False, stop_on_collapse=False
    )
    with patch.object(loop, "build_optimizer", lars_over if lars else build_optimizer):
        loop.train(recipe, options)


def lars_over(module: nn.Module, recipe: Recipe, **_: Any) -> Optimizer:
    """Return timm's LARS; biases and BatchNorm have no weight decay, so that it does not adapt their rates either."""
    groups = [group | {"lr": peak_learning_rate(recipe)} for group in parameter_groups(module, recipe)]
    made: Optimizer = Lars(groups, lr=groups[0]["lr"], momentum=recipe.optim.momentum)
    return made


if __name__ == "__main__":
    main()
