"""One training step: time and launched operations, beside a step of lightly's parts; and what only a GPU can show.

Timed is the whole step that ``pretrain`` calls, views included; the reference makes its views with the same function.
Counted are model, loss, optimiser and moving average: the operations of the whole step less those of the views. The
count depends neither on sizes nor on the machine; it is taken on the CPU, with small views, in bf16 as on a GPU.

On a GPU come a large batch, a replayed graph, the share of loading and views, and the hours of a projected run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from eo_backbones_train.bench.steps import VARIANTS, RunningStep, launched_operations, resized, steps_on, views_of
from eo_backbones_train.bench.timing import Stopwatch, in_turn, seconds, times_faster
from eo_backbones_train.data.loader import Batch, Loader
from eo_backbones_train.data.views import draw_view_params
from eo_backbones_train.pretraining.run_options import Machine, torch_configured_for
from eo_backbones_train.recipes.recipe import MIN_SIZE_PX, Recipe
from eo_backbones_train.store.store import Store

SIZE_PX = 112
LARGE_BATCH = 256
PAPER_BATCH = 32
SEN12MS_SCENES = 180_662  # Schmitt et al., 2019: the number of triplets in SEN12MS
PROJECTED_EPOCHS = 200
_WARM_UP_STEPS = 10

_COUNTED_PAIRS = 2
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What was measured of one step; what refers to lightly is None without it.

    Attributes:
        step_size_px, step_batch: side of the views, and pairs in a step, of the timed steps.
        step_ops: operations that BYOL's symmetric step in joint passes launches; the others as their names say.
        step_ms: milliseconds of that step, views included.
        step_pairs_per_s: its speed.
        step_ratio: its speed over that of lightly's parts; each other one over lightly's with the same loss.
        step_ratio_one_directional_to_symmetric: the one-directional step over lightly's symmetric one, its example.
        byol_over_simsiam: its time over that of SimSiam with the same heads, loss and passes.
    """

    step_size_px: int
    step_batch: int
    step_ops: int
    step_ops_separate: int
    step_ops_one_directional: int
    step_ops_simsiam: int
    step_ops_lightly: int | None
    step_ms: float
    step_ms_separate: float
    step_ms_one_directional: float
    step_ms_simsiam: float
    step_ms_lightly: float | None
    step_ms_lightly_one_directional: float | None
    step_pairs_per_s: float
    step_ratio: float | None
    step_ratio_separate: float | None
    step_ratio_one_directional: float | None
    step_ratio_one_directional_to_symmetric: float | None
    byol_over_simsiam: float


def measure_steps(
    folder: Path, *, machine: Machine, device: torch.device, size_px: int, pairs: int, rounds: int
) -> StepMetrics:
    """Time and count the steps.

    Args:
        folder: the store that the tiles are from.
        machine: settings of the timed steps.
        device: of the timed steps.
        size_px: side of the views.
        pairs: pairs in a step.
        rounds: times are medians over these.
    """
    store = Store.open(folder)
    counts = count_operations(store, machine)
    loader = Loader(store, resized(VARIANTS["joint"], size_px=size_px, pairs=pairs), device=device)
    try:
        with torch_configured_for(machine):
            steps = steps_on(loader.batch(0), size_px=size_px, machine=machine, device=device)
            times = in_turn({name: _stopwatch(step, device) for name, step in steps.items()}, rounds=rounds)
    finally:
        loader.close()
    return step_metrics(times, counts, size_px=size_px, pairs=pairs)


def step_metrics(
    times: Mapping[str, Sequence[float]], counts: Mapping[str, int], *, size_px: int, pairs: int
) -> StepMetrics:
    """Return what follows from the seconds and operations of the steps, by the names of :func:`steps_on`.

    Speeds are compared with lightly's step with the same loss; without one there is nothing to compare.
    """
    ms = {name: 1000 * median(values) for name, values in times.items()}

    def ratio(reference: str, name: str) -> float | None:
        return times_faster(times[reference], times[name]) if reference in times else None

    return StepMetrics(
        step_size_px=size_px,
        step_batch=pairs,
        step_ops=counts["joint"],
        step_ops_separate=counts["separate"],
        step_ops_one_directional=counts["one_directional"],
        step_ops_simsiam=counts["simsiam"],
        step_ops_lightly=counts.get("lightly"),
        step_ms=ms["joint"],
        step_ms_separate=ms["separate"],
        step_ms_one_directional=ms["one_directional"],
        step_ms_simsiam=ms["simsiam"],
        step_ms_lightly=ms.get("lightly"),
        step_ms_lightly_one_directional=ms.get("lightly_one_directional"),
        step_pairs_per_s=1000 * pairs / ms["joint"],
        step_ratio=ratio("lightly", "joint"),
        step_ratio_separate=ratio("lightly", "separate"),
        step_ratio_one_directional=ratio("lightly_one_directional", "one_directional"),
        step_ratio_one_directional_to_symmetric=ratio("lightly", "one_directional"),
        byol_over_simsiam=times_faster(times["joint"], times["simsiam"]),
    )


