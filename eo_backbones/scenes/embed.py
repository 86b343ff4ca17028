"""A scene to a file of embeddings: read, compute, reduce, write.

Features are kept on disk as they are computed (:mod:`eo_backbones.scenes.unfinished`), so that the work survives a kill
and memory holds a block of rows only. Everything after that (components, number format, preview) reads them again, row
by row.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones.scenes.band_files import find_bands
from eo_backbones.scenes.components import Components, components_file, principal_components
from eo_backbones.scenes.compute import Tick, compute
from eo_backbones.scenes.geotiff import Rows, write_geotiff
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.parquet import write_parquet
from eo_backbones.scenes.pictures import write_components_picture
from eo_backbones.scenes.request import EmbedRequest, features_digest, identity_of, load_network, units_of
from eo_backbones.scenes.scene import Scene
from eo_backbones.scenes.unfinished import UnfinishedEmbedding

Stage = Callable[[str, int], AbstractContextManager[Tick]]
"""Enters a stage of so many steps; the value is called with every number of steps done."""

_DISPLAYED = 3


@contextmanager
def silently(text: str, total: int) -> Iterator[Tick]:
    """Show no progress."""
    del text, total
    yield lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What was written.

    Attributes:
        out: the embeddings.
        preview: the picture, if asked for.
        components_file: mean and axes of the components, if there are any.
        rows, cols: cells.
        nodata_cells: how many of them have no value.
        numbers: numbers a cell.
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
    request: EmbedRequest, *, device: torch.device, dtype: torch.dtype, stage: Stage = silently
) -> Embedded:
    """Write the embeddings of a scene.

    Args:
        request: what to embed.
        device: where to compute.
        dtype: number format of the network; bfloat16 runs under autocast.
        stage: shows progress.

    Raises:
        UserError: anything about the request, the files or the model that the caller can correct.
    """
    chosen, number_format = request.checked()
    bands = find_bands(request.scene, request.bands)
    if request.out.resolve() in {Path(band.path).resolve() for band in bands}:
        raise UserError(f"--out {request.out} is a file of the scene itself; pass another name")
    names = [band.name for band in bands]
    network, spec, weights = load_network(request.model, names, request.fuse)
    request.check_width(network.num_features, chosen)
    meaning = features_digest(network, spec, weights)
    given = _given_components(request, network.num_features, meaning)
    started = time.monotonic()
    with Scene(bands, nodata=request.nodata) as scene:
        scene.warn_unplaced()
        grid = Grid(
            height=scene.height,
            width=scene.width,
            size=request.size,
            stride=request.stride,
            scene_transform=scene.transform,
            crs=scene.crs,
        )
        units = units_of(names, scene.dtypes, request.units)
        prepare = InputTransform(spec, band=names, unit=units, offset=request.offset, check="off")
        scene.check_units(spec, units)
        facts: dict[str, Any] = {
            "model": request.model,
            "weights_sha256": weights,
            "bands": names,
            "units": units,
            "fuse": request.fuse,
            "offset": request.offset,
            "nodata": request.nodata,
            "max_nodata": request.max_nodata,
            "size": request.size,
            "stride": request.stride,
        }
        decisive = {key: value for key, value in facts.items() if key != "model"}
        job = {**decisive, "scene": [identity_of(band) for band in bands], "features": meaning, "dtype": str(dtype)}
        unfinished = UnfinishedEmbedding(
            request.out, job, rows=grid.rows, cols=grid.cols, features=network.num_features
        )
        with stage(f"embed {grid.rows} x {grid.cols} cells", grid.rows * grid.cols) as tick:
            computed = compute(
                scene,
                grid,
                network,
                prepare,
                unfinished,
                max_nodata=request.max_nodata,
                device=device,
                dtype=dtype,
                tick=tick,
            )
    valid = np.stack([~np.isnan(row[:, 0]) for row in unfinished.read()])
    if not valid.any():
        unfinished.remove()
        raise UserError(
            f"{', '.join(request.scene)}: every window has more than {request.max_nodata:.0%} missing pixels, so there "
            "is nothing to embed; check bands and --nodata, or raise --max-nodata"
        )
    facts |= {"version": version("eo-backbones"), "scene": list(request.scene), "number_format": str(dtype)}
    with stage("write", grid.rows) as tick:
        kept = given
        if request.components is not None:
            kept = principal_components(unfinished.read(), valid, request.components, belongs_to=meaning)
        if kept is not None:
            facts |= {"components": len(kept.axes), "explained": kept.explained.tolist(), "features": meaning}
            kept.save(components_file(request.out))
        rows = _projected(unfinished, kept)
        numbers = network.num_features if kept is None else len(kept.axes)
        if chosen == "parquet":
            write_parquet(request.out, rows, grid=grid, features=numbers, dtype=number_format, facts=facts)
        else:
            write_geotiff(
                request.out, rows, grid=grid, bands=numbers, dtype=number_format, facts=facts, names=_names(kept)
            )
        preview = request.out.with_name(f"{request.out.stem}.png") if request.preview else None
        if preview is not None:
            shown = kept or principal_components(
                unfinished.read(), valid, min(_DISPLAYED, int(valid.sum()) - 1), belongs_to=meaning
            )
            first = [row[:, :_DISPLAYED] for row in _projected(unfinished, shown)()]
            write_components_picture(preview, np.stack(first))
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
        units=units,
        explained=None if kept is None else float(kept.explained.sum()),
        unused_px=(grid.width - grid.columns_px, grid.height - (grid.rows - 1) * grid.stride - grid.size),
        km2=None if cell is None else cell * grid.rows * grid.cols,
        seconds=seconds,
        computed_cells=computed,
        km2_per_s=cell * computed / seconds if cell is not None and computed else None,
    )


def _given_components(request: EmbedRequest, features: int, meaning: str) -> Components | None:
    """Return the components of another embedding, if asked for."""
    if request.components_from is None:
        return None
    path: Path = request.components_from
    given = Components.load(path)
    if given.belongs_to != meaning or given.axes.shape[1] != features:
        raise UserError(f"{path} belongs to another model, other bands or --fuse; pass those it was made with")
    return given


def _projected(unfinished: UnfinishedEmbedding, components: Components | None) -> Rows:
    """Return a function that gives the rows of cells anew, as features or as components."""
    if components is None:
        return unfinished.read
    return lambda: (components.project(row) for row in unfinished.read())


def _names(components: Components | None) -> list[str]:
    """Return what the bands of the output are called; features have no names."""
    return [] if components is None else [f"component {number}" for number in range(1, len(components.axes) + 1)]
