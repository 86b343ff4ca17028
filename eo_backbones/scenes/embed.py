"""A scene to a file of embeddings: read, compute, reduce, write.

Windows of the scene go in batches through the encoder. Rows of cells go to disk as soon as they are computed
(:mod:`eo_backbones.scenes.unfinished`), so that the work survives a kill and memory holds one block of rows only.
Everything after that (components, dtype, preview) reads them again, row by row.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.progress import SILENT, Progress
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.reader import local_file, tell_sources
from eo_backbones.rasters.scaling import BandReading
from eo_backbones.scenes.components import Components, components_file, principal_components
from eo_backbones.scenes.compute import CELLS_PER_BLOCK, compute_blocks, rows_per_block
from eo_backbones.scenes.encoding import Rows
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.outputs import write_embedding
from eo_backbones.scenes.pictures import write_components_picture
from eo_backbones.scenes.request import (
    EmbedRequest,
    EmbedSettings,
    features_digest,
    identity_of,
    load_network,
    preview_file,
)
from eo_backbones.scenes.scene import Scene
from eo_backbones.scenes.unfinished import UnfinishedEmbedding

logger = logging.getLogger(__name__)

_DISPLAYED = 3  # components of the preview
_WITHOUT_EFFECT = 0.1  # max_nodata of a complete scene, as earlier versions wrote it: their unfinished rows go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What was written.

    Attributes:
        out: the embeddings.
        preview: the picture, if asked for.
        components_file: mean and axes of the components, if there are any.
        rows, cols: cells.
        nodata_cells: how many of them have no value.
        numbers: values of each cell: features, or components.
        units: unit that each band was read in.
        explained: share of the variance that all components keep together.
        unused_px: columns and rows of pixels at the right and lower edge that no window reaches.
        km2: area of the grid; ``None`` without a coordinate system.
        seconds: of this run, without loading the model.
        computed_cells: cells of this run; fewer than all after a resume.
        km2_per_s: area computed in this run over its seconds; ``None`` if nothing was.
    """

    out: str
    preview: str | None
    components_file: str | None
    rows: int
    cols: int
    nodata_cells: int
    numbers: int
    units: tuple[str, ...]
    explained: float | None
    unused_px: tuple[int, int]
    km2: float | None
    seconds: float
    computed_cells: int
    km2_per_s: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)


