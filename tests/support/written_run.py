"""Run folders in the form of the training loop, without training: quick to write, and ready for ``eo-train export``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eo_backbones.files import write_json
from eo_backbones_train.methods.build import build_method
from eo_backbones_train.pretraining.checkpoint import save_checkpoint
from eo_backbones_train.recipes.recipe import Recipe
from eo_backbones_train.recipes.serialise import digest, to_dict

STEP = 6
STORE_DIGEST = "5" * 64


def trained_method(recipe: Recipe) -> nn.Module:
    """A method whose two encoders differ, with running statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    method = build_method(recipe)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return method


DFC2020_SOURCES = [
    {"name": "DFC2020", "layout": "dfc2020", "scenes": 6114, "units": {"B03": "dn", "VV": "db"}, "subset": None}
]
"""What the store of the recipes of the paper holds."""
SOURCES = [{"name": "floods", "layout": "pairs", "scenes": 1650, "units": {"B03": "uint8", "VV": "db"}, "subset": None}]


def write_run(
    folder: Path,
    recipe: Recipe,
    state: Mapping[str, torch.Tensor],
    *,
    finished: bool = True,
    sources: list[dict[str, Any]] | None = None,
) -> Path:
    """Write a run folder in the form of the training loop, without training."""
    folder.mkdir(parents=True)
    identity = {"recipe": to_dict(recipe), "recipe_digest": digest(recipe), "store_digest": STORE_DIGEST}
    machine = {"device": "cpu", "device_name": "a CPU", "precision": "fp32", "world_size": 1}
    versions = {"python": "3.11.7", "torch": "2.15.0", "timm": "1.0.31"}
    write_json(folder / "recipe.json", {"name": recipe.name, "digest": digest(recipe), "seed": recipe.seed, **identity})
    write_json(
        folder / "run.json",
        {
            "command": ["/home/somebody/eo-train"], "store": "/nowhere/store", "sources": sources or SOURCES,
            "machine": machine, "versions": versions, "git_commit": "c" * 40,
        },
    )  # fmt: skip
    lines = [{"step": step, "loss": 2.0 / step, "seconds": float(step)} for step in range(2, STEP + 3, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {**identity, "step": STEP, "machine": machine, "versions": versions, "method": dict(state)}
    save_checkpoint(folder / "checkpoints", STEP, content)
    if finished:
        write_json(folder / "result.json", {"steps": STEP, "loss": 0.3})
    return folder
