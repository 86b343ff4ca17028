"""The one place that opens rasters: bands by name, and their values with NaN where a pixel has none.

What decides whether a pixel has a value: the nodata value of its band, masks inside the file and beside it (``.msk``),
an alpha band, what ``.aux.xml`` adds, the user's ``--nodata``, and that the value is finite. A pixel is missing if any
of them says so; GDAL alone looks at the first that it finds.

A band is found, in this order: by an explicit 1-based index in the request (``"B04=4"``), by the file's own band
descriptions under any alias, by the layout that the caller knows the file to have, by the colours of a picture (red,
green, blue are B04, B03, B02), by the order that a file of 13, 12 or 2 bands usually has. The last two are guesses and
are logged as such.

The GDAL settings follow a measurement of this project: with GDAL's own every ``open`` lists the file's folder, which
takes twice as long where a folder holds a thousand patches. Sidecar files are looked for by name (2 % of the time).
"""

import logging
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from eo_backbones.bands import LAYOUTS, band, band_named_in, band_names
from eo_backbones.errors import UserError, unknown_name, without_secrets
from eo_backbones.rasters.metadata import statements_of
from eo_backbones.rasters.scaling import BandReading, DeclaredReading, resolve_reading
from eo_backbones.rasters.statements import Statement

logger = logging.getLogger(__name__)

USUAL_LAYOUTS = {13: "sen12ms-s2", 12: "bigearthnet-s2", 2: "sen12ms-s1"}
"""Band count of a file without band descriptions -> the layout it is read by."""

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_MAX_PICTURE_CHANNELS = 4  # with an alpha channel; GDAL calls the first three bands of any 8-bit file red, green, blue
_BY_POSITION = "each band with its position in the file, e.g. B04=4"
_NO_RANGES = "Range downloading not supported"  # gdal/port/cpl_vsil_curl.cpp
_GDAL_CACHE_MIB = 16  # every block is read once; a large cache only costs memory
_ONE_FILE = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2")  # formats of a single file, but for sidecars
SIDECARS = (".msk", ".aux.xml")
"""What GDAL appends to the name of a file for a mask beside it, and for nodata, scale and masks that it adds."""
_BAND_CODE = re.compile(r"(?:^|[_\-. ])(B0?[1-9]|B1[0-2]|B0?8A|VV|VH)(?=$|[_\-. ])", re.IGNORECASE)
"""A band in the name of a file of one band: T32TQM_20220601T102031_B04_10m.jp2."""
_DRIVER_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9_]+:")  # two letters at least: C: is a drive
_NETWORK = re.compile(r"^[a-z][a-z0-9+]*://|https?://|/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)")


_NETWORK_SETTINGS = {
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_LOW_SPEED_TIME": "60",  # seconds below the speed, then it counts as broken: no limit for slow networks
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_HTTP_MAX_RETRY": "3",  # of 429 and 5xx
    "GDAL_HTTP_RETRY_DELAY": "1",
}


def network_settings() -> dict[str, str]:
    """Return GDAL's settings for files on a network, so that none waits for ever; those of the environment stay."""
    return {name: value for name, value in _NETWORK_SETTINGS.items() if name not in os.environ}


def gdal_environment(path: Path | str | None = None) -> rasterio.Env:
    """Return GDAL's settings for many small reads, as a context manager; the functions here enter it themselves.

    Args:
        path: the file to open, which may have sidecar files that change what is read; ``None``: files without any.
    """
    settings: dict[str, Any] = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",  # else every open lists a folder of hundreds of files
        "GDAL_PAM_ENABLED": "NO",
    }
    if path is not None and is_remote(path):
        settings |= network_settings()
    elif path is not None:
        if Path(path).suffix.lower() not in _ONE_FILE or is_gdal_name(path):
            settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_PAM_ENABLED": "YES"}
        elif any(os.path.exists(f"{path}{suffix}") for suffix in SIDECARS):  # noqa: PTH110 -- half the time of Path
            settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE", "GDAL_PAM_ENABLED": "YES"}
    return rasterio.Env(
        **settings,
        GDAL_CACHEMAX=_GDAL_CACHE_MIB,
        GTIFF_VIRTUAL_MEM_IO="YES",  # uncompressed files past the block cache: measured twice as fast
    )