def embed_scene(
    request: EmbedRequest,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = SILENT,
    cells_per_block: int = CELLS_PER_BLOCK,
    pixels_per_batch: int | None = None,
) -> Embedded:
    """Write the embeddings of a scene.

    Args:
        request: what to embed.
        device: where to compute.
        dtype: of the network's computation; bfloat16 runs under autocast.
        progress: where progress is reported.
        cells_per_block: see :data:`eo_backbones.scenes.compute.CELLS_PER_BLOCK`.
        pixels_per_batch: default: what suits the device, see :data:`eo_backbones.scenes.compute.PIXELS_PER_BATCH`.

    Raises:
        UserError: anything about the request, the files or the model that the caller can correct.
    """
    file_format, file_dtype = request.checked()
    bands = find_bands(request.scene, request.bands)
    if request.out.resolve() in {path.resolve() for band in bands if (path := local_file(band.path))}:
        raise UserError(f"--out {request.out} is a file of the scene itself; pass another name")
    names = [band.name for band in bands]
    network, spec, weights = load_network(request.model, names, request.fuse)
    request.check_width(network.num_features, file_format)
    meaning = features_digest(network, spec, weights)
    given = given_components(request.components_from, network.num_features, meaning)
    started = time.monotonic()
    with Scene(bands, request.reading.for_bands(names)) as scene:
        scene.warn_unplaced()
        grid = scene_grid(scene, size=request.size, stride=request.stride)
        tell_sources(scene.readings)
        scene.check_units(spec)
        facts = scene_facts(scene, request, weights)
        job = scene_job(scene, facts, meaning, dtype)
        if request.components is not None and request.components >= grid.rows * grid.cols:
            raise UserError(
                f"--components {request.components} need more cells than the {grid.rows * grid.cols:,} of this scene; "
                "pass fewer, or a smaller --stride"
            )
        unfinished = UnfinishedEmbedding(
            request.out, job, rows=grid.rows, cols=grid.cols, features=network.num_features
        )
        computed = _compute(
            scene,
            grid,
            network,
            InputTransform(spec, band=names, unit=scene.units, check="off"),
            unfinished,
            max_nodata=request.max_nodata,
            device=device,
            dtype=dtype,
            progress=progress,
            cells_per_block=cells_per_block,
            pixels_per_batch=pixels_per_batch,
        )
    valid = np.stack([~np.isnan(row[:, 0]) for row in unfinished.read()])
    if not valid.any():
        unfinished.remove()
        raise nothing_valid(request.scene, request.max_nodata)
    facts |= {"version": version("eo-backbones"), "scene": list(request.scene), "number_format": str(dtype)}
    with progress.stage("write", grid.rows) as tick:
        kept = given
        if request.components is not None:
            kept = principal_components(unfinished.read(), valid, request.components, belongs_to=meaning)
        if kept is not None:
            facts |= {"components": len(kept.axes), "explained": kept.explained.tolist(), "features": meaning}
            kept.save(components_file(request.out))
        rows = _projected(unfinished, kept)
        numbers = network.num_features if kept is None else len(kept.axes)
        write_embedding(
            request.out,
            rows,
            format=file_format,
            grid=grid,
            numbers=numbers,
            dtype=file_dtype,
            facts=facts,
            names=band_titles(kept),
            geometry=request.cell_geometry,
        )
        preview = _write_preview(request, unfinished, kept, valid, meaning) if request.preview else None
        tick(grid.rows)
    unfinished.remove()
    seconds = time.monotonic() - started
    cell = grid.cell_km2
    return Embedded(
        out=str(request.out),
        preview=None if preview is None else str(preview),
        components_file=None if kept is None else str(components_file(request.out)),
        rows=grid.rows,
        cols=grid.cols,
        nodata_cells=int((~valid).sum()),
        numbers=numbers,
        units=scene.units,
        explained=None if kept is None else float(kept.explained.sum()),
        unused_px=(grid.width - grid.columns_px, grid.height - (grid.rows - 1) * grid.stride - grid.size),
        km2=None if cell is None else cell * grid.rows * grid.cols,
        seconds=seconds,
        computed_cells=computed,
        km2_per_s=cell * computed / seconds if cell is not None and computed else None,
    )


def scene_grid(scene: Scene, *, size: int, stride: int) -> Grid:
    """Return the windows of an open scene.

    Raises:
        UserError: the scene is smaller than a window.
    """
    return Grid(
        height=scene.height,
        width=scene.width,
        size=size,
        stride=stride,
        scene_transform=scene.transform,
        crs=scene.crs,
    )


def scene_facts(scene: Scene, settings: EmbedSettings, weights: str) -> dict[str, Any]:
    """Return what the embedding of an open scene is of, as JSON types.

    Args:
        scene: the scene.
        settings: how it is embedded.
        weights: sha256 of the encoder's weights.
    """
    return {
        "model": settings.model,
        "weights_sha256": weights,
        "bands": [band.name for band in scene.bands],
        "units": scene.units,
        "fuse": settings.fuse,
        **_described(scene.readings),
        "max_nodata": settings.max_nodata,
        "size": settings.size,
        "stride": settings.stride,
    }


