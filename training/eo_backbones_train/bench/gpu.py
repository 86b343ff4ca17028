"""What only a CUDA GPU can show: a large batch, a replayed graph, what loading and views cost, a projected run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from eo_backbones_train.bench.steps import VARIANTS, RunningStep, resized, views_of
from eo_backbones_train.bench.timing import seconds, set_up_as
from eo_backbones_train.loader import Loader
from eo_backbones_train.recipe import Recipe
from eo_backbones_train.run.run_options import Machine
from eo_backbones_train.store import Store
from eo_backbones_train.views import draw_view_params

SIZE_PX = 112
LARGE_BATCH = 256
PAPER_BATCH = 32
SEN12MS_SCENES = 180_662  # Schmitt et al., 2019: the number of triplets in SEN12MS
PROJECTED_EPOCHS = 200
_WARM_UP_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFigures:
    """What was measured; views of 112 pixels, loading and views included.

    Attributes:
        gpu_pairs_per_s: BYOL, symmetric, joint passes, 256 pairs, deterministic algorithms (default).
        gpu_pairs_per_s_separate: the same in separate passes.
        gpu_pairs_per_s_fastest: the first with ``--no-deterministic``.
        gpu_graph_ms: milliseconds of that step with 32 pairs, replayed from a graph.
        gpu_graph_ms_paper: of the paper's one-directional step with its 32 pairs, likewise.
        gpu_input_share: time of loading and views alone over the time of the step with 256 pairs.
        gpu_hours: 200 epochs of 180,662 scenes at ``gpu_pairs_per_s``.
    """

    gpu_pairs_per_s: float
    gpu_pairs_per_s_separate: float
    gpu_pairs_per_s_fastest: float
    gpu_graph_ms: float
    gpu_graph_ms_paper: float
    gpu_input_share: float
    gpu_hours: float


def measure_gpu(folder: Path, *, machine: Machine, device: torch.device, steps: int, rounds: int) -> GpuFigures:
    """Measure on one GPU.

    Args:
        folder: a store of at least 256 scenes.
        machine: settings; graph and determinism are set here.
        device: a CUDA device.
        steps: steps in a round.
        rounds: the figures are medians over these.
    """
    store = Store.open(folder)

    def step_seconds(name: str, pairs: int, *, graph: bool = False, deterministic: bool = True) -> float:
        settings = replace(machine, graph=graph, deterministic=deterministic)
        recipe = resized(VARIANTS[name], size_px=SIZE_PX, pairs=pairs)
        with set_up_as(settings):
            step = RunningStep(recipe, settings, device)
            return _seconds_a_step(store, recipe, device, steps=steps, rounds=rounds, use=step)

    joint = step_seconds("joint", LARGE_BATCH)
    recipe = resized(VARIANTS["joint"], size_px=SIZE_PX, pairs=LARGE_BATCH)
    inputs = _seconds_a_step(
        store,
        recipe,
        device,
        steps=steps,
        rounds=rounds,
        use=lambda batch, params: views_of(batch, params.to(device, non_blocking=True), SIZE_PX),
    )
    return GpuFigures(
        gpu_pairs_per_s=LARGE_BATCH / joint,
        gpu_pairs_per_s_separate=LARGE_BATCH / step_seconds("separate", LARGE_BATCH),
        gpu_pairs_per_s_fastest=LARGE_BATCH / step_seconds("joint", LARGE_BATCH, deterministic=False),
        gpu_graph_ms=1000 * step_seconds("joint", PAPER_BATCH, graph=True),
        gpu_graph_ms_paper=1000 * step_seconds("one_directional", PAPER_BATCH, graph=True),
        gpu_input_share=inputs / joint,
        gpu_hours=projected_hours(LARGE_BATCH / joint),
    )


def projected_hours(pairs_per_s: float) -> float:
    """Return the hours of 200 epochs of SEN12MS at a speed."""
    return PROJECTED_EPOCHS * SEN12MS_SCENES / pairs_per_s / 3600


def _seconds_a_step(
    store: Store,
    recipe: Recipe,
    device: torch.device,
    *,
    steps: int,
    rounds: int,
    use: Callable[..., object],
) -> float:
    """Return the median seconds of drawing, loading and using a batch; ``use`` gets batch and view parameters."""
    loader = Loader(store, recipe, device=device)
    next_step = 0

    def run(count: int) -> None:
        nonlocal next_step
        for step in range(next_step, next_step + count):
            params = draw_view_params(recipe.views, seed=recipe.seed, step=step, global_batch=recipe.global_batch)
            use(loader.batch(step), params)
        next_step += count

    try:
        run(_WARM_UP_STEPS)
        return median(seconds(lambda: run(steps), device) for _ in range(rounds)) / steps
    finally:
        loader.close()
