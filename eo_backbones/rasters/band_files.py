"""Which file of a scene holds which band: one file with all bands, one file per band, or a folder of those.

A band is found by the files' own band descriptions; in a file of a single band without a description, by the file's
name (``B2.tif``, ``..._B02.tif``, ``T32TQM_20200101T101010_B02_10m.jp2``: the last part that names a band); in other
files by the order that a file of its kind usually has (:mod:`eo_backbones.rasters.reader`). ``B04=2`` is the second
band of the file; where there are several files, the count goes on from one to the next.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from eo_backbones.bands import band_named_in, band_names
from eo_backbones.errors import UserError
from eo_backbones.rasters.reader import is_gdal_name, opened, order_in, split_request

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")


@dataclass(frozen=True, slots=True)
class BandFile:
    """A band: its canonical name, the file, and its 1-based index in it."""

    name: str
    path: str
    index: int


def find_bands(paths: Sequence[str], requested: Sequence[str]) -> tuple[BandFile, ...]:
    """Return where each requested band is.

    Args:
        paths: files of one scene, anything that GDAL opens, or folders of such files.
        requested: band names under any alias, each with an optional position (``"B04=4"``).

    Raises:
        UserError: a file is missing or not a raster; a band is unknown, in none of the files, or in more than one.
    """
    if not requested:
        raise UserError("no band is named; pass --bands, such as --bands B04 B03 B02")
    requests = [split_request(item) for item in requested]
    band_names(name for name, _ in requests)  # refuses a band that is named twice
    by_position: list[tuple[str, int]] = []
    by_name: dict[str, BandFile] = {}
    need_names = any(position is None for _, position in requests)
    for path in _files(paths):
        with opened(path) as dataset:
            by_position += [(path, index) for index in range(1, dataset.count + 1)]
            for index, name in enumerate(_names(dataset, path) if need_names else (), start=1):
                if name is None:
                    continue
                if name in by_name and (name, None) in requests:
                    raise UserError(
                        f"band {name} is in {by_name[name].path} and in {path}; pass the files of one scene and date"
                    )
                by_name.setdefault(name, BandFile(name, path, index))
    return tuple(_found(name, position, by_name, by_position, paths) for name, position in requests)


def _found(
    name: str,
    position: int | None,
    by_name: dict[str, BandFile],
    by_position: list[tuple[str, int]],
    paths: Sequence[str],
) -> BandFile:
    shown = paths[0] if len(paths) == 1 else f"the {len(paths)} files"
    if position is not None:
        if position > len(by_position):
            raise UserError(f"{shown}: {len(by_position)} bands in all, so {name}={position} is not among them")
        return BandFile(name, *by_position[position - 1])
    if name not in by_name:
        present = ", ".join(by_name) or "no band with a recognisable name"
        raise UserError(
            f"{shown}: no band {name}; found {present}. Give the position of the band instead, e.g. {name}=1"
        )
    return by_name[name]


def _files(paths: Sequence[str]) -> list[str]:
    """Return the files, with those of a folder in its place."""
    files: list[str] = []
    for path in paths:
        if is_gdal_name(path) or not Path(path).is_dir():
            files.append(path)
            continue
        rasters = sorted(str(entry) for entry in Path(path).iterdir() if entry.suffix.lower() in RASTER_SUFFIXES)
        if not rasters:
            raise UserError(f"folder {path} holds no raster file ({', '.join(RASTER_SUFFIXES)}); pass the files")
        files += rasters
    return files


def _names(dataset: Any, path: str) -> tuple[str | None, ...]:
    """Return the band at each position of a file, ``None`` where it is unknown."""
    if dataset.count > 1 or any(band_named_in(text) for text in dataset.descriptions):
        return order_in(dataset, path)
    parts = re.split(r"[_\-. ]", PurePosixPath(path).stem)
    return (next((name for part in reversed(parts) if (name := band_named_in(part))), None),)
