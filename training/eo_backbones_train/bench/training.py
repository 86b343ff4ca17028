"""One training step: time and launched operations, beside a step of lightly's parts.

Timed is the whole step that ``pretrain`` calls, views included; the reference makes its views with the same function.
Counted are model, loss, optimiser and moving average: the operations of the whole step less those of the views. The
count depends neither on sizes nor on the machine; it is taken on the CPU, with small views, in bf16 as on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from eo_backbones_train.bench.operations import launched_operations
from eo_backbones_train.bench.steps import VARIANTS, resized, steps_on, views_of
from eo_backbones_train.bench.timing import in_turn, seconds, set_up_as, times_faster
from eo_backbones_train.loader import Loader
from eo_backbones_train.recipe import MIN_SIZE_PX
from eo_backbones_train.run.run_options import Machine
from eo_backbones_train.store import Store
from eo_backbones_train.views import draw_view_params

_CPU = torch.device("cpu")
_COUNTED_PAIRS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What was measured; what refers to lightly is None without it.

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
) -> StepFigures:
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
        with set_up_as(machine):
            steps = steps_on(loader.batch(0), size_px=size_px, machine=machine, device=device)
            times = in_turn({name: _stopwatch(step, device) for name, step in steps.items()}, rounds=rounds)
    finally:
        loader.close()
    ms = {name: 1000 * median(values) for name, values in times.items()}

    def ratio(reference: str, name: str) -> float | None:
        return times_faster(times[reference], times[name]) if reference in times else None

    return StepFigures(
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