def is_gdal_name(path: Path | str) -> bool:
    """Return whether GDAL, and no file system, knows what a path means: ``https://``, ``/vsizip/``, ``NETCDF:"a":v``.

    ``GTIFF_DIR:1:a.tif`` is the first image in a file. A file whose name merely looks so is a file.
    """
    text = str(path)
    named = text.startswith("/vsi") or "://" in text or _DRIVER_PREFIX.match(text) is not None
    return named and not Path(text).is_file()


def is_remote(path: Path | str) -> bool:
    """Return whether a path is read over a network (``https://``, ``s3://``, ``/vsicurl/``...)."""
    return _NETWORK.search(str(path)) is not None


def local_file(path: Path | str) -> Path | None:
    """Return the file of this machine that a path means or GDAL's name for a part of one holds; ``None``: no such file.

    ``GTIFF_DIR:1:a.tif`` and ``/vsizip/a.zip/b.tif`` give ``a.tif`` and ``a.zip``.
    """
    text = str(path)
    if not is_gdal_name(path):
        return Path(text) if Path(text).is_file() else None
    parts = [part.strip('"') for part in text.split(":")]
    inside = re.sub(r"^(/vsi(zip|gzip|tar|7z|rar|subfile)/)+\{?", "", text)
    archives = [*PurePosixPath(inside).parents, PurePosixPath(inside)] if inside != text else []
    candidates = [*parts, *(str(archive).rstrip("}") for archive in archives)]
    return next((Path(part) for part in candidates if part and Path(part).is_file()), None)


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


GdalError = CPLE_BaseError
"""What GDAL reports where rasterio exports no class for it: a place off a projection, a disk that is full."""


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


def resolve_bands(path: Path | str, requested: Sequence[str], *, layout: str | None = None) -> list[int]:
    """Return the 1-based GDAL indexes of bands in a file.

    Args:
        path: a raster file.
        requested: band names under any alias, each with an optional index (``"B04=4"``).
        layout: key of :data:`eo_backbones.bands.LAYOUTS` that a file without band descriptions must follow.

    Raises:
        UserError: the file is missing or damaged, a band is unknown or not in the file, the number of bands does not
            fit the layout.
    """
    with opened(path) as dataset:
        return _indexes(dataset, path, requested, layout)


def read_bands(
    path: Path | str, requested: Sequence[str], *, layout: str | None = None, content: bytes | None = None
) -> np.ndarray:
    """Return bands of a file of a known data set as ``(len(requested), height, width)``, in the file's own unit.

    Args:
        path: a raster file, or the name to use in messages if ``content`` is given.
        requested: as in :func:`resolve_bands`.
        layout: as in :func:`resolve_bands`.
        content: the bytes of the file, for members of an archive.

    Returns:
        Dtype of the file where every pixel has a value, else float32 with NaN where it has none.

    Raises:
        UserError: as :func:`resolve_bands`; or a band without any valid pixel.
    """
    with opened(path, content) as dataset:
        indexes = _indexes(dataset, path, requested, layout)
        names = [split_request(item)[0] for item in requested]
        return _whole(dataset, path, names, indexes, [None] * len(indexes))


def read_declared(
    path: Path | str, requested: Sequence[str], declared: DeclaredReading
) -> tuple[np.ndarray, tuple[BandReading, ...]]:
    """Return bands of a user's file, and how they were read: as the user declares and the product says.

    Args:
        path: anything that GDAL opens.
        requested: as in :func:`resolve_bands`.
        declared: unit, scale, offset and nodata from the user.

    Returns:
        Values in the unit of the readings, as :func:`read_bands` returns them, and one reading a band.

    Raises:
        UserError: as :func:`read_bands`; or what is said about the values contradicts itself.
    """
    with opened(path) as dataset:
        indexes = _indexes(dataset, path, requested, None)
        names = [split_request(item)[0] for item in requested]
        readings = readings_of(path, dataset, dict(zip(names, indexes, strict=True)), declared)
        return _whole(dataset, path, names, indexes, readings), readings


def read_positions(path: Path | str, positions: Mapping[str, int], readings: Sequence[BandReading]) -> np.ndarray:
    """Return bands of a file by their position in it, as :func:`read_bands` does.

    Args:
        path: anything that GDAL opens.
        positions: band name -> position, counted from 1.
        readings: how each is read.

    Raises:
        UserError: the file is missing or damaged, has fewer bands, or a band without any valid pixel.
    """
    with opened(path) as dataset:
        _refuse_absent(dataset, path, list(positions.values()))
        return _whole(dataset, path, list(positions), list(positions.values()), readings)


