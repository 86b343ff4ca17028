"""What the tasks of a run share: the settings, a scene that was looked at, and the encoder of a process.

All of it can be sent to other processes, but for the encoder, which each one loads.
"""

import hashlib
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rasterio.errors import RasterioError

from eo_backbones.contract import InputSpec
from eo_backbones.errors import UserError, without_secrets
from eo_backbones.files import as_user_error, write_problem
from eo_backbones.networks.multi_band import MultiBand
from eo_backbones.rasters.band_files import BandFile
from eo_backbones.rasters.reader import SIDECARS, is_gdal_name, local_file
from eo_backbones.rasters.scaling import BandReading
from eo_backbones.regions.layout import RegionFormat
from eo_backbones.regions.parts import Parts
from eo_backbones.regions.request import RegionRequest
from eo_backbones.regions.sources import SceneSource
from eo_backbones.scenes.embed import scene_grid
from eo_backbones.scenes.encoding import EmbeddingDtype
from eo_backbones.scenes.grid import Grid
from eo_backbones.scenes.request import features_digest, load_network
from eo_backbones.scenes.scene import Scene


class RunError(UserError):
    """Nothing can go on in this process, whatever the scene: another model, a full disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionJob:
    """What all tasks of a run have in common.

    Attributes:
        request: the settings.
        folder: of the region, absolute.
        weights: sha256 of the encoder's weights.
        meaning: of :func:`eo_backbones.scenes.request.features_digest`.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``: each process chooses its own.
        dtype: of the network's computation.
        file_format, file_dtype: of the embeddings.
        numbers: values of a cell.
        components_sha256: of the file with the shared components; ``None`` without any.
        cells_per_block: see :data:`eo_backbones.scenes.compute.CELLS_PER_BLOCK`.
        pixels_per_batch: see :func:`eo_backbones.scenes.compute.compute_blocks`.
    """

    request: RegionRequest
    folder: Path
    weights: str
    meaning: str
    device: str
    dtype: torch.dtype
    file_format: RegionFormat
    file_dtype: EmbeddingDtype
    numbers: int
    components_sha256: str | None
    cells_per_block: int
    pixels_per_batch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenePlan:
    """A scene whose files were looked at.

    Attributes:
        source: where it is.
        bands: where its bands are.
        identity: of :func:`source_identity`.
        grid: its windows.
        facts: what its embedding is of, as JSON types.
        readings: how its stored values are read.
        rows_a_block: rows of cells that are computed together.
        rows_a_tile: rows of cells that one row of the file's tiles reaches, rounded up.
    """

    source: SceneSource
    bands: tuple[BandFile, ...]
    identity: str
    grid: Grid
    facts: dict[str, Any]
    readings: tuple[BandReading, ...]
    rows_a_block: int
    rows_a_tile: int

    @property
    def cells(self) -> int:
        """Cells of the grid."""
        return self.grid.rows * self.grid.cols

    @property
    def km2(self) -> float | None:
        """Area of the grid; ``None`` without a coordinate system."""
        return None if self.grid.cell_km2 is None else self.grid.cell_km2 * self.cells

    def parts(self, job: RegionJob) -> Parts:
        """Return where its finished blocks are."""
        return Parts(
            folder=job.folder,
            scene=self.source.id,
            job=f"{self.identity} {self.grid.rows} {self.grid.cols} {job.components_sha256}",
            rows=self.grid.rows,
            cols=self.grid.cols,
            rows_a_block=self.rows_a_block,
            numbers=job.numbers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The encoder of a process.

    Attributes:
        network: for the bands, in eval mode.
        spec: its input contract.
        weights: sha256.
        meaning: of :func:`eo_backbones.scenes.request.features_digest`.
    """

    network: MultiBand
    spec: InputSpec
    weights: str
    meaning: str


_loading = threading.Lock()
_loaded: dict[tuple[str, tuple[str, ...], str, str | None], Loaded] = {}


def load_encoder(request: RegionRequest, weights: str | None = None) -> Loaded:
    """Return the encoder, which a process loads once.

    Args:
        request: says which one.
        weights: sha256 that is expected; ``None``: read the files again.

    Raises:
        UserError: it cannot be loaded.
    """
    names = request.band_names
    key = (request.model, names, request.fuse, weights)
    with _loading:
        if weights is None or key not in _loaded:
            network, spec, found = load_network(request.model, names, request.fuse)
            meaning = features_digest(network, spec, found)
            _loaded.clear()
            _loaded[(*key[:3], found)] = Loaded(network=network, spec=spec, weights=found, meaning=meaning)
            return _loaded[(*key[:3], found)]
        return _loaded[key]


def forget_encoder() -> None:
    """Let go of the encoder of this process."""
    with _loading:
        _loaded.clear()


def source_identity(source: SceneSource, out: Path) -> str:
    """Return a digest of a scene: names, sizes and times of files on this machine, addresses of others.

    What a STAC item says about the values counts as well: where it is corrected, they are others.

    Args:
        source: the scene.
        out: folder of the region, absolute; it may be inside that of the scene, and does not belong to it.
    """
    told = [_file_identity(path, out) for path in source.paths]
    told += [[band.name, band.index, repr(band.said)] for band in source.located]
    told += [repr(source.said)] if source.said else []
    return hashlib.sha256(json.dumps([told, source.requested]).encode("utf-8", "backslashreplace")).hexdigest()


def _file_identity(path: str, out: Path) -> Any:
    local = local_file(path)
    if local is not None:
        beside = [one for suffix in SIDECARS if (one := local.with_name(f"{local.name}{suffix}")).is_file()]
        inside = path if is_gdal_name(path) else local.name
        return [inside, *([file.stat().st_size, file.stat().st_mtime_ns] for file in (local, *beside))]
    if Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if file.is_file() and out not in file.resolve().parents)
        return [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return without_secrets(path)  # another signature is the same file


def encoder_of(job: RegionJob) -> Loaded:
    """Return the encoder of this process.

    Raises:
        RunError: it cannot be loaded here, or is another one than that of the process that began the run.
    """
    try:
        loaded = load_encoder(job.request, job.weights)
    except UserError as error:
        raise RunError(f"{socket.gethostname()} cannot load the model: {error}") from error
    if (loaded.weights, loaded.meaning) != (job.weights, job.meaning):
        raise RunError(
            f"{job.request.model} is another model on {socket.gethostname()}: sha256 {loaded.weights[:12]}..., here "
            f"{job.weights[:12]}...; put the same files there"
        )
    return loaded


@contextmanager
def opened_scene(job: RegionJob, bands: Sequence[BandFile]) -> Iterator[tuple[Scene, Grid]]:
    """Open a scene and give it with its windows.

    Raises:
        UserError: it cannot be opened, or is smaller than a window.
    """
    with Scene(bands, job.request.reading.for_bands(job.request.band_names)) as scene:
        yield scene, scene_grid(scene, size=job.request.size, stride=job.request.stride)


@contextmanager
def writing(job: RegionJob) -> Iterator[None]:
    """Turn what the disk refuses into the end of the run.

    Raises:
        RunError: nothing can be written.
    """
    try:
        yield
    except OSError as error:
        said = as_user_error(error) or f"cannot write into {job.folder}: {write_problem(error)}"
        raise RunError(str(said)) from error
    except (RasterioError, UserError) as error:
        raise RunError(f"cannot write into {job.folder}: {write_problem(error)}; make room, and start again") from error
