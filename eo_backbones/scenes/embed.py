"""A scene to a file of embeddings: read, compute, reduce, write.

Windows of the scene go in batches through the encoder. Rows of cells go to disk as soon as they are computed
(:class:`UnfinishedEmbedding`), so that the work survives a kill and memory holds one block of rows only.
Everything after that (components, dtype, preview) reads them again, row by row.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eo_backbones.device import inference
from eo_backbones.errors import UserError
from eo_backbones.inputs import InputTransform
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.progress import SILENT, Progress
from eo_backbones.rasters.band_files import find_bands
from eo_backbones.rasters.reader import local_file, tell_sources
from eo_backbones.rasters.scaling import BandReading
from eo_backbones.scenes.components import Components, components_file, principal_components
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.outputs import Rows, write_components_picture, write_geotiff, write_parquet
from eo_backbones.scenes.request import EmbedRequest, features_digest, identity_of, load_network, preview_file
from eo_backbones.scenes.scene import Scene, cell_rows

logger = logging.getLogger(__name__)

CELLS_PER_BLOCK = 2048
"""Rows of cells go to disk in blocks of at least so many cells: a few seconds of a CPU core."""
PIXELS_PER_BATCH: Mapping[str, int] = MappingProxyType({"cpu": 256 * 64 * 64, "cuda": 2048 * 64 * 64})
"""Kind of device -> pixels in a batch, all bands together: 256 windows of 64 pixels on a CPU, where the caches set the
limit; a GPU needs more to be busy."""
_DISPLAYED = 3  # components of the preview
_UNFINISHED_FORMAT = 1  # part of every job: changed when the same job would give other rows
_WITHOUT_EFFECT = 0.1  # max_nodata of a complete scene, as earlier versions wrote it: their unfinished rows go on
_JOB_FILE, _FEATURES_FILE = "job.json", "features.f32"


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
        cells_per_block: see :data:`CELLS_PER_BLOCK`.
        pixels_per_batch: default: what suits the device, see :data:`PIXELS_PER_BATCH`.

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
    given = _given_components(request, network.num_features, meaning)
    started = time.monotonic()
    with Scene(bands, request.reading.for_bands(names)) as scene:
        scene.warn_unplaced()
        grid = Grid(
            height=scene.height,
            width=scene.width,
            size=request.size,
            stride=request.stride,
            scene_transform=scene.transform,
            crs=scene.crs,
        )
        tell_sources(scene.readings)
        scene.check_units(spec)
        facts: dict[str, Any] = {
            "model": request.model,
            "weights_sha256": weights,
            "bands": names,
            "units": scene.units,
            "fuse": request.fuse,
            **_described(scene.readings),
            "max_nodata": request.max_nodata,
            "size": request.size,
            "stride": request.stride,
        }
        decisive = {key: value for key, value in facts.items() if key != "model"}
        if scene.may_miss:
            decisive["fill"] = "mean"  # of the window's valid pixels; earlier versions took the lowest value
        else:
            decisive["max_nodata"] = _WITHOUT_EFFECT
        job = {**decisive, "scene": [identity_of(band) for band in bands], "features": meaning, "dtype": str(dtype)}
        if request.components is not None and request.components >= grid.rows * grid.cols:
            raise UserError(
                f"--components {request.components} need more cells than the {grid.rows * grid.cols:,} of this scene; "
                "pass fewer, or a smaller --stride"
            )
        unfinished = UnfinishedEmbedding(
            request.out, job, rows=grid.rows, cols=grid.cols, features=network.num_features
        )
        computed = compute(
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
            pixels_per_batch=pixels_per_batch or PIXELS_PER_BATCH[device.type],
        )
    valid = np.stack([~np.isnan(row[:, 0]) for row in unfinished.read()])
    if not valid.any():
        unfinished.remove()
        raise UserError(
            f"{', '.join(request.scene)}: every window has more than {request.max_nodata:.0%} missing pixels, so there "
            "is nothing to embed; check bands and --nodata, or raise --max-nodata"
        )
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
        if file_format == "parquet":
            write_parquet(request.out, rows, grid=grid, features=numbers, dtype=file_dtype, facts=facts)
        else:
            write_geotiff(
                request.out, rows, grid=grid, bands=numbers, dtype=file_dtype, facts=facts, names=_band_titles(kept)
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


class UnfinishedEmbedding:
    """The rows of features that are finished, in a folder beside the output that survives a kill.

    ``features.f32`` holds rows of cells, float32 ``(cols, features)``, NaN where a cell has no value; its length says
    how far it got. ``job.json`` says what it belongs to. The folder is removed when the output is whole.

    Args:
        out: the output that they belong to.
        job: everything that determines the features, as JSON types.
        rows, cols, features: how many there will be.

    Raises:
        UserError: the folder holds rows of another job, or the disk is too small.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], *, rows: int, cols: int, features: int) -> None:
        self.folder = out.with_name(f"{out.name}.part")
        self.rows, self.cols, self.features = rows, cols, features
        self._file = self.folder / _FEATURES_FILE
        self._begin(json.dumps({"format": _UNFINISHED_FORMAT, **job}, sort_keys=True, indent=1))

    def _begin(self, job: str) -> None:
        job_file = self.folder / _JOB_FILE
        if job_file.is_file():
            if job_file.read_text(encoding="utf-8") != job:
                raise UserError(
                    f"{self.folder} holds the unfinished embedding of another scene, model or setting; delete it to "
                    "start anew, or repeat its command to finish it"
                )
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write into {self.folder.parent}: {error.strerror}; pass another --out") from (
                    error
                )
            job_file.write_text(job, encoding="utf-8")
        needed = (self.rows - self.rows_done) * self.row_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{needed / 1e9:.1f} GB of features do not fit {self.folder.parent} ({free / 1e9:.1f} GB free); pass a "
                "larger --stride, or --out on another disk"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of cells."""
        return self.cols * self.features * 4

    @property
    def rows_done(self) -> int:
        """Number of whole rows in the file."""
        return self._file.stat().st_size // self.row_bytes if self._file.is_file() else 0

    def resume_at(self, row: int) -> None:
        """Drop everything from a row on: the part of a block that a kill left behind."""
        with self._file.open("ab") as file:
            file.truncate(row * self.row_bytes)

    def append(self, block: np.ndarray) -> None:
        """Add finished rows, float32 ``(n, cols, features)``."""
        with self._file.open("ab") as file:
            file.write(np.ascontiguousarray(block, np.float32).data)

    def read(self) -> Iterator[np.ndarray]:
        """Yield the rows in the file, float32 ``(cols, features)`` each."""
        with self._file.open("rb") as file:
            for _ in range(self.rows_done):
                values = np.frombuffer(file.read(self.row_bytes), np.float32)
                yield values.reshape(self.cols, self.features)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def compute(
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
    pixels_per_batch: int,
) -> int:
    """Compute the rows of cells that are not there yet; return how many cells were computed.

    Args:
        scene: the open scene.
        grid: its windows.
        network: the encoder, in eval mode; it is moved to the device.
        prepare: raw values to its input.
        unfinished: where the rows go.
        max_nodata: a window has no value if more than this share of its pixels is missing in any band.
        device: where to compute.
        dtype: of the network's computation; bfloat16 runs under autocast.
        progress: where progress is reported, after each block.
        cells_per_block: cells of a block of rows, at least.
        pixels_per_batch: pixels of a batch, all bands together, at most (but one window).
    """
    done, block = unfinished.rows_done, -(-cells_per_block // grid.cols)
    if done == grid.rows:
        return 0
    start = done // block * block  # whole blocks only: the same batches, hence the same features, as without a kill
    unfinished.resume_at(start)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = max(1, pixels_per_batch // (len(scene.bands) * grid.size**2))
    rows = cell_rows(scene, grid, start, grid.rows)
    with (
        progress.stage(f"embed {grid.rows} x {grid.cols} cells", grid.rows * grid.cols, start * grid.cols) as tick,
        inference(device, dtype),
    ):
        for first in range(start, grid.rows, block):
            count = min(block, grid.rows - first)
            values = np.full((count * grid.cols, unfinished.features), np.nan, np.float32)
            windows = _valid_windows(islice(rows, count), grid, first, batch, max_nodata, device)
            for cells, images in _batches(windows, batch):
                values[cells] = network(prepare(images)).float().cpu().numpy()
            unfinished.append(values)
            tick(count * grid.cols)
    return (grid.rows - start) * grid.cols


def _valid_windows(
    rows: Iterable[tuple[int, np.ndarray]],
    grid: Grid,
    first: int,
    at_once: int,
    max_nodata: float,
    device: torch.device,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield windows that have a value: indices of their cells, counted from row ``first``, and their pixels.

    Yields:
        int64 ``(n,)``, and a copy ``(n, bands, size, size)``; at most ``at_once`` windows.
    """
    for row, pixels in rows:
        views = torch.from_numpy(pixels).to(device).unfold(-1, grid.size, grid.stride).permute(2, 0, 1, 3)
        for start in range(0, grid.cols, at_once):
            part = views[start : start + at_once]
            missing = part.isnan().float().mean(dim=(2, 3)).amax(dim=1)
            kept = (missing <= max_nodata).nonzero()[:, 0]
            if len(kept):
                yield (row - first) * grid.cols + start + kept.cpu().numpy(), part[kept]


def _batches(windows: Iterable[tuple[np.ndarray, Tensor]], size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Combine windows of several rows into batches of the given size; the last may be smaller."""
    waiting: list[tuple[np.ndarray, Tensor]] = []
    for item in windows:
        waiting.append(item)
        if sum(len(cells) for cells, _ in waiting) >= size:
            cells, images = _joined(waiting)
            yield cells[:size], images[:size]
            waiting = [(cells[size:], images[size:])] if len(cells) > size else []
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[np.ndarray, Tensor]]) -> tuple[np.ndarray, Tensor]:
    return np.concatenate([cells for cells, _ in parts]), torch.cat([images for _, images in parts])


def _described(readings: Sequence[BandReading]) -> dict[str, Any]:
    """Return scale, offset and nodata of the bands as JSON types: one number where it is that of all; no scale of 1."""
    described: dict[str, Any] = {}
    for name in ("scale", "offset", "nodata"):
        numbers = {reading.band: getattr(reading, name) for reading in readings}
        described[name] = next(iter(numbers.values())) if len(set(numbers.values())) == 1 else numbers
    return {name: value for name, value in described.items() if (name, value) != ("scale", 1.0)}


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


def _band_titles(components: Components | None) -> list[str]:
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