def read_stored(path: Path | str, positions: Sequence[int]) -> np.ndarray:
    """Return bands by their position in a file, counted from 1, with the numbers that are stored: codes, not values.

    Raises:
        UserError: the file is missing or damaged, or has fewer bands.
    """
    with opened(path) as dataset:
        _refuse_absent(dataset, path, positions)
        return _stored(dataset, path, positions, None)


def read_codes(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Return the first band of a file of class numbers as stored, and where it holds one; both ``(height, width)``.

    Raises:
        UserError: the file is missing or damaged.
    """
    with opened(path) as dataset:
        stored, missing = stored_and_missing(dataset, path, [1], [()])
    return stored[0], np.ones(stored[0].shape, bool) if missing is None else ~missing[0]


def readings_of(
    path: Path | str,
    dataset: Any,
    positions: Mapping[str, int],
    declared: DeclaredReading,
    said: Mapping[str, Sequence[Statement]] = MappingProxyType({}),
) -> tuple[BandReading, ...]:
    """Return how bands of an open file are read.

    Args:
        path: its name.
        dataset: the open rasterio dataset.
        positions: canonical band name -> position, counted from 1.
        declared: what the user says.
        said: band name -> what is said of it elsewhere than in and beside the file (:attr:`BandFile.said`).

    Raises:
        UserError: what is said about the values contradicts itself, or they stand for colours of a palette.
    """
    refuse_palette(path, dataset, positions.values())
    readings = []
    for name, index in positions.items():
        dtype = dataset.dtypes[index - 1]
        statements = statements_of(str(path), dataset, index, name, said.get(name, ()))
        reading = resolve_reading(name, dtype, statements, declared, path=str(path))
        if dtype == "uint8" and reading.unchanged and reading.unit != "uint8":
            raise UserError(
                f"{path}: band {name}: values of type uint8 are display values, which is not --unit {reading.unit}; "
                f"pass --unit uint8, or the --scale and --offset that make it {reading.unit}"
            )
        readings.append(reading)
    return tuple(readings)


def tell_sources(readings: Iterable[BandReading], said: set[str] | None = None) -> None:
    """Log what products say about their values and for which bands, each line once.

    Args:
        readings: of files that are about to be used.
        said: lines of earlier calls; those of this one are added.
    """
    said = set() if said is None else said
    bands: dict[str, dict[str, None]] = {}
    for reading in readings:
        if reading.source:
            bands.setdefault(reading.source, {})[reading.band] = None
    for line in (f"{', '.join(names)}: {source}" for source, names in bands.items()):
        if line not in said:
            said.add(line)
            logger.info("%s", line)


def refuse_palette(path: Path | str, dataset: Any, positions: Iterable[int]) -> None:
    """Check that bands of an open file hold values, not numbers of colours; a palette that is a ramp of grey may be.

    Raises:
        UserError: one has a palette.
    """
    for index in positions:
        if dataset.colorinterp[index - 1] != ColorInterp.palette:
            continue
        colours = dataset.colormap(index)
        if any(colour[:3] != (number, number, number) for number, colour in colours.items()):
            raise UserError(
                f"{path} is a palette image: the numbers in band {index} stand for colours, not for values; write the "
                f"colours out with: gdal_translate -expand rgb {path} {Path(str(path)).stem}_rgb.tif"
            )


def stored_and_missing(
    dataset: Any,
    path: Path | str,
    positions: Sequence[int],
    nodata: Sequence[Sequence[float]],
    window: Window | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what an open file stores, and where that is no value.

    Args:
        dataset: the open rasterio dataset.
        path: its name in messages.
        positions: of the bands, counted from 1.
        nodata: further stored values of each band that mean "missing".
        window: part of the image; ``None``: all of it.

    Returns:
        ``(bands, height, width)`` in the file's dtype; and bool of that shape, or ``None`` where no pixel is missing.

    Raises:
        UserError: the file is damaged, or holds complex numbers.
    """
    stored = _stored(dataset, path, positions, window)
    try:
        alpha = _alpha(dataset, positions)
        transparent = None if alpha is None else dataset.read(alpha, window=window) == 0
        found = np.zeros(stored.shape, bool)
        for number, (index, extra) in enumerate(zip(positions, nodata, strict=True)):
            flags = dataset.mask_flag_enums[index - 1]
            if transparent is not None:
                found[number] |= transparent
            if MaskFlags.all_valid not in flags and MaskFlags.alpha not in flags:
                found[number] |= dataset.read_masks(index, window=window) == 0
            for marker in (*extra, None if MaskFlags.nodata in flags else dataset.nodatavals[index - 1]):
                if marker is not None:
                    found[number] |= _equal(stored[number], marker)
            if stored.dtype.kind == "f":
                found[number] |= ~np.isfinite(stored[number])
    except RasterioError as error:
        raise unreadable(path, error) from error
    return stored, found if found.any() else None


def as_values(stored: np.ndarray, missing: np.ndarray | None, reading: BandReading | None) -> np.ndarray:
    """Return the values of one band.

    Args:
        stored: as in the file, any shape.
        missing: where there is no value; ``None``: nowhere.
        reading: scale and offset; ``None``: the stored numbers are the values.

    Returns:
        ``stored`` itself where nothing is missing, scaled or added, else float32 with NaN where missing.
    """
    if reading is not None and not reading.unchanged:
        values = (stored.astype(np.float64) * reading.scale + reading.offset).astype(np.float32)
    elif missing is None:
        return stored
    else:
        values = stored.astype(np.float32)
    if missing is not None:
        values[missing] = np.nan
    return values


@dataclass(frozen=True, slots=True)
class RasterFacts:
    """What the header of a file says.

    Attributes:
        count, width, height: bands and pixels.
        dtype: of the first band.
        descriptions: of the bands.
        nodata: of the first band.
        may_miss: whether a nodata value, mask or alpha band can mark pixels as missing.
        driver: GDAL's name of the format.
        crs, transform: coordinate system, and pixels to coordinates; ``None`` where the file has none.
    """

    count: int
    width: int
    height: int
    dtype: str
    descriptions: tuple[str | None, ...]
    nodata: float | None
    may_miss: bool
    driver: str
    crs: CRS | None
    transform: Affine | None

    @classmethod
    def of(cls, dataset: Any) -> "RasterFacts":
        """Return what an open file's header says."""
        marked = any(MaskFlags.all_valid not in flags for flags in dataset.mask_flag_enums)
        return cls(
            dataset.count,
            dataset.width,
            dataset.height,
            dataset.dtypes[0],
            tuple(dataset.descriptions),
            dataset.nodata,
            marked or ColorInterp.alpha in dataset.colorinterp,
            dataset.driver,
            dataset.crs,
            None if dataset.transform.is_identity else dataset.transform,
        )


def facts_of(path: Path | str) -> RasterFacts:
    """Return what the header of a file says.

    Raises:
        UserError: the file is missing or damaged.
    """
    with opened(path) as dataset:
        return RasterFacts.of(dataset)


def band_order(path: Path | str) -> tuple[str | None, ...]:
    """Return the band at each position of a file, ``None`` where it is unknown; a guess is logged.

    Raises:
        UserError: the file is missing or damaged, or its bands cannot be identified.
    """
    with opened(path) as dataset:
        return order_in(dataset, path)


@contextmanager
def opened(path: Path | str, content: bytes | None = None, *, settings: bool = True) -> Iterator[Any]:
    """Open anything that GDAL opens, for reading.

    Args:
        path: a file, or a name that GDAL understands (:func:`is_gdal_name`).
        content: the bytes of the file; ``path`` is then its name in messages.
        settings: enter :func:`gdal_environment`; off where the caller has entered settings of its own.

    Raises:
        UserError: it is missing, or not a raster.
    """
    if content is None and not is_gdal_name(path) and not Path(path).is_file():
        raise UserError(f"no file {path}; check the path")
    if content == b"":  # rasterio would take it for a file that is still to be written
        raise unreadable(path, RasterioError("no bytes"))
    with ExitStack() as stack:
        if settings:
            stack.enter_context(gdal_environment(path if content is None else None))
        try:
            with without_georeference_warnings():
                dataset = _open(str(path)) if content is None else stack.enter_context(MemoryFile(content)).open()
        except RasterioError as error:
            raise unreadable(path, error) from error
        yield stack.enter_context(dataset)


def _open(path: str) -> Any:
    """Open a raster; of a server without ranges of bytes, such as ``python -m http.server``, as one stream."""
    try:
        return rasterio.open(path)
    except RasterioError as error:
        if not path.startswith(("http://", "https://")) or _NO_RANGES not in f"{error} {error.__cause__}":
            raise
        logger.info("%s: its server sends whole files only, so it is read as one stream", without_secrets(path))
        return rasterio.open(f"/vsicurl_streaming/{path}")


def unreadable(path: Path | str, error: Exception) -> UserError:
    """Return the error for a raster that GDAL cannot read."""
    reason = str(error.__cause__ or error).splitlines()[0]
    where = ", out of reach" if is_gdal_name(path) else ""
    return UserError(
        f"cannot read {path}: it is truncated{where} or not a raster image ({reason}); copy or download it again"
    )


def _whole(
    dataset: Any,
    path: Path | str,
    names: Sequence[str],
    indexes: Sequence[int],
    readings: Sequence[BandReading | None],
) -> np.ndarray:
    """Return whole bands as values.

    Raises:
        UserError: the file is damaged, or a band has no valid pixel.
    """
    nodata = [() if reading is None else reading.missing_values for reading in readings]
    stored, missing = stored_and_missing(dataset, path, indexes, nodata)
    if missing is not None:
        empty = [name for name, absent in zip(names, missing, strict=True) if absent.all()]
        if empty:
            raise UserError(
                f"{path}: band {', '.join(empty)} has no valid pixel (all are nodata, masked or not finite); leave the "
                "image out, or correct its nodata value"
            )
    if missing is None and all(reading is None or reading.unchanged for reading in readings):
        return stored
    absent = [None] * len(stored) if missing is None else missing
    values = [as_values(*parts) for parts in zip(stored, absent, readings, strict=True)]
    return np.stack(values).astype(np.float32, copy=False)


def _stored(dataset: Any, path: Path | str, indexes: Sequence[int], window: Window | None) -> np.ndarray:
    if any(dataset.dtypes[index - 1].startswith("complex") for index in indexes):
        raise UserError(f"{path} holds complex numbers; convert it to sigma nought in dB first")
    try:
        values: np.ndarray = dataset.read(list(indexes), window=window)
    except RasterioError as error:
        raise unreadable(path, error) from error
    return values


def _alpha(dataset: Any, positions: Sequence[int]) -> int | None:
    """Return the position of the alpha band, if there is one.

    GDAL declares the fourth band of any 8-bit file alpha. So a band that is itself read, or described as a band of a
    sensor, is none.
    """
    for index, meaning in enumerate(dataset.colorinterp, start=1):
        if (
            meaning == ColorInterp.alpha
            and index not in positions
            and not band_named_in(dataset.descriptions[index - 1])
        ):
            return index
    return None


def _equal(values: np.ndarray, number: float) -> np.ndarray:
    """Return where stored values are a nodata value, which is rounded as the values are."""
    with np.errstate(over="ignore"):
        same: np.ndarray = values == (values.dtype.type(number) if values.dtype.kind == "f" else number)
    return same


def _refuse_absent(dataset: Any, path: Path | str, positions: Sequence[int]) -> None:
    if max(positions) > dataset.count:
        raise UserError(f"{path} has {dataset.count} bands, band number {max(positions)} is not in it")


def _indexes(dataset: Any, path: Path | str, requested: Sequence[str], layout: str | None) -> list[int]:
    """Find each requested band in an open dataset."""
    requests = [split_request(item) for item in requested]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    if all(index is not None for _, index in requests):
        order: tuple[str | None, ...] = ()
    elif layout is None and dataset.count == 1 and not any(map(band_named_in, dataset.descriptions)):
        codes = _BAND_CODE.findall(PurePosixPath(str(path)).stem)
        order = (band(codes[-1]).name,) if codes else order_in(dataset, path)
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
    refuse_palette(path, dataset, range(1, dataset.count + 1))
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
        shown = without_secrets(str(path))
        logger.warning("%s: its red, green and blue are taken to be %s", shown, ", ".join(LAYOUTS["eurosat-rgb"]))
        return (*LAYOUTS["eurosat-rgb"], *(None for _ in range(dataset.count - 3)))
    if dataset.count not in USUAL_LAYOUTS:
        raise UserError(
            f"{path} has {dataset.count} bands without names; only files of 13, 12 or 2 bands have a usual order, "
            f"so pass {_BY_POSITION}"
        )
    usual = USUAL_LAYOUTS[dataset.count]
    logger.warning(
        "%s has no band names: its %d bands are taken to be %s; if they are not, pass %s",
        without_secrets(str(path)),
        dataset.count,
        ", ".join(LAYOUTS[usual]),
        _BY_POSITION,
    )
    return LAYOUTS[usual]
