"""What is done for one scene: look at it, embed blocks of its rows, write its file.

Each task is a function of things that can be sent to another process. A ``UserError`` is about the scene, and the
others go on; a :class:`~eo_backbones.regions.job.RunError` is about all.
"""

import logging
import math
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from eo_backbones.device import pick_device
from eo_backbones.errors import UserError, without_secrets
from eo_backbones.files import sha256_of
from eo_backbones.inputs import InputTransform
from eo_backbones.regions.job import (
    RegionJob,
    RunError,
    ScenePlan,
    encoder_of,
    opened_scene,
    source_identity,
    writing,
)
from eo_backbones.regions.layout import COMPONENTS_FILE, embedding_path
from eo_backbones.regions.sources import SceneSource
from eo_backbones.scenes.components import Components
from eo_backbones.scenes.compute import compute_blocks, rows_per_block
from eo_backbones.scenes.embed import band_titles, nothing_valid, scene_facts
from eo_backbones.scenes.encoding import Rows
from eo_backbones.scenes.outputs import write_embedding

logger = logging.getLogger(__name__)

Report = Callable[[int], None]
"""Called with the number of cells that were just finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An embedding that was written.

    Attributes:
        nodata_cells: cells without a value.
        bytes: size of the file, or of all files of a Zarr store.
    """

    nodata_cells: int
    bytes: int


def look(job: RegionJob, source: SceneSource) -> ScenePlan:
    """Open a scene, compare a sample of its values with their unit, and return its grid.

    Raises:
        UserError: it cannot be embedded.
    """
    bands = source.bands()
    identity = source_identity(source, job.folder)
    encoder = encoder_of(job)
    with opened_scene(job, bands) as (scene, grid):
        scene.warn_control_points()
        scene.check_units(encoder.spec)
        return ScenePlan(
            source=source,
            bands=bands,
            identity=identity,
            grid=grid,
            facts=scene_facts(scene, job.request, encoder.weights),
            readings=scene.readings,
            rows_a_block=rows_per_block(grid, job.cells_per_block),
            rows_a_tile=math.ceil(scene.tile_height / grid.stride),
        )


def embed_blocks(job: RegionJob, plan: ScenePlan, first: int, last: int, report: Report) -> None:
    """Compute those blocks of a scene that are not there yet, each to a file of its own.

    Args:
        job: the run.
        plan: the scene.
        first: block to begin with.
        last: block to end before.
        report: is told how many cells are finished, after each block.

    Raises:
        UserError: the scene is damaged, or was changed meanwhile.
        RunError: the disk is full, or the model another one here.
    """
    parts = plan.parts(job)
    while first < last:
        if parts.has(first):
            first += 1
            continue
        until = next((block for block in range(first, last) if parts.has(block)), last)
        for values in _computed(job, plan, first, until):
            with writing(job):
                parts.write(first, values)
            report(parts.cells_of(first))
            first += 1


def embed_small(job: RegionJob, plan: ScenePlan, report: Report) -> Made:
    """Compute a scene of a single block and write its embedding.

    Args, errors: as for :func:`embed_blocks` and :func:`finish`.
    """
    (values,) = _computed(job, plan, 0, 1)
    report(plan.cells)
    return _write(job, plan, lambda: iter(values))


def finish(job: RegionJob, plan: ScenePlan) -> Made:
    """Write the embedding of a scene whose blocks are all there; they stay, so that this may be done again.

    Raises:
        UserError: the scene has no valid window.
        RunError: the disk is full.
    """
    return _write(job, plan, plan.parts(job).read)


def _computed(job: RegionJob, plan: ScenePlan, first: int, last: int) -> Iterator[np.ndarray]:
    """Yield blocks of a scene, float32 ``(rows, cols, numbers)``."""
    encoder, components = encoder_of(job), shared_components(job)
    with opened_scene(job, plan.bands) as (scene, grid):
        if grid != plan.grid or source_identity(plan.source, job.folder) != plan.identity:
            raise UserError(f"{plan.source.typed}: its files were changed while it was embedded; start again")
        blocks = compute_blocks(
            scene,
            grid,
            encoder.network,
            InputTransform(encoder.spec, band=job.request.band_names, unit=scene.units, check="off"),
            first=first * plan.rows_a_block,
            last=min(last * plan.rows_a_block, grid.rows),
            rows=plan.rows_a_block,
            max_nodata=job.request.max_nodata,
            device=pick_device(job.device),
            dtype=job.dtype,
            pixels_per_batch=job.pixels_per_batch,
        )
        for values in blocks:
            rows = values.reshape(-1, grid.cols, values.shape[1])
            yield rows if components is None else np.stack([components.project(row) for row in rows])


def _write(job: RegionJob, plan: ScenePlan, rows: Rows) -> Made:
    valid = sum(int((~np.isnan(row[:, 0])).sum()) for row in rows())
    if not valid:
        raise nothing_valid([plan.source.typed], job.request.max_nodata)
    components = shared_components(job)
    facts = plan.facts | {
        "version": version("eo-backbones"),
        "scene": [without_secrets(path) for path in plan.source.paths],
        "stac_item": plan.source.item,
        "dtype": job.file_dtype,
        "number_format": str(job.dtype),
        "scene_id": plan.source.id,
        "datetime": plan.source.datetime,
        "cloud_cover": plan.source.cloud_cover,
        "features": job.meaning,
        "components_sha256": job.components_sha256,
        "grid": {"rows": plan.grid.rows, "cols": plan.grid.cols, "transform": list(plan.grid.transform[:6])},
    }
    if components is not None:
        facts |= {"components": len(components.axes), "explained": components.explained.tolist()}
    path = embedding_path(job.folder, plan.source.id, job.file_format)
    with writing(job):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_embedding(
            path,
            rows,
            format=job.file_format,
            grid=plan.grid,
            numbers=job.numbers,
            dtype=job.file_dtype,
            facts=facts,
            names=band_titles(components),
            geometry=job.request.cell_geometry,
        )
        return Made(nodata_cells=plan.cells - valid, bytes=bytes_of(path))


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; 0 if it is missing."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def shared_components(job: RegionJob) -> Components | None:
    """Return the components that all scenes share, if there are any.

    Raises:
        RunError: the file was changed since the run began, or is not on this machine.
    """
    if job.components_sha256 is None:
        return None
    path = job.folder / COMPONENTS_FILE
    if not path.is_file() or sha256_of(path) != job.components_sha256:
        raise RunError(
            f"{path} is not the file that this run began with, or not on a disk of {socket.gethostname()}; all "
            "machines need the same folder"
        )
    return Components.load(path)
