"""The one place that opens a GeoTIFF: bands by name, values as stored.

A band is found, in this order: by an explicit 1-based index in the request (``"B04=4"``), by the file's own band
descriptions under any alias, by the layout that the caller knows the file to have, by the colours of a picture (red,
green, blue are B04, B03, B02), by the order that a file of 13, 12 or 2 bands usually has. The last two are guesses and
are logged as such.

The GDAL settings follow a measurement of this project: without them every ``open`` lists the file's folder and looks
for side-car files, which takes three times as long where a folder holds a thousand patches.
"""

import logging
import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from eo_backbones.bands import LAYOUTS, band, band_named_in, band_names
from eo_backbones.errors import UserError, unknown_name

logger = logging.getLogger(__name__)

USUAL_LAYOUTS = {13: "sen12ms-s2", 12: "bigearthnet-s2", 2: "sen12ms-s1"}
"""Band count of a file without band descriptions -> the layout it is read by."""

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_MAX_PICTURE_CHANNELS = 4  # with an alpha channel; GDAL calls the first three bands of any 8-bit file red, green, blue
_BY_POSITION = "each band with its position in the file, e.g. B04=4"
_GDAL_CACHE_MIB = 16  # every block is read once; a large cache only costs memory


def gdal_environment() -> rasterio.Env:
    """Return the GDAL settings for many small reads, as a context manager; the functions here enter it themselves."""
    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",  # else every open lists a folder of hundreds of files
        GDAL_PAM_ENABLED="NO",
        GDAL_CACHEMAX=_GDAL_CACHE_MIB,
        GTIFF_VIRTUAL_MEM_IO="YES",  # uncompressed files past the block cache: measured twice as fast
    )


class _SharedFilter:
    """Ignores a kind of warning as long as at least one thread is inside.

    ``warnings.catch_warnings`` in each thread would restore what another thread has set: the filter could stay for
    ever.
    """

    def __init__(self, category: type[Warning]) -> None:
        self._category = category
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.simplefilter("ignore", self._category)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.__exit__(None, None, None)


_GEOREFERENCE_FILTER = _SharedFilter(NotGeoreferencedWarning)


def without_georeference_warnings() -> AbstractContextManager[None]:
    """Silence rasterio's warning about files without coordinates, where none are needed."""
    return _GEOREFERENCE_FILTER


def split_request(requested: str) -> tuple[str, int | None]:
    """Return the canonical band name of a request and its explicit 1-based index, if it has one.

    Raises:
        UserError: the name is unknown, or the index is not a positive whole number.
    """
    name, equals, index = requested.partition("=")
    if not equals:
        return band(name).name, None
    if not index.strip().isdecimal() or int(index) < 1:
        raise UserError(
            f"band {requested!r}: after '=' comes the band's position in the file, counted from 1, e.g. B04=4"
        )
    return band(name).name, int(index)


def resolve_bands(path: Path, requested: Sequence[str], *, layout: str | None = None) -> list[int]:
    """Return the 1-based GDAL indexes of bands in a file.

    Args:
        path: a raster file.
        requested: band names under any alias, each with an optional index (``"B04=4"``).
        layout: key of :data:`eo_backbones.bands.LAYOUTS` that a file without band descriptions must follow.

    Raises:
        UserError: the file is missing or damaged, a band is unknown or not in the file, the number of bands does not
            fit the layout.
    """
    with gdal_environment(), _opened(path, None) as dataset:
        return _indexes(dataset, path, requested, layout)


def read_bands(
    path: Path, requested: Sequence[str], *, layout: str | None = None, content: bytes | None = None
) -> np.ndarray:
    """Return bands of a file as ``(len(requested), height, width)`` in the file's own dtype and unit.

    Args:
        path: a raster file, or the name to use in messages if ``content`` is given.
        requested: as in :func:`resolve_bands`.
        layout: as in :func:`resolve_bands`.
        content: the bytes of the file, for members of an archive.

    Raises:
        UserError: as :func:`resolve_bands`.
    """
    with gdal_environment(), _opened(path, content) as dataset:
        return _values(dataset, path, _indexes(dataset, path, requested, layout))


def read_positions(path: Path, positions: Sequence[int]) -> np.ndarray:
    """Return bands of a file by their position in it, counted from 1, as :func:`read_bands` does.

    Raises:
        UserError: the file is missing or damaged, or has fewer bands.
    """
    with gdal_environment(), _opened(path, None) as dataset:
        _refuse_absent(dataset, path, positions)
        return _values(dataset, path, positions)


def read_valid(path: Path, positions: Sequence[int]) -> np.ndarray:
    """Return bands as :func:`read_positions`, with NaN where nodata, mask or alpha of the file says "no value".

    Returns:
        ``(bands, height, width)``: dtype of the file where every pixel has a value, else float32.

    Raises:
        UserError: as :func:`read_positions`.
    """
    with gdal_environment(), _opened(path, None) as dataset:
        _refuse_absent(dataset, path, positions)
        values = _values(dataset, path, positions)
        if all(MaskFlags.all_valid in dataset.mask_flag_enums[index - 1] for index in positions):
            return values
        try:
            missing = dataset.read_masks(list(positions)) == 0
        except RasterioError as error:
            raise _damaged(path, error) from error
    return np.where(missing, np.float32("nan"), values.astype(np.float32)) if missing.any() else values


