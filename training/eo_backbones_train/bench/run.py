"""The measurements in order, and everything they found as one flat dictionary."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eo_backbones.errors import UserError
from eo_backbones.progress import Progress
from eo_backbones_train.bench.augmenting import measure_views
from eo_backbones_train.bench.loading import MadeUpScenes, made_up_scenes, measure_loading
from eo_backbones_train.bench.steps import VARIANTS, has_lightly
from eo_backbones_train.bench.training import LARGE_BATCH, SIZE_PX, GpuMetrics, measure_gpu, measure_steps
from eo_backbones_train.pretraining.distributed import joined
from eo_backbones_train.pretraining.run_folder import git_commit, versions
from eo_backbones_train.pretraining.run_options import RunOptions, resolve_machine
from eo_backbones_train.store.store import Store, usable_scenes

CPU_THREADS = 2  # the number that the aims of the report hold for
_GPU_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured; results are medians over the rounds.

    Attributes:
        scenes: made-up scenes.
        rounds: of everything but the conversion.
        prepare_rounds: of the conversion.
        loader_batch, loader_batches: pairs in a batch, batches in a round.
        reads: pairs that rasterio reads in a round.
        view_pairs: pairs whose views are made in a round.
        step_size_px, step_pairs: views and batch of the training steps on a CPU.
    """

    scenes: int
    rounds: int
    prepare_rounds: int
    loader_batch: int
    loader_batches: int
    reads: int
    view_pairs: int
    step_size_px: int
    step_pairs: int


FULL = Effort(
    scenes=320,  # 0.7 GB of GeoTIFF and 0.25 GB of store: more than a processor caches
    rounds=9,
    prepare_rounds=3,
    loader_batch=LARGE_BATCH,
    loader_batches=50,
    reads=100,
    view_pairs=64,
    step_size_px=64,
    step_pairs=16,
)
QUICK = Effort(
    scenes=24,
    rounds=2,
    prepare_rounds=1,
    loader_batch=8,
    loader_batches=50,
    reads=10,
    view_pairs=4,
    step_size_px=32,
    step_pairs=2,
)


def run_bench(*, device: str, store: Path | None, quick: bool, progress: Progress) -> dict[str, Any]:
    """Measure everything that this machine can.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``: where training steps run. Loading and views are measured on the CPU.
        store: a store to measure on; None for made-up scenes in a temporary folder.
        quick: one minute, to see whether everything works; the numbers mean nothing.
        progress: where a line says what is being measured.

    Returns:
        The fields of all metrics, ``None`` where something was not measured; what the machine is; and ``notes``, which
        say why something was not measured.

    Raises:
        UserError: no such device, no room for the made-up scenes, or a store that cannot be used.
    """
    effort = QUICK if quick else FULL
    with joined(device) as process, _scenes(store, effort, progress) as (folder, files):
        options = RunOptions(store=folder, out=folder, device=device, graph=False, threads=CPU_THREADS)
        machine = resolve_machine(options, device=process.device, world_size=1, pairs=effort.step_pairs)
        on_gpu = process.device.type == "cuda" and not quick
        progress.note("loading, beside rasterio" if files is not None else "loading")
        loading = measure_loading(
            folder,
            files,
            batch=effort.loader_batch,
            batches=effort.loader_batches,
            reads=effort.reads,
            rounds=effort.rounds,
        )
        progress.note("making views, beside torchvision")
        views = measure_views(folder, pairs=effort.view_pairs, rounds=effort.rounds)
        progress.note("training steps, beside lightly's parts" if has_lightly() else "training steps")
        steps = measure_steps(
            folder,
            machine=machine,
            device=process.device,
            size_px=SIZE_PX if on_gpu else effort.step_size_px,
            pairs=LARGE_BATCH if on_gpu else effort.step_pairs,
            rounds=effort.rounds,
        )
        gpu = None
        if on_gpu:
            progress.note("large batches and graphs on the GPU")
            gpu = measure_gpu(folder, machine=machine, device=process.device, steps=_GPU_STEPS, rounds=effort.rounds)
        speed = files.prepare_scenes_per_s if files is not None else None
    found = {
        **asdict(loading),
        **asdict(views),
        **asdict(steps),
        **(asdict(gpu) if gpu is not None else dict.fromkeys(field.name for field in fields(GpuMetrics))),
        "prepare_scenes_per_s": speed,
    }
    return {
        **{name: _rounded(value) for name, value in found.items()},
        "device": machine.device,
        "device_name": machine.device_name,
        "precision": machine.precision,
        "threads": machine.threads,
        "quick": quick,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "commit": git_commit(),
        "notes": _notes(found, made_up=store is None, quick=quick),
    }


@contextmanager
def _scenes(store: Path | None, effort: Effort, progress: Progress) -> Iterator[tuple[Path, MadeUpScenes | None]]:
    if store is not None:
        data = VARIANTS["joint"].data
        usable = len(usable_scenes(Store.open(store), data.s2_bands, data.s1_bands))
        if usable < effort.scenes:
            raise UserError(
                f"{store} has {usable} usable scenes and bench needs {effort.scenes}; without --store it makes them up"
            )
        yield store, None
        return
    with made_up_scenes(effort.scenes, rounds=effort.prepare_rounds, progress=progress) as files:
        yield files.store, files


def _rounded(value: float | None) -> float | None:
    """Keep four digits: more than any of the measurements is worth."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _notes(found: Mapping[str, Any], *, made_up: bool, quick: bool) -> list[str]:
    notes = []
    if quick:
        notes.append("--quick: sizes and rounds are too small for these numbers to mean anything")
    if not made_up:
        notes.append("rasterio and prepare are measured on made-up scenes only: leave --store out")
    if found["kib_per_pair_from_disk"] is None:
        notes.append("the kernel does not tell what it reads from this file system")
    if found["step_ratio"] is None:
        notes.append("the step was compared with nothing: pip install lightly")
    if found["gpu_pairs_per_s"] is None:
        notes.append("nothing was measured on a GPU: eo-train bench --device cuda, without --quick, where there is one")
    return notes
