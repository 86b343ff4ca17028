"""What weights that nobody has made yet would cost, from speeds that ``eo-train bench`` measured.

The newest report of each device in ``benchmarks/`` counts. A step whose kind was not measured stands for itself as the
nearest one that was, and the card says which; another size of views is scaled by its number of pixels, which suits a
convolutional network.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.initialisation import STAGES
from eo_backbones_train.recipe import Recipe

_CPU_STEPS = {
    ("byol", "one-directional", "separate"): ("step_ms_one_directional", "BYOL, one-directional"),
    ("byol", "symmetric", "joint"): ("step_ms", "BYOL, symmetric, joint BatchNorm"),
    ("byol", "symmetric", "separate"): ("step_ms_separate", "BYOL, symmetric, separate BatchNorm"),
    ("simsiam", "symmetric", "joint"): ("step_ms_simsiam", "SimSiam, symmetric, joint BatchNorm"),
    # not measured as such; the symmetric step does more, so this is rather too much
    ("simsiam", "one-directional", "separate"): ("step_ms_simsiam", "SimSiam, symmetric, joint BatchNorm"),
}
_GPU_PAIRS = 32  # of gpu_graph_ms_paper, at 112 px (benchmarks/README.md)
_GPU_SIZE_PX = 112


@dataclass(frozen=True, slots=True)
class Report:
    """One report of ``eo-train bench``: its path inside the repository, and its figures."""

    path: str
    figures: Mapping[str, Any]


def newest_report(checkout: Path, device: str) -> Report | None:
    """Return the newest report of a device (``"cpu"``, ``"cuda"``), or ``None`` if there is none."""
    paths = sorted((checkout / "benchmarks").glob(f"????-??-??-{device}*.md"))
    if not paths:
        return None
    block = re.search(r"```json\n(.*?)\n```", paths[-1].read_text(encoding="utf-8"), flags=re.DOTALL)
    if block is None:
        raise UserError(f"{paths[-1]} holds no figures as JSON; measure again with eo-train bench")
    return Report(paths[-1].relative_to(checkout).as_posix(), json.loads(block[1]))


def pairs_seen(recipe: Recipe, scenes: int) -> int:
    """Return how many pairs a whole training sees: whole batches only, each epoch."""
    return scenes // recipe.global_batch * recipe.global_batch * recipe.epochs


def cost(recipe: Recipe, scenes: int, checkout: Path) -> tuple[list[tuple[str, str]], str]:
    """Return lines of what and how much, and a sentence on where the figures come from.

    Args:
        recipe: whose training is estimated.
        scenes: pairs of images in the store.
        checkout: root of the repository.

    Raises:
        UserError: no report of a CPU.
    """
    pairs = pairs_seen(recipe, scenes)
    steps = pairs // recipe.global_batch
    lines = [
        ("pairs of images", f"{scenes:,}"),
        ("pairs seen", f"{pairs:,} ({recipe.epochs} epochs, {steps:,} steps of {recipe.global_batch})"),
    ]
    cpu = newest_report(checkout, "cpu")
    if cpu is None:
        raise UserError("benchmarks/ holds no report of a CPU; write one with eo-train bench --device cpu")
    figures = cpu.figures
    field, kind = _CPU_STEPS[recipe.method, recipe.loss, recipe.model.batch_norm]
    measured = figures["step_batch"] / (figures[field] / 1000)
    speed = measured * (figures["step_size_px"] / recipe.views.size_px) ** 2
    lines.append((f"on {figures['threads']} CPU threads ({figures['device_name']})", _duration(pairs / speed)))
    basis = (
        f"Measured: {measured:.1f} pairs/s of a step of {kind}, at {figures['step_size_px']} px, on "
        f"{figures['threads']} threads of an {figures['device_name']} (`{cpu.path}`, `{field}`)"
    )
    if recipe.views.size_px != figures["step_size_px"]:
        basis += f"; scaled by the number of pixels to {recipe.views.size_px} px: {speed:.1f} pairs/s"
    if recipe.model.trained_stages < STAGES:
        basis += f"; that step trains all {STAGES} stages, this recipe {recipe.model.trained_stages}: rather too much"
    gpu = newest_report(checkout, "cuda")
    milliseconds = gpu.figures["gpu_graph_ms_paper"] if gpu else None
    if gpu is not None and milliseconds and (recipe.views.size_px, recipe.loss) == (_GPU_SIZE_PX, "one-directional"):
        gpu_speed = _GPU_PAIRS / (milliseconds / 1000)
        lines.append((f"on one {gpu.figures['device_name']}", _duration(pairs / gpu_speed)))
        basis += (
            f". On the GPU: {gpu_speed:,.0f} pairs/s of the paper's BYOL step at {_GPU_SIZE_PX} px, {_GPU_PAIRS} "
            f"pairs, as a CUDA graph (`{gpu.path}`, `gpu_graph_ms_paper`)"
        )
    else:
        lines.append(("on a GPU", "not measured yet: `eo-train bench --device cuda`"))
    return lines, f"{basis}."


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours < 1:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {hours:.1f} hours" if hours < 48 else f"about {hours / 24:.0f} days"