@dataclass(frozen=True, slots=True)
class RasterFacts:
    """What the header of a file says."""

    count: int
    width: int
    height: int
    dtype: str
    descriptions: tuple[str | None, ...]
    nodata: float | None


def facts_of(path: Path) -> RasterFacts:
    """Return what the header of a file says.

    Raises:
        UserError: the file is missing or damaged.
    """
    with gdal_environment(), _opened(path, None) as dataset:
        return RasterFacts(
            dataset.count,
            dataset.width,
            dataset.height,
            dataset.dtypes[0],
            tuple(dataset.descriptions),
            dataset.nodata,
        )


def band_order(path: Path) -> tuple[str | None, ...]:
    """Return the band at each position of a file, ``None`` where it is unknown; a guess is logged.

    Raises:
        UserError: the file is missing or damaged, or its bands cannot be identified.
    """
    with gdal_environment(), _opened(path, None) as dataset:
        return order_in(dataset, path)


class _opened:  # noqa: N801 -- a context manager, used like a function
    """A rasterio dataset of a path or of bytes, with GDAL's errors as user errors."""

    def __init__(self, path: Path, content: bytes | None) -> None:
        self._path, self._content = path, content
        self._memory: MemoryFile | None = None

    def __enter__(self) -> Any:
        if self._content is None and not self._path.is_file():
            raise UserError(f"no file {self._path}; check the path")
        if self._content == b"":  # rasterio would take it for a file that is still to be written
            raise _damaged(self._path, RasterioError("no bytes"))
        try:
            with without_georeference_warnings():
                if self._content is None:
                    self._dataset = rasterio.open(self._path)
                else:
                    self._memory = MemoryFile(self._content)
                    self._dataset = self._memory.open()
        except RasterioError as error:
            raise _damaged(self._path, error) from error
        return self._dataset

    def __exit__(self, *_: object) -> None:
        self._dataset.close()
        if self._memory is not None:
            self._memory.close()


def _values(dataset: Any, path: Path, indexes: Sequence[int]) -> np.ndarray:
    try:
        values: np.ndarray = dataset.read(list(indexes))
    except RasterioError as error:
        raise _damaged(path, error) from error
    return values


def _refuse_absent(dataset: Any, path: Path, positions: Sequence[int]) -> None:
    if max(positions) > dataset.count:
        raise UserError(f"{path} has {dataset.count} bands, band number {max(positions)} is not in it")


def _damaged(path: Path, error: RasterioError) -> UserError:
    reason = str(error.__cause__ or error).splitlines()[0]
    return UserError(f"cannot read {path}: it is truncated or not a raster image ({reason}); copy or download it again")


def _indexes(dataset: Any, path: Path, requested: Sequence[str], layout: str | None) -> list[int]:
    """Find each requested band in an open dataset."""
    requests = [split_request(item) for item in requested]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    if all(index is not None for _, index in requests):
        order: tuple[str | None, ...] = ()
    else:
        order = order_in(dataset, path, layout=layout)
    found = []
    for name, index in requests:
        if index is None:
            if name not in order:
                present = ", ".join(known for known in order if known)
                raise UserError(f"{path} has no band {name}; it has {present}")
            found.append(order.index(name) + 1)
        elif index > dataset.count:
            raise UserError(f"{path} has {dataset.count} bands, so {name}={index} is not in it")
        else:
            found.append(index)
    return found


def order_in(dataset: Any, path: Path | str, *, layout: str | None = None) -> tuple[str | None, ...]:
    """Return the band at each position of an open rasterio dataset, as :func:`band_order` does for a file.

    Args:
        dataset: the open dataset.
        path: its name in messages.
        layout: as in :func:`resolve_bands`.

    Raises:
        UserError: its bands cannot be identified, or it does not fit the layout.
    """
    described = tuple(band_named_in(text) for text in dataset.descriptions)
    if any(described):
        repeated = {name for name in described if name and described.count(name) > 1}
        if repeated:
            raise UserError(
                f"{path} describes more than one band as {', '.join(sorted(repeated))}; pass {_BY_POSITION}"
            )
        return described
    if layout is not None:
        if layout not in LAYOUTS:
            raise unknown_name("band layout", layout, LAYOUTS)
        expected = LAYOUTS[layout]
        if dataset.count != len(expected):
            raise UserError(
                f"{path} has {dataset.count} bands, a {layout} file has {len(expected)} ({', '.join(expected)}); "
                "check that the folder holds the data set you named"
            )
        return expected
    if tuple(dataset.colorinterp[:3]) == _RGB and dataset.count <= _MAX_PICTURE_CHANNELS:
        logger.warning("%s: its red, green and blue are taken to be %s", path, ", ".join(LAYOUTS["eurosat-rgb"]))
        return (*LAYOUTS["eurosat-rgb"], *(None for _ in range(dataset.count - 3)))
    if dataset.count not in USUAL_LAYOUTS:
        raise UserError(
            f"{path} has {dataset.count} bands without names; only files of 13, 12 or 2 bands have a usual order, "
            f"so pass {_BY_POSITION}"
        )
    usual = USUAL_LAYOUTS[dataset.count]
    logger.warning(
        "%s has no band names: its %d bands are taken to be %s; if they are not, pass %s",
        path,
        dataset.count,
        ", ".join(LAYOUTS[usual]),
        _BY_POSITION,
    )
    return LAYOUTS[usual]