def count_operations(store: Store, machine: Machine) -> dict[str, int]:
    """Return the operations that each step launches beside those of its views, by name of the step."""
    counted = replace(machine, device="cpu", precision="bf16", graph=False)
    loader = Loader(store, resized(VARIANTS["joint"], size_px=MIN_SIZE_PX, pairs=_COUNTED_PAIRS), device=_CPU)
    try:
        batch = loader.batch(0)
        params = draw_view_params(VARIANTS["joint"].views, seed=0, step=0, global_batch=_COUNTED_PAIRS)
        views = launched_operations(lambda: views_of(batch, params, MIN_SIZE_PX))
        counts = {}
        for name, step in steps_on(batch, size_px=MIN_SIZE_PX, machine=counted, device=_CPU).items():
            step()  # the first one also allocates the optimiser's state
            counts[name] = launched_operations(step) - views
    finally:
        loader.close()
    return counts


def _stopwatch(step: Callable[[], object], device: torch.device) -> Callable[[], float]:
    return lambda: seconds(step, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMetrics:
    """What was measured on a GPU; views of 112 pixels, loading and views included.

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


def measure_gpu(
    folder: Path,
    *,
    machine: Machine,
    device: torch.device,
    steps: int,
    rounds: int,
    large_batch: int = LARGE_BATCH,
    paper_batch: int = PAPER_BATCH,
    build_step: Callable[[Recipe, Machine, torch.device], Callable[[Batch, Tensor], object]] = RunningStep,
    stopwatch: Stopwatch = seconds,
) -> GpuMetrics:
    """Measure on one GPU.

    Args:
        folder: a store of at least ``large_batch`` scenes.
        machine: settings; graph and determinism are set here.
        device: a CUDA device.
        steps: steps in a round.
        rounds: the results are medians over these.
        large_batch: pairs of the large batch.
        paper_batch: pairs of the paper's batch.
        build_step: recipe, settings and device to the step that is timed.
        stopwatch: work and device to the seconds that the work took.
    """
    store = Store.open(folder)

    def step_seconds(name: str, pairs: int, *, graph: bool = False, deterministic: bool = True) -> float:
        settings = replace(machine, graph=graph, deterministic=deterministic)
        recipe = resized(VARIANTS[name], size_px=SIZE_PX, pairs=pairs)
        with torch_configured_for(settings):
            step = build_step(recipe, settings, device)
            return _seconds_per_step(store, recipe, device, steps=steps, rounds=rounds, use=step, stopwatch=stopwatch)

    joint = step_seconds("joint", large_batch)
    recipe = resized(VARIANTS["joint"], size_px=SIZE_PX, pairs=large_batch)
    inputs = _seconds_per_step(
        store,
        recipe,
        device,
        steps=steps,
        rounds=rounds,
        use=lambda batch, params: views_of(batch, params.to(device, non_blocking=True), SIZE_PX),
        stopwatch=stopwatch,
    )
    return GpuMetrics(
        gpu_pairs_per_s=large_batch / joint,
        gpu_pairs_per_s_separate=large_batch / step_seconds("separate", large_batch),
        gpu_pairs_per_s_fastest=large_batch / step_seconds("joint", large_batch, deterministic=False),
        gpu_graph_ms=1000 * step_seconds("joint", paper_batch, graph=True),
        gpu_graph_ms_paper=1000 * step_seconds("one_directional", paper_batch, graph=True),
        gpu_input_share=inputs / joint,
        gpu_hours=projected_hours(large_batch / joint),
    )


def projected_hours(pairs_per_s: float) -> float:
    """Return the hours of 200 epochs of SEN12MS at a speed."""
    return PROJECTED_EPOCHS * SEN12MS_SCENES / pairs_per_s / 3600


def _seconds_per_step(
    store: Store,
    recipe: Recipe,
    device: torch.device,
    *,
    steps: int,
    rounds: int,
    use: Callable[[Batch, Tensor], object],
    stopwatch: Stopwatch,
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
        return median(stopwatch(lambda: run(steps), device) for _ in range(rounds)) / steps
    finally:
        loader.close()
