"""Runs small enough for a test: a synthetic store, a recipe of few steps, an encoder of two convolutions.

Also a program, for tests that start and kill real processes:
``python -m support.tiny_run STORE OUT [key=value of RunOptions ...]``.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from eo_backbones.datasets.synthetic_files import write_pairs
from eo_backbones.networks.initialisation import STAGES
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.pretraining.loop import train
from eo_backbones_train.pretraining.run_options import RunOptions
from eo_backbones_train.pretraining.stops import RunStopped
from eo_backbones_train.recipes.published import get_recipe, smoke
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.store.prepare import prepare

SCENES = 16
BATCH = 8
STEPS_PER_EPOCH = SCENES // BATCH


class TinyEncoder(nn.Module):
    """Two convolutions with BatchNorm and a pooled output of 16 features."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=4, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


def build_tiny(recipe: Recipe) -> nn.Module:
    """What ``train(build=...)`` takes. The encoder has no stages, so all of it is trained."""
    whole = replace(recipe, model=replace(recipe.model, trained_stages=STAGES))
    return build_method(whole, TinyEncoder())


def tiny_recipe(name: str = "byol-mini", *, epochs: int = 6, **changes: object) -> Recipe:
    """A recipe of ``epochs * STEPS_PER_EPOCH`` steps whose rate and decay change at every step."""
    recipe = smoke(get_recipe(name))
    return replace(
        recipe,
        epochs=epochs,
        global_batch=BATCH,
        # A rate of its own: what is compared to 1e-6 must not depend on how the recipe is tuned.
        optim=replace(recipe.optim, base_lr=5e-4, schedule="cosine", warmup_epochs=1),
        target=replace(recipe.target, schedule="cosine") if recipe.target is not None else None,
        **changes,
    )


def tiny_options(store: Path, out: Path, **changes: object) -> RunOptions:
    """Options under which a run repeats bit for bit on any CPU: fp32, one thread, no TensorBoard."""
    return RunOptions(
        **{
            "store": store,
            "out": out,
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "tensorboard": False,
            "log_steps": 2,
            "monitor_steps": 4,
            "checkpoint_minutes": None,
            **changes,
        }  # type: ignore[arg-type]
    )


def write_store(folder: Path, *, scenes: int = SCENES, seed: int = 0) -> Path:
    """Prepare a store of synthetic pairs in ``folder/store``."""
    write_pairs(folder / "pairs", count=scenes, seed=seed, sizes=(48,), s2_bands=("B03", "B04", "B08"))
    prepare("pairs", folder / "pairs", folder / "store", workers=1)
    return folder / "store"


def main() -> None:
    """Train the tiny recipe as the arguments say."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    store, out, *settings = sys.argv[1:]
    changes = {key: int(value) for key, _, value in (setting.partition("=") for setting in settings)}
    epochs = changes.pop("epochs", 6)
    torch.set_num_threads(1)
    try:
        train(tiny_recipe(epochs=epochs), tiny_options(Path(store), Path(out), **changes), build=build_tiny)
    except RunStopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_status)


if __name__ == "__main__":
    main()
