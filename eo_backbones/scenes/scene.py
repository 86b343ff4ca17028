"""A scene, opened: its bands on one grid of pixels, read by rows of pixels with missing values as NaN."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, Self

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from eo_backbones.contract import InputSpec, Unit
from eo_backbones.errors import UserError, without_secrets
from eo_backbones.inputs import UnitError, as_options, check_values
from eo_backbones.rasters.band_files import BandFile
from eo_backbones.rasters.offset_test import refuse_shifted
from eo_backbones.rasters.reader import (
    RasterFacts,
    as_values,
    is_remote,
    network_settings,
    opened,
    readings_of,
    stored_and_missing,
)
from eo_backbones.rasters.scaling import BandReading, DeclaredReading, levels_differ
from eo_backbones.scenes.grid import Grid, at

logger = logging.getLogger(__name__)

_SAME_PIXEL = 0.01  # grids whose corners lie closer, in pixels, are the same grid
_MIN_CACHE_MIB, _MAX_CACHE_MIB = 64, 512
_SAMPLES_PER_SIDE, _SAMPLE_PX = 5, 256  # what check_units looks at


class PixelSource(Protocol):
    """What windows are cut from: a :class:`Scene`, or an array in memory."""

    @property
    def bands(self) -> Sequence[object]:
        """One for each channel."""

    def read(self, out: np.ndarray, *, top: int, left: int = 0) -> None:
        """Fill ``out``, float32 ``(bands, height, width)``, with the values from pixel ``(top, left)`` on."""


class Scene:
    """Bands of one scene; use it as a context manager.

    Args:
        bands: where each one is.
        declared: what the user says about the stored values.

    Attributes:
        height, width: pixels.
        transform: pixel ``(col, row)`` -> coordinates.
        crs: of the coordinates, or ``None``.
        dtypes: dtype of each band.
        readings: how stored values become values, one for each band.

    Raises:
        UserError: on entering: a file cannot be read, holds complex numbers, is not on the grid of the first, or what
            is said about its values contradicts itself.
    """

    height: int
    width: int
    transform: Affine
    crs: CRS | None

    def __init__(self, bands: Sequence[BandFile], declared: DeclaredReading | None = None) -> None:
        self.bands = tuple(bands)
        self.dtypes: tuple[str, ...] = ()
        self.readings: tuple[BandReading, ...] = ()
        self._declared = declared or DeclaredReading()
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            remote = any(is_remote(band.path) for band in self.bands)
            settings = network_settings() if remote else {}
            listing = "EMPTY_DIR" if remote else "FALSE"
            stack.enter_context(rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=listing, **settings))
            self._open = {
                path: stack.enter_context(opened(path, settings=False)) for path in {b.path: None for b in self.bands}
            }
            first = self._open[self.bands[0].path]
            self.height, self.width, self.crs, self.transform = first.height, first.width, first.crs, first.transform
            for path, dataset in self._open.items():
                self._check_grid(path, dataset)
            self.dtypes = tuple(self._open[band.path].dtypes[band.index - 1] for band in self.bands)
            for band, dtype in zip(self.bands, self.dtypes, strict=True):
                if dtype.startswith("complex"):
                    raise UserError(f"{band.path} holds complex numbers; convert it to sigma nought in dB first")
            self.readings = tuple(
                readings_of(
                    band.path, self._open[band.path], {band.name: band.index}, self._declared, {band.name: band.said}
                )[0]
                for band in self.bands
            )
            cache = min(max(2 * sum(map(_row_of_blocks, self._open.values())) >> 20, _MIN_CACHE_MIB), _MAX_CACHE_MIB)
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=cache))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, out: np.ndarray, *, top: int, left: int = 0) -> None:
        """Fill ``out``, float32 ``(bands, height, width)``, with the values from pixel ``(top, left)`` on.

        Values are in the unit of the band's reading. Missing pixels (:mod:`eo_backbones.rasters.reader`) are NaN.

        Raises:
            UserError: a file is damaged.
        """
        window = Window(left, top, out.shape[2], out.shape[1])
        for target, band, reading in zip(out, self.bands, self.readings, strict=True):
            stored, missing = stored_and_missing(
                self._open[band.path], band.path, [band.index], [reading.missing_values], window
            )
            target[:] = as_values(stored[0], None if missing is None else missing[0], reading)

    @property
    def may_miss(self) -> bool:
        """Whether any pixel can be missing: by a nodata value, mask or alpha band, or because it is no number."""
        return (
            any(RasterFacts.of(dataset).may_miss for dataset in self._open.values())
            or any(reading.nodata is not None for reading in self.readings)
            or any(dtype.startswith("float") for dtype in self.dtypes)
        )

    @property
    def tile_height(self) -> int:
        """Rows of pixels that are decoded together, the largest of any file."""
        return max(int(dataset.block_shapes[0][0]) for dataset in self._open.values())

    @property
    def units(self) -> tuple[Unit, ...]:
        """Unit of the values of each band."""
        return tuple(reading.unit for reading in self.readings)

    def check_units(self, spec: InputSpec) -> None:
        """Compare the values with their units, on windows spread over the scene.

        Once for the scene and not window by window: a single window may hold bright or dark ground only.

        Args:
            spec: contract of the model.

        Raises:
            UnitError: the values cannot be in the unit.
        """
        windows = list(self._sample())
        refuse_shifted(((values, self.readings) for values in windows), self.bands[0].path)
        warning = levels_differ((reading.level for reading in self.readings), spec.processing_levels)
        if warning:
            logger.warning("%s: %s", without_secrets(self.bands[0].path), warning)
        sample = np.concatenate([values.reshape(len(self.bands), -1) for values in windows], axis=1)
        for band, dtype, reading, values in zip(self.bands, self.dtypes, self.readings, sample, strict=True):
            finite = values[np.isfinite(values)]
            if not finite.size:
                continue
            tensor = torch.from_numpy(finite)
            as_stored = tensor.to(torch.uint8) if dtype == "uint8" and reading.unchanged else tensor
            several = (band.name,) if len(self.bands) > 1 else ()
            finding = check_values(
                as_stored, spec.for_band(band.name), reading.unit, scale=reading.scale, offset=reading.offset
            )
            if finding and finding.certain:
                raise UnitError(f"{band.path}: {as_options(finding.message, *several)}")
            if not finite.any():
                logger.warning(
                    "%s: band %s looks all zero; if 0 means missing, say so in the file (gdal_edit -a_nodata 0)",
                    without_secrets(band.path),
                    band.name,
                )
            elif finding:
                logger.warning("%s: %s", without_secrets(band.path), as_options(finding.message, *several))

    def _sample(self) -> Iterator[np.ndarray]:
        height, width = min(self.height, _SAMPLE_PX), min(self.width, _SAMPLE_PX)
        for top in _spread(self.height - height):
            for left in _spread(self.width - width):
                values = np.empty((len(self.bands), height, width), np.float32)
                self.read(values, top=top, left=left)
                yield values

    def _check_grid(self, path: str, dataset: Any) -> None:
        """Refuse a file that is not on the grid of the first."""
        first = self.bands[0].path
        command = f"gdalbuildvrt -separate -resolution highest -r bilinear S.vrt {first}"
        how = f"resample them to one grid first, e.g. {command}"
        if (dataset.height, dataset.width) != (self.height, self.width):
            raise UserError(
                f"the bands differ in size: {first} has {self.width} x {self.height} pixels, {path} {dataset.width} x "
                f"{dataset.height}; {how} {path}"
            )
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        offset_px = max(math.dist(corner, at(~self.transform, *at(dataset.transform, *corner))) for corner in corners)
        if dataset.crs != self.crs or offset_px > _SAME_PIXEL:
            raise UserError(f"{path} is not on the pixel grid of {first} (another place or projection); {how} {path}")

    def warn_control_points(self) -> bool:
        """Warn, and return ``True``, where a scene is georeferenced by control points only: outputs of it are not.

        A picture without any coordinates is no reason for a warning.
        """
        path = self.bands[0].path
        only_by_points = bool(self._open[path].gcps[0]) and self.transform.is_identity
        if only_by_points:
            shown = without_secrets(path)
            logger.warning("%s is georeferenced by control points only; warp it first (gdalwarp) to get a map", shown)
        return only_by_points

    def warn_unplaced(self) -> None:
        """Warn where the scene is not georeferenced."""
        if not self.warn_control_points() and self.crs is None:
            path = without_secrets(self.bands[0].path)
            logger.warning("%s has no coordinate system, so the embeddings have none either", path)


def _spread(last: int) -> list[int]:
    """Return a few starts from 0 to ``last``."""
    return sorted({round(last * step / (_SAMPLES_PER_SIDE - 1)) for step in range(_SAMPLES_PER_SIDE)})


def _row_of_blocks(dataset: Any) -> int:
    """Return the bytes of one row of a file's blocks, decoded: what must stay in the cache to be decoded once."""
    high, wide = dataset.block_shapes[0]
    bands = dataset.count if dataset.interleaving is not None and dataset.interleaving.value == "PIXEL" else 1
    return int(high * math.ceil(dataset.width / wide) * wide * bands * np.dtype(dataset.dtypes[0]).itemsize)


def cell_rows(scene: PixelSource, grid: Grid, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Read rows of windows, each row of pixels once.

    Args:
        scene: the open scene.
        grid: its windows.
        first: row of windows to begin with.
        last: row of windows to end before.

    Yields:
        Number of the row and its pixels, float32 ``(bands, size, columns_px)``. The array is reused.
    """
    buffer = np.empty((len(scene.bands), grid.size, grid.columns_px), np.float32)
    shared = max(grid.size - grid.stride, 0)
    for row in range(first, last):
        held = shared if row > first else 0
        if held:
            buffer[:, :held] = buffer[:, grid.stride :].copy()
        scene.read(buffer[:, held:], top=row * grid.stride + held)
        yield row, buffer
