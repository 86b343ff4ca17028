"""Which file of a scene holds which band: one file with all, one file a band, or a folder of those.

A band is found by the files' own band descriptions; in a file of a single band without a description, by the file's
name (``B2.tif``, ``..._B02.tif``, ``T32TQM_20200101T101010_B02_10m.jp2``: the last part that is a band); in other
files by the order that a file of its kind usually has (:mod:`eo_backbones.datasets.raster`). ``B04=2`` is the second
band of the file, counted on through the files where there are several.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from eo_backbones.bands import band, band_names
from eo_backbones.datasets.raster import order_in, split_request
from eo_backbones.errors import UserError

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")


@dataclass(frozen=True, slots=True)
class BandFile:
    """A band: its canonical name, the file, and its 1-based place in it."""

    name: str
    path: str
    index: int


def is_remote(path: str) -> bool:
    """Return whether a path is read by GDAL from elsewhere (``https://``, ``s3://``, ``/vsizip/``...)."""
    return "://" in path or path.startswith("/vsi")


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """Open anything that GDAL opens, for reading.

    Raises:
        UserError: it is not there, or no raster.
    """
    if not is_remote(path) and not Path(path).is_file():
        raise UserError(f"no file {path}; check the path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # told to the user in our words
        try:
            dataset = rasterio.open(path)
        except RasterioError as error:
            raise unreadable(path, error) from error
    with dataset:
        yield dataset


def unreadable(path: str, error: Exception) -> UserError:
    """Return the error for a raster that GDAL cannot read."""
    reason = str(error.__cause__ or error).splitlines()[0]
    return UserError(f"cannot read {path}: it is truncated, out of reach or no raster image ({reason})")


def find_bands(paths: Sequence[str], requested: Sequence[str]) -> tuple[BandFile, ...]:
    """Return where each requested band is.

    Args:
        paths: files of one scene, anything that GDAL opens, or folders of such files.
        requested: band names under any alias, each with an optional place (``"B04=4"``).

    Raises:
        UserError: a file is missing or no raster; a band is unknown, in no file, or in more than one.
    """
    if not requested:
        raise UserError("no band is named; pass --bands, such as --bands B04 B03 B02")
    requests = [split_request(item) for item in requested]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    by_place: list[tuple[str, int]] = []
    by_name: dict[str, BandFile] = {}
    need_names = any(place is None for _, place in requests)
    for path in _files(paths):
        with opened(path) as dataset:
            by_place += [(path, index) for index in range(1, dataset.count + 1)]
            for index, name in enumerate(_names(dataset, path) if need_names else (), start=1):
                if name is None:
                    continue
                if name in by_name and (name, None) in requests:
                    raise UserError(
                        f"band {name} is in {by_name[name].path} and in {path}; pass the files of one scene and date"
                    )
                by_name.setdefault(name, BandFile(name, path, index))
    return tuple(_found(name, place, by_name, by_place, paths) for name, place in requests)


def _found(
    name: str,
    place: int | None,
    by_name: dict[str, BandFile],
    by_place: list[tuple[str, int]],
    paths: Sequence[str],
) -> BandFile:
    shown = paths[0] if len(paths) == 1 else f"the {len(paths)} files"
    if place is not None:
        if place > len(by_place):
            raise UserError(f"{shown}: {len(by_place)} bands in all, so {name}={place} is not among them")
        return BandFile(name, *by_place[place - 1])
    if name not in by_name:
        present = ", ".join(by_name) or "no band whose name can be told"
        raise UserError(f"{shown}: no band {name}; found {present}. A band's place helps, e.g. {name}=1")
    return by_name[name]


def _files(paths: Sequence[str]) -> list[str]:
    """Return the files, with those of a folder in its place."""
    files: list[str] = []
    for path in paths:
        if is_remote(path) or not Path(path).is_dir():
            files.append(path)
            continue
        own = sorted(str(entry) for entry in Path(path).iterdir() if entry.suffix.lower() in RASTER_SUFFIXES)
        if not own:
            raise UserError(f"folder {path} holds no raster file ({', '.join(RASTER_SUFFIXES)}); pass the files")
        files += own
    return files


def _names(dataset: Any, path: str) -> tuple[str | None, ...]:
    """Return the band at each place of a file, ``None`` where it cannot be told."""
    if dataset.count > 1 or any(_band_of(text) for text in dataset.descriptions):
        return order_in(dataset, path)
    parts = re.split(r"[_\-. ]", PurePosixPath(path).stem)
    return (next((name for part in reversed(parts) if (name := _band_of(part))), None),)


def _band_of(text: str | None) -> str | None:
    """Return the band that a text names, or ``None``."""
    try:
        return band(text).name if text else None
    except UserError:
        return None
