"""Principal components that all scenes of a region share, from a random sample of their windows.

They are computed before anything is embedded, so that no scene's features need to lie on the disk in their full width.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eo_backbones.device import pick_device
from eo_backbones.errors import UserError
from eo_backbones.files import atomic_file
from eo_backbones.inputs import InputTransform
from eo_backbones.regions.job import RegionJob, ScenePlan, encoder_of, opened_scene, writing
from eo_backbones.regions.layout import PARTS_FOLDER
from eo_backbones.scenes.components import Components, components_of
from eo_backbones.scenes.compute import compute_cells

LEAST_CELLS, MOST_CELLS = 2048, 8192
"""Cells of the sample: an eighth of all, but within these bounds; eight for each component at least."""


def choose_cells(plans: Sequence[ScenePlan], components: int) -> dict[str, np.ndarray]:
    """Return the cells of the sample, drawn from all cells of all scenes with seed 0.

    Args:
        plans: the scenes.
        components: how many will be computed.

    Returns:
        Id of a scene -> numbers of its cells, row by row, ascending; scenes without any are left out.
    """
    total = sum(plan.cells for plan in plans)
    wanted = min(total, max(8 * components, LEAST_CELLS, min(MOST_CELLS, total // 8)))
    drawn = np.sort(np.random.default_rng(0).choice(total, wanted, replace=False))
    chosen, before = {}, 0
    for plan in plans:
        inside = drawn[(drawn >= before) & (drawn < before + plan.cells)] - before
        if len(inside):
            chosen[plan.source.id] = inside
        before += plan.cells
    return chosen


def sample_features(job: RegionJob, plan: ScenePlan, cells: np.ndarray) -> None:
    """Write the features of chosen cells to a file of the scene, unless it holds them already.

    Raises:
        UserError: the scene is damaged.
        RunError: the disk is full, or the model another one here.
    """
    path = _sample_file(job, plan.source.id)
    if _read_sample(path, plan, cells) is not None:
        return
    encoder = encoder_of(job)
    with opened_scene(job, plan.bands) as (scene, grid):
        features = compute_cells(
            scene,
            grid,
            encoder.network,
            InputTransform(encoder.spec, band=job.request.band_names, unit=scene.units, check="off"),
            cells,
            max_nodata=job.request.max_nodata,
            device=pick_device(job.device),
            dtype=job.dtype,
            pixels_per_batch=job.pixels_per_batch,
        )
    with writing(job):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, shared=True) as unfinished:
            np.savez(unfinished, identity=np.array(plan.identity), cells=cells, features=features)


def fit(job: RegionJob, plans: Mapping[str, ScenePlan], chosen: Mapping[str, np.ndarray], count: int) -> Components:
    """Return the components of the samples of all scenes.

    Args:
        job: the run.
        plans: id -> scene.
        chosen: of :func:`choose_cells`; those scenes whose sample was written.
        count: how many components.

    Raises:
        UserError: fewer cells with a value than components.
    """
    samples = [_read_sample(_sample_file(job, scene), plans[scene], cells) for scene, cells in chosen.items()]
    known = [sample[~np.isnan(sample[:, 0])] for sample in samples if sample is not None]
    if not sum(map(len, known)):
        raise UserError("no window of the scenes has a value; check --bands and --nodata, or raise --max-nodata")
    return components_of(np.concatenate(known), count, belongs_to=job.meaning)


def _sample_file(job: RegionJob, scene: str) -> Path:
    return job.folder / PARTS_FOLDER / ".sample" / f"{scene}.npz"


def _read_sample(path: Path, plan: ScenePlan, cells: np.ndarray) -> np.ndarray | None:
    """Return the features in a file, if they are those of these cells."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            same = str(stored["identity"]) == plan.identity and np.array_equal(stored["cells"], cells)
            return np.asarray(stored["features"]) if same else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