def scene_job(scene: Scene, facts: Mapping[str, Any], meaning: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return everything that decides the features of a scene, as JSON types.

    Args:
        scene: the scene.
        facts: of :func:`scene_facts`.
        meaning: of :func:`eo_backbones.scenes.request.features_digest`.
        dtype: of the network's computation.
    """
    decisive = {key: value for key, value in facts.items() if key != "model"}
    if scene.may_miss:
        decisive["fill"] = "mean"  # of the window's valid pixels; earlier versions took the lowest value
    else:
        decisive["max_nodata"] = _WITHOUT_EFFECT
    return {
        **decisive,
        "scene": [identity_of(band) for band in scene.bands],
        "features": meaning,
        "dtype": str(dtype),
    }


def nothing_valid(scene: Sequence[str], max_nodata: float) -> UserError:
    """Return the error for a scene without any window that has a value."""
    return UserError(
        f"{', '.join(scene)}: every window has more than {max_nodata:.0%} missing pixels, so there "
        "is nothing to embed; check bands and --nodata, or raise --max-nodata"
    )


def _compute(
    scene: Scene,
    grid: Grid,
    network: MultiBand,
    prepare: InputTransform,
    unfinished: UnfinishedEmbedding,
    *,
    max_nodata: float,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
    cells_per_block: int,
    pixels_per_batch: int | None,
) -> int:
    """Compute the rows of cells that are not there yet; return how many cells were computed."""
    done, block = unfinished.rows_done, rows_per_block(grid, cells_per_block)
    if done == grid.rows:
        return 0
    start = done // block * block  # whole blocks only: the same batches, hence the same features, as without a kill
    unfinished.resume_at(start)
    blocks = compute_blocks(
        scene,
        grid,
        network,
        prepare,
        first=start,
        last=grid.rows,
        rows=block,
        max_nodata=max_nodata,
        device=device,
        dtype=dtype,
        pixels_per_batch=pixels_per_batch,
    )
    with progress.stage(f"embed {grid.rows} x {grid.cols} cells", grid.rows * grid.cols, start * grid.cols) as tick:
        for values in blocks:
            unfinished.append(values)
            tick(len(values))
    return (grid.rows - start) * grid.cols


def _described(readings: Sequence[BandReading]) -> dict[str, Any]:
    """Return scale, offset and nodata of the bands as JSON types: one number where it is that of all; no scale of 1."""
    described: dict[str, Any] = {}
    for name in ("scale", "offset", "nodata"):
        numbers = {reading.band: getattr(reading, name) for reading in readings}
        described[name] = next(iter(numbers.values())) if len(set(numbers.values())) == 1 else numbers
    return {name: value for name, value in described.items() if (name, value) != ("scale", 1.0)}


def given_components(path: Path | None, features: int, meaning: str) -> Components | None:
    """Return the components of another embedding, if asked for.

    Args:
        path: the file, or ``None``.
        features: how many features there are.
        meaning: what they mean, see :func:`eo_backbones.scenes.request.features_digest`.

    Raises:
        UserError: no such file, or components of other features.
    """
    if path is None:
        return None
    given = Components.load(path)
    if given.belongs_to != meaning or given.axes.shape[1] != features:
        raise UserError(f"{path} belongs to another model, other bands or --fuse; pass those it was made with")
    return given


def _projected(unfinished: UnfinishedEmbedding, components: Components | None) -> Rows:
    """Return a function that gives the rows of cells anew, as features or as components."""
    if components is None:
        return unfinished.read
    return lambda: (components.project(row) for row in unfinished.read())


def band_titles(components: Components | None) -> list[str]:
    """Return what the bands of the output are called; features have no names."""
    return [] if components is None else [f"component {number}" for number in range(1, len(components.axes) + 1)]


def _write_preview(
    request: EmbedRequest, unfinished: UnfinishedEmbedding, kept: Components | None, valid: np.ndarray, meaning: str
) -> Path:
    """Draw the first components, computed for the purpose where the output holds features; return the path."""
    path, count = preview_file(request.out), min(_DISPLAYED, int(valid.sum()) - 1, unfinished.features)
    if kept is None and count < 1:
        logger.warning("%s shows one colour: a single cell has no components", path)
        write_components_picture(path, np.where(valid, 0.0, np.nan)[..., None])
        return path
    shown = kept or principal_components(unfinished.read(), valid, count, belongs_to=meaning)
    write_components_picture(path, np.stack([row[:, :_DISPLAYED] for row in _projected(unfinished, shown)()]))
    return path
